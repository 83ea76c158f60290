"""What a source holds, as one object and as a few lines for people."""

import dataclasses
import hashlib
from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt


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
    """

    source: str
    num_images: int
    image_shape: tuple[int, int, int]
    class_names: tuple[str, ...]
    class_counts: tuple[int, ...]
    num_read: int
    fingerprint: str
    named: bool = True

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
        if not isinstance(values, dict) or not fields - {"named"} <= values.keys():
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
            f"  {name:<20} {count}"
            for name, count in zip(self.class_names, self.class_counts, strict=True)
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
            ]
        )


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
