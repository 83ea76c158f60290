"""Named sources of images; see `Source`."""

from stugan_tf.data.arrays import arrays
from stugan_tf.data.digits import digits
from stugan_tf.data.image_folder import image_folder
from stugan_tf.data.inspection import Inspection
from stugan_tf.data.own_images import own_images
from stugan_tf.data.source import Source, data
from stugan_tf.data.tfds_images import cifar10, imagenet2012, tfds_images
from stugan_tf.data.tfrecords import tfrecords

__all__ = [
    "Inspection",
    "Source",
    "arrays",
    "cifar10",
    "data",
    "digits",
    "image_folder",
    "imagenet2012",
    "own_images",
    "tfds_images",
    "tfrecords",
]
