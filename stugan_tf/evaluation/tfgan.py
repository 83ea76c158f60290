"""TF-GAN on a TensorFlow without `tf.estimator`: `from stugan_tf.evaluation.tfgan import tfgan`.

TF-GAN 2.1.0 uses `tf.estimator` while it is imported, but not in the functions used here. So
stand-ins replace `tf.estimator` during the import.
"""

import contextlib
import logging
import sys
import types
import warnings
from collections.abc import Iterator

import tensorflow as tf


@contextlib.contextmanager
def _estimator_stand_ins() -> Iterator[None]:
    package = types.ModuleType("tensorflow_gan.python.estimator")
    package.__all__ = []  # type: ignore[attr-defined]
    sys.modules[package.__name__] = package
    tf.estimator = types.SimpleNamespace(SessionRunHook=object)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # distutils and pkg_resources are deprecated
            yield
    finally:
        del tf.estimator
        del sys.modules[package.__name__]


@contextlib.contextmanager
def deprecations_unsaid() -> Iterator[None]:
    """Silences TensorFlow's warnings: users cannot mend TF-GAN's calls of deprecated functions."""
    logger = tf.get_logger()
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


with _estimator_stand_ins():
    try:
        import tensorflow_gan as tfgan
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"TF-GAN cannot be imported: {error}. Install it with `pip install "
            "'stugan_tf[evaluation]'`.",
            name=error.name,
        ) from error

__all__ = ["deprecations_unsaid", "tfgan"]
