"""scikit-learn's 1797 handwritten digits: real data in the package, no download."""

import gin
import numpy as np
import tensorflow as tf

from stugan_tf.data.decoding import check_image_size, square
from stugan_tf.data.source import Source, check_settings


@gin.configurable
def digits(image_size: int = 8, flip: bool = False) -> "Digits":
    """scikit-learn's 1797 grey digits of 10 classes, 8 x 8 pixels each.

    Args:
        image_size: height and width in pixels that the digits are resized to.
        flip: as in `Source`.

    Raises:
        InputError: if an argument cannot work.
    """
    return Digits(image_size, flip)


class Digits(Source):
    """See `digits`."""

    name = "digits"
    num_images = 1797
    num_classes = 10
    class_names = tuple("0123456789")

    def __init__(self, image_size: int, flip: bool) -> None:
        from sklearn.datasets import load_digits

        check_image_size(image_size)
        check_settings(flip)
        self.image_shape = (image_size, image_size, 1)
        self.flip = flip
        digits = load_digits()
        self._images = np.round(digits.images * (255 / 16)).astype(np.uint8)[..., None]
        self._labels = digits.target

    def load(self, record: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Picks digit number `record`."""
        image = square(tf.gather(self._images, record), self.image_shape[0])
        return image, tf.gather(self._labels, record)
