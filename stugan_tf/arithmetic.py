"""TF32: whether products and convolutions of float32 may drop bits on a GPU.

Nvidia's GPUs since Ampere multiply float32 numbers faster if each factor is rounded to 10 bits
after the point, and TensorFlow lets them unless it is told not to. The setting holds for
the whole process. Usual kernels ask for it whenever they run. XLA writes it into a program when it
compiles it (`operand_precision={highest,highest}` where TF32 is forbidden), and finds compiled
programs by the name of the function alone. So a function that runs under both choices needs one
`tf.function` for each.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import TypeVar

import tensorflow as tf

T = TypeVar("T")


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


def by_tensor_float_32(make: Callable[[], T]) -> Callable[[], T]:
    """Makes an object for each choice of TF32, such as a `tf.function` that XLA compiles.

    Args:
        make: called once where TF32 is allowed and once where it is not, each when needed.

    Returns:
        A function without arguments that returns the object for the present choice.
    """
    made: dict[bool, T] = {}

    def chosen() -> T:
        allowed = uses_tensor_float_32()
        if allowed not in made:
            made[allowed] = make()
        return made[allowed]

    return chosen
