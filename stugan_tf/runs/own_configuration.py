"""The configuration for a folder of a person's own images: `stugan train --data=photos/`.

A base file is chosen by the size and the number of the images and by their classes, unless a gin
file of the user's own says what the generator is.
"""

import dataclasses
import os
from collections.abc import Sequence

from gin.config_parser import BindingStatement

from stugan_tf import config
from stugan_tf.data.decoding import check_image_size
from stugan_tf.data.own_images import Survey, survey
from stugan_tf.errors import InputError

# Sizes of the base files in gin/images, and the number of images that each is meant for.
SIZES = {32: 0, 64: 0, 128: 10_000}
MIN_SIDE = 16  # pixels; what has fewer is not enlarged without being asked for
MIN_IMAGES = 10
FEW_IMAGES = 2_000  # Below, FID over 1,280 features means little.
FEW_FILE = "images/few_images.gin"
MIN_PER_CLASS = 20  # images, on average, for a network that learns classes apart


@dataclasses.dataclass(frozen=True)
class OwnConfiguration:
    """What to parse for a folder of images.

    Attributes:
        files: gin files, the chosen ones before those of the user.
        bindings: gin bindings, those of the data before those of the user.
        about: sentences about the images and what was chosen for them.
    """

    files: tuple[str, ...]
    bindings: tuple[str, ...]
    about: tuple[str, ...]

    def __str__(self) -> str:
        return "\n".join(self.about)


def own_configuration(
    path: str, gin_files: Sequence[str] = (), gin_params: Sequence[str] = ()
) -> OwnConfiguration:
    """Chooses a configuration for the images of a folder.

    Args:
        path: the folder.
        gin_files: gin files of the user. If one says what `GAN.generator` is, no base file is
            chosen, and these files are used with the images of the folder.
        gin_params: bindings of the user, which override everything.

    Raises:
        InputError: if the folder or its images cannot be trained on.
    """
    for name in ("data.source", "own_images.path"):
        if name in _bound((), gin_params):
            raise InputError(f"--data and --gin_param={name} both choose images. Leave one out.")
    bound = _bound(gin_files, gin_params)
    found = survey(path)
    _check_number(path, found)
    asked = bound.get("own_images.image_size")
    if asked is not None and type(asked) is not int:  # A macro.
        config.parse_gin(gin_files, gin_params)
        asked = config.value_of("own_images.image_size")
    if asked is not None:
        check_image_size(asked)
    size = asked or _size(path, found)
    chosen, about = [], [_described(path, found)]
    if "GAN.generator" not in bound:
        network, why = _network(found)
        chosen = [f"images/{network}_{_of_file(size)}.gin"]
        about.append(f"configuration: {chosen[0]}, because {why}, and {_about_size(found, size)}.")
        if found.num_images < FEW_IMAGES:
            chosen.append(FEW_FILE)
            about.append(f"With it {FEW_FILE}, for fewer than {FEW_IMAGES:,} images.")
        about.append("Your own --gin_file and --gin_param override it.")
    else:
        about.append(f"configuration: your own, at {size}x{size} pixels.")
        if found.num_images < FEW_IMAGES:
            about.append(
                f"For few images add --gin_file={FEW_FILE} after it: FID needs thousands of images."
            )
    smaller = int((found.sides < size).sum())
    if smaller:
        about.append(
            f"{smaller:,} of {found.num_measured:,} images that were looked at are smaller than "
            f"{size}x{size} pixels and are enlarged, such as {found.smallest}."
        )
    choices = {"own_images.image_size": size, "own_images.channels": found.channels}
    bindings = {
        "own_images.path": found.folder,
        **{name: value for name, value in choices.items() if name not in bound},
    }
    return OwnConfiguration(
        (*chosen, *gin_files),
        (
            "data.source = @own_images()",
            *(f"{name} = {value!r}" for name, value in bindings.items()),
            *gin_params,
        ),
        tuple(about),
    )


def _bound(files: Sequence[str], params: Sequence[str]) -> dict[str, object]:
    """{'name.parameter': the last value} of the statements in gin files and bindings."""
    return {
        f"{statement.selector.rpartition('.')[2]}.{statement.arg_name}": statement.value
        for statement, _ in config.written(files, params)
        if isinstance(statement, BindingStatement) and statement.arg_name
    }


def _check_number(path: str, found: Survey) -> None:
    if found.num_images < MIN_IMAGES:
        images = "1 image" if found.num_images == 1 else f"{found.num_images} images"
        raise InputError(
            f"--data={path} holds {images}, but a GAN learns from many: at least {MIN_IMAGES} are "
            "needed, and hundreds are a start."
        )


def _size(path: str, found: Survey) -> int:
    """The size of images for which a network is chosen."""
    if found.side < MIN_SIDE:
        smallest = min(SIZES)
        raise InputError(
            f"The images of --data={path} are smaller than the network: one of ten has "
            f"{found.side} pixels or fewer on its shorter side, such as {found.smallest}, and the "
            f"smallest network is for {smallest}x{smallest}. Bring larger images, or enlarge these "
            f"by --gin_param='own_images.image_size = {smallest}'."
        )
    fitting = [
        size for size, least in SIZES.items() if size <= found.side and found.num_images >= least
    ]
    return max(fitting, default=min(SIZES))


def _of_file(size: int) -> int:
    """The size in the name of the base file for images of a size that the user may have chosen."""
    return min((one for one in SIZES if one >= size), default=max(SIZES))


def _network(found: Survey) -> tuple[str, str]:
    """(the network in the name of the base file, why)."""
    if found.num_classes == 1:
        return "sngan", "the images are of one class"
    if found.num_images < MIN_PER_CLASS * found.num_classes:
        return "sngan", (
            f"{found.num_images:,} images are too few to learn {found.num_classes:,} classes apart"
        )
    return "biggan", f"there are {found.num_classes:,} classes"


def _about_size(found: Survey, size: int) -> str:
    larger = [one for one in SIZES if one <= found.side and found.num_images < SIZES[one]]
    text = f"nine of ten images have {found.side:,} pixels or more on their shorter side"
    if larger and size < max(larger):
        text += f", but {max(larger)}x{max(larger)} is for {SIZES[max(larger)]:,} images or more"
    return text


def _described(path: str, found: Survey) -> str:
    colours = "grey" if found.channels == 1 else "in colour"
    text = f"--data={os.fspath(path)}: {found.num_images:,} images, {colours}"
    if found.class_names is None:
        return f"{text}, without classes."
    shown = ", ".join(found.class_names[:8]) + (", ..." if found.num_classes > 8 else "")
    return (
        f"{text}, of {found.num_classes:,} classes ({shown}); the smallest has "
        f"{found.smallest_class:,}."
    )
