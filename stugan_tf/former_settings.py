"""Settings that were removed, but are still in the `config.gin` of former runs."""

from typing import Any

from stugan_tf.errors import InputError

_MASK_DENSE = (False, "write `GAN.mask_dense = {value!r}`, which is for both networks")
# {parameter: (the value that did nothing, what to write for another one)}
_GONE = {
    "Algorithm.length": (
        1,
        "write `train.algorithm = @longer` and `longer.factor = {value!r}`, or use "
        "methods/itop.gin",
    ),
    "biggan_discriminator.mask_dense": _MASK_DENSE,
    "biggan_generator.mask_dense": _MASK_DENSE,
    "sngan_discriminator.mask_dense": _MASK_DENSE,
    "sngan_generator.mask_dense": _MASK_DENSE,
    "sparsify.mask_dense": _MASK_DENSE,
}


def does_nothing(parameter: str, value: Any) -> bool:
    """Whether a binding sets a removed parameter to the value that had no effect.

    Raises:
        InputError: if it sets a removed parameter to another value.
    """
    if parameter not in _GONE:
        return False
    nothing, advice = _GONE[parameter]
    if value != nothing:
        raise InputError(f"{parameter} was removed: {advice.format(value=value)}.")
    return True


def is_of_nothing(line: str) -> bool:
    """Whether a line of a `config.gin` is a binding that has no effect any more."""
    return line in {f"{parameter} = {nothing!r}" for parameter, (nothing, _) in _GONE.items()}
