"""What one must know of a generator to draw from it, whatever file it is in."""

import dataclasses

from stugan_tf.errors import InputError

MAX_CLASSES = 2**20


@dataclasses.dataclass(frozen=True)
class Interface:
    """Latents, or latents and labels, to images.

    Attributes:
        latent_dim: length of a latent vector.
        image_shape: (H, W, C).
        num_classes: labels are integers below it.
        conditional: whether the generator takes labels.
        class_names: one each, or None.
    """

    latent_dim: int
    image_shape: tuple
    num_classes: int
    conditional: bool
    class_names: tuple | None = None

    @classmethod
    def of_gan(cls, gan, source):
        """Of the generator of a `GAN` that is trained on a data source."""
        names = source.class_names
        return cls(
            gan.latent_dim,
            tuple(int(size) for size in source.image_shape),
            int(gan.num_classes),
            bool(gan.conditional),
            None if names is None else tuple(map(str, names)),
        )

    def names(self):
        """The classes by name."""
        return self.class_names or [f"class {number}" for number in range(self.num_classes)]

    def numbered_names(self):
        """The classes by number, and by name where that says more: "3 cat", or "3"."""
        numbers = [str(number) for number in range(self.num_classes)]
        return [
            number if name == number else f"{number} {name}"
            for number, name in zip(numbers, self.class_names or numbers, strict=True)
        ]

    def to_json(self):
        """A dictionary that JSON can hold."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, values):
        """Of such a dictionary, which may be anything.

        Raises:
            InputError: if it is not one that `to_json` makes.
        """
        names = {field.name for field in dataclasses.fields(cls)}
        if not isinstance(values, dict) or values.keys() != names:
            raise InputError("The description of the generator is damaged. Export it anew.")
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
            raise InputError("The description of the generator is damaged. Export it anew.")
        return cls(
            values["latent_dim"],
            tuple(shape),
            values["num_classes"],
            values["conditional"],
            None if labels is None else tuple(labels),
        )
