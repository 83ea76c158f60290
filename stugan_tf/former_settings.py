"""Settings and modules that only former gin files name, and settings that they lack."""

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
# {parameter: the value with which runs do what they did before it existed}
_NEW = {"image_folder.exif_orientation": False, "train.tensor_float_32": True}
# {former name of a module that gin files import: its name}
MOVED = {"pipelines.settings": "stugan_tf.pipelines.settings"}


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


def changes_nothing(line: str) -> bool:
    """Whether a run whose `config.gin` lacks this line, former or new, does the same."""
    gone = {parameter: nothing for parameter, (nothing, _) in _GONE.items()}
    return line in {f"{parameter} = {value!r}" for parameter, value in (gone | _NEW).items()}
