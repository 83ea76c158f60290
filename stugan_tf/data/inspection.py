"""What a source holds, as one object and as a few lines for people."""

import dataclasses
import hashlib
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

NUM_LOOKED_AT = 256  # images, for remarks on pixels
LOW_CONTRAST = 32  # of 255: values that lie closer together deserve a remark


@dataclasses.dataclass(frozen=True)
class Inspection:
    """The preflight of a source; `str()` shows it in a few lines.

    Attributes:
        source: name of the source.
        num_images: number of images.
        image_shape: (height, width, channels).
        class_names: a name for each class.
        class_counts: number of images of each class, among those that were read.
        num_read: number of images read: all of a set in memory, an even sample of a streamed one.
        fingerprint: sixteen hexadecimal digits, see `fingerprint`.
        named: whether the classes have names; if not, `class_names` are their numbers.
        remarks: sentences about what a person should look at: files that were left out, images
            that are nearly black.
    """

    source: str
    num_images: int
    image_shape: tuple[int, int, int]
    class_names: tuple[str, ...]
    class_counts: tuple[int, ...]
    num_read: int
    fingerprint: str
    named: bool = True
    remarks: tuple[str, ...] = ()

    @classmethod
    def from_record(cls, values: object) -> "Inspection | None":
        """Reads an inspection back from JSON.

        Args:
            values: what `dataclasses.asdict` made of an inspection. In records older than `named`,
                classes count as named if their names are more than numbers.

        Returns:
            The `Inspection`; None if the record is incomplete.
        """
        fields = {field.name for field in dataclasses.fields(cls)}
        if not isinstance(values, dict) or not fields - {"named", "remarks"} <= values.keys():
            return None
        known: dict[str, Any] = {
            name: tuple(values[name]) if isinstance(values[name], list) else values[name]
            for name in fields & values.keys()
        }
        names = known["class_names"]
        known.setdefault("named", names != tuple(map(str, range(len(names)))))
        return cls(**known)

    def __str__(self) -> str:
        height, width, channels = self.image_shape
        counts = [
            f"  {self._label(number):<20} {count}" for number, count in enumerate(self.class_counts)
        ]
        if len(counts) > 20:
            counts[10:-10] = [f"  ... {len(counts) - 20} more classes"]
        return "\n".join(
            [
                f"source       {self.source}",
                f"images       {self.num_images} of {height} x {width} x {channels}",
                f"fingerprint  {self.fingerprint}",
                f"classes      {len(self.class_names)}, counted over {self.num_read} images",
                *counts,
                *(f"note         {remark}" for remark in self.remarks),
            ]
        )

    def _label(self, number: int) -> str:
        """The number of a class, and its name."""
        if not self.named:
            return str(number)
        name = self.class_names[number]
        return f"{number} {name if name.isprintable() else repr(name)}"


def remarks_on_classes(counts: Sequence[int] | np.ndarray) -> tuple[str, ...]:
    """A sentence about classes without images, as a wrong offset of labels makes them.

    Args:
        counts: number of images of each class, by number.
    """
    empty = [str(number) for number, count in enumerate(counts) if not count]
    if not empty:
        return ()
    shown = ", ".join(empty[:10]) + (", ..." if len(empty) > 10 else "")
    return (f"{len(empty):,} of {len(counts):,} classes have no image: number {shown}.",)


def remarks_on_pixels(images: Sequence[np.ndarray]) -> tuple[str, ...]:
    """Sentences about images that are probably wrong.

    Args:
        images: uint8, each [H, W, C]; an even part of them is looked at.

    Returns:
        A sentence if nearly all values lie close together, as if data of more than 8 bits were read
        wrongly, and one if all images are equal.
    """
    some = images[:: max(1, len(images) // NUM_LOOKED_AT)]
    counts = sum(np.bincount(np.ravel(image), minlength=256) for image in some)
    reached = np.cumsum(counts) / np.sum(counts)
    low, high = (int(np.searchsorted(reached, part)) for part in (0.001, 0.999))
    found = []
    if high - low < LOW_CONTRAST:
        where = "nearly black" if high < LOW_CONTRAST else "without contrast"
        found.append(
            f"The images are {where}: 99.8 % of their values lie in {low} .. {high} of 0 .. 255. "
            "Only the upper 8 of 16 bits are read: scale the values before you store them."
        )
    if len(some) > 1 and all(np.array_equal(image, some[0]) for image in some[1:]):
        found.append(f"The {len(some):,} images that were compared are all equal.")
    return tuple(found)


def fingerprint(
    num_images: int,
    images: Iterable[np.ndarray],
    labels: npt.ArrayLike,
    layout: npt.ArrayLike,
) -> str:
    """Hashes the content of a data set, whatever its name, path or cache.

    Args:
        num_images: how many images the set has.
        images: the images that were read, uint8 [..., H, W, C].
        labels: their classes, int32 [n].
        layout: int64 [...], sizes of files, for the images that were not read; may be empty.

    Returns:
        Sixteen hexadecimal digits.
    """
    digest = hashlib.sha256(np.int64(num_images).tobytes())
    for image in images:
        digest.update(np.ascontiguousarray(image).data)
    digest.update(np.asarray(labels, "<i4").tobytes())
    digest.update(np.asarray(layout, "<i8").tobytes())
    return digest.hexdigest()[:16]
