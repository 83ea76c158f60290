"""scikit-learn's 1797 handwritten digits: real data in the package, no download."""

import gin
import numpy as np
import tensorflow as tf

from stugan_tf.data.decoding import check_image_size, square
from stugan_tf.data.source import Source


@gin.configurable
def digits(image_size=8, flip=False):
    """8 x 8 grey digits of 10 classes, resized to `image_size`."""
    return Digits(image_size, flip)


class Digits(Source):
    """See `digits`."""

    name = "digits"
    num_images = 1797
    num_classes = 10
    class_names = tuple("0123456789")

    def __init__(self, image_size, flip):
        from sklearn.datasets import load_digits

        check_image_size(image_size)
        self.image_shape = (image_size, image_size, 1)
        self.flip = flip
        digits = load_digits()
        self._images = np.round(digits.images * (255 / 16)).astype(np.uint8)[..., None]
        self._labels = digits.target

    def load(self, record):
        """Picks digit number `record`."""
        image = square(tf.gather(self._images, record), self.image_shape[0])
        return image, tf.gather(self._labels, record)
