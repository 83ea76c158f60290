"""TF32: whether products and convolutions of float32 may drop bits on a GPU.

Nvidia's GPUs since Ampere multiply float32 numbers faster if each factor is rounded to 10 bits
after the point, and TensorFlow lets them unless it is told not to. The setting holds for
the whole process. A function that XLA has compiled may keep the choice made when it was compiled.
"""

import contextlib
from collections.abc import Iterator

import tensorflow as tf


@contextlib.contextmanager
def tensor_float_32(allowed: bool) -> Iterator[None]:
    """Allows TF32 inside, or forbids it. Afterwards the setting is as before."""
    former = uses_tensor_float_32()
    tf.config.experimental.enable_tensor_float_32_execution(allowed)
    try:
        yield
    finally:
        tf.config.experimental.enable_tensor_float_32_execution(former)


def uses_tensor_float_32() -> bool:
    """Whether TF32 is allowed now; it is used only where the hardware has it."""
    return tf.config.experimental.tensor_float_32_execution_enabled()
