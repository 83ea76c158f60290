"""Settings that are gone but stand in the `config.gin` of former runs."""

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


def does_nothing(parameter, value):
    """Whether a binding is of a parameter that is gone and asks for nothing.

    Raises:
        InputError: if the parameter is gone and the value asks for something.
    """
    if parameter not in _GONE:
        return False
    nothing, advice = _GONE[parameter]
    if value != nothing:
        raise InputError(f"{parameter} is gone: {advice.format(value=value)}.")
    return True


def is_of_nothing(line):
    """Whether a line of a `config.gin` is a binding that does nothing any more."""
    return line in {f"{parameter} = {nothing!r}" for parameter, (nothing, _) in _GONE.items()}
