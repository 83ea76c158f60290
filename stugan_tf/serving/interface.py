"""What a caller must know of a generator to draw from it, whatever its format."""

import dataclasses
import difflib
from collections.abc import Sequence
from typing import Any, Protocol

from stugan_tf.errors import InputError
from stugan_tf.signatures import ImageShape

MAX_CLASSES = 2**20


class TrainedGAN(Protocol):
    """The part of a `training.gan.GAN` that its interface needs."""

    @property
    def latent_dim(self) -> int:
        """Length of a latent vector."""

    @property
    def num_classes(self) -> int:
        """Labels are integers below it."""

    @property
    def conditional(self) -> bool:
        """Whether the generator takes labels."""


class Images(Protocol):
    """The part of a `data.Source` that an interface needs."""

    @property
    def image_shape(self) -> ImageShape:
        """(height, width, channels)."""

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """A name for each class, or None."""


@dataclasses.dataclass(frozen=True)
class Interface:
    """Inputs and outputs of a generator: latents, or latents and labels, to images.

    Attributes:
        latent_dim: length of a latent vector.
        image_shape: (H, W, C).
        num_classes: labels are integers below it.
        conditional: whether the generator takes labels.
        class_names: a name for each class, or None.
    """

    latent_dim: int
    image_shape: tuple[int, ...]
    num_classes: int
    conditional: bool
    class_names: tuple[str, ...] | None = None

    @classmethod
    def of_gan(cls, gan: TrainedGAN, source: Images) -> "Interface":
        """The interface of the generator of a GAN.

        Args:
            gan: a `training.gan.GAN`.
            source: the data that it is trained on.
        """
        names = source.class_names
        return cls(
            gan.latent_dim,
            tuple(int(size) for size in source.image_shape),
            int(gan.num_classes),
            bool(gan.conditional),
            None if names is None else tuple(map(str, names)),
        )

    def names(self) -> Sequence[str]:
        """A name for each class; without names, "class 0" and so on."""
        return self.class_names or [f"class {number}" for number in range(self.num_classes)]

    def numbered_names(self) -> list[str]:
        """The number of each class, and its name if it says more: "3 cat", or "3"."""
        numbers = [str(number) for number in range(self.num_classes)]
        return [
            number if name == number else f"{number} {name}"
            for number, name in zip(numbers, self.class_names or numbers, strict=True)
        ]

    def numbers_of(self, classes: Sequence[int | str], flag: str) -> list[int]:
        """The numbers of classes that are given by number or by name.

        Text that is all digits is a number, whatever the names are.

        Args:
            classes: numbers, or names, exactly as in `class_names`.
            flag: name of the flag or argument that gave them, for messages.

        Raises:
            InputError: if one of them is not a class of this generator.
        """
        return [self._number_of(given, flag) for given in classes]

    def _number_of(self, given: int | str, flag: str) -> int:
        names = list(self.class_names or ())
        if isinstance(given, str) and given in names and not given.isdecimal():
            return names.index(given)
        number = int(given) if isinstance(given, str) and given.isdecimal() else given
        if type(number) is int and 0 <= number < self.num_classes:
            return number
        near = difflib.get_close_matches(number, names, n=1) if isinstance(number, str) else []
        hint = f" Did you mean {near[0]}?" if near else ""
        listed = ", ".join(self.numbered_names())
        raise InputError(f"{flag}={given} is not one of the classes: {listed}.{hint}")

    def to_json(self) -> dict[str, Any]:
        """The interface as a dictionary that JSON can hold."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, values: object) -> "Interface":
        """Reads a dictionary that `to_json` made.

        Raises:
            InputError: if `values` is anything else.
        """
        names = {field.name for field in dataclasses.fields(cls)}
        if not isinstance(values, dict) or values.keys() != names:
            raise InputError("The description of the generator is damaged. Export it again.")
        shape, labels = values["image_shape"], values["class_names"]
        sizes = [values["latent_dim"], values["num_classes"]]
        is_right = (
            all(type(size) is int and 0 < size <= MAX_CLASSES for size in sizes)
            and isinstance(shape, (list, tuple))
            and len(shape) == 3
            and all(type(size) is int and 0 < size <= 2**14 for size in shape)
            and isinstance(values["conditional"], bool)
        )
        if is_right and labels is not None:
            is_right = (
                isinstance(labels, (list, tuple))
                and len(labels) == values["num_classes"]
                and all(isinstance(label, str) and len(label) <= 1000 for label in labels)
            )
        if not is_right:
            raise InputError("The description of the generator is damaged. Export it again.")
        return cls(
            values["latent_dim"],
            tuple(shape),
            values["num_classes"],
            values["conditional"],
            None if labels is None else tuple(labels),
        )
