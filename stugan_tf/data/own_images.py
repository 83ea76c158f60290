"""A folder of a person's own images: read directly, or through shards if its files are large.

`survey` looks at such a folder before a configuration is chosen for it.
"""

import dataclasses
import hashlib
import os
import pathlib
from collections.abc import Sequence

import gin
import numpy as np
import tensorflow as tf
from PIL import Image

from stugan_tf.checks import check_at_least_zero, check_bool
from stugan_tf.cores import num_cores
from stugan_tf.data.decoding import (
    IMAGE_FORMATS,
    PILLOW_ERRORS,
    check_channels,
    check_image_size,
)
from stugan_tf.data.image_folder import ImageFolder
from stugan_tf.data.listing import Listing, list_images
from stugan_tf.data.order import FileRange
from stugan_tf.data.paths import matching
from stugan_tf.data.sharding import Encoding, Sharding
from stugan_tf.data.source import Source, check_settings
from stugan_tf.data.tfrecords import TFRecords, count_records
from stugan_tf.errors import InputError
from stugan_tf.files import cache_folder, expanded, local_path
from stugan_tf.progress import ProgressBar
from stugan_tf.telling import say

NUM_MEASURED = 512  # images whose size is read for a survey
GREY_MODES = ("1", "L", "LA", "I;16", "I;16B", "I;16L", "I;16N")  # of Pillow


@gin.configurable
def own_images(
    path: str | os.PathLike[str] = gin.REQUIRED,
    image_size: int = gin.REQUIRED,
    channels: int = 3,
    exif_orientation: bool = True,
    flip: bool = False,
    cache_gib: float = 2.0,
    shards_from_gib: float | None = 1.0,
    shards_dir: str | os.PathLike[str] | None = None,
) -> Source:
    """Photos and other images of any sizes in `path`/CLASS/**, or of one class in `path` itself.

    Files of many gigabytes take long to decode, and that at each start. So they are written once as
    shards of small squares, without a loss. The shards are used again as long as the folder has the
    same files with the same sizes in bytes. Classes and what is left out are as for `image_folder`.

    Args:
        path: a folder, local or of a file system that TensorFlow reads, such as gs://.
        image_size: height and width in pixels; images are cropped to a square and resized.
        channels: 1 or 3, to which grey and colour images are converted.
        exif_orientation: whether images are turned as their EXIF data say.
        flip: as in `Source`.
        cache_gib: as in `Source`.
        shards_from_gib: from so many GiB of files on, the images are read from shards; so are
            images at an address. None always reads the files themselves.
        shards_dir: local folder for the shards, by default `stugan_tf/shards` in the user's cache.

    Raises:
        InputError: if `path` is not a folder of images, or another argument cannot work.
    """
    check_image_size(image_size)
    check_channels(channels)
    check_bool("`exif_orientation`", exif_orientation)
    check_settings(flip, cache_gib)
    if shards_from_gib is not None:
        check_at_least_zero("`shards_from_gib`", shards_from_gib)
    folder = _real(path)
    listing = list_images(folder)
    if shards_from_gib is None or not _has_bytes(listing.paths, shards_from_gib * 2**30):
        source = ImageFolder(
            folder, image_size, channels, flip, cache_gib, exif_orientation, listing=listing
        )
        source.name = f"own_images {path}"
        return source
    shards = Shards(
        folder,
        listing,
        Encoding(image_size, channels, "png", exif_orientation=exif_orientation),
        cache_folder() / "shards" if shards_dir is None else local_path(shards_dir, "`shards_dir`"),
    )
    return TFRecords(
        name=f"own_images {path}",
        find_shards=shards.written,
        image_size=None,
        image_shape=(image_size, image_size, channels),
        channels=channels,
        num_classes=len(listing.class_names or [folder]),
        image_feature="image/encoded",
        label_feature="image/class/label" if listing.class_names else None,
        class_names=listing.class_names,
        flip=flip,
        cache_gib=cache_gib,
        block_size=8192,
        remarks=(*listing.remarks, f"The images are read from shards in {shards.output}."),
    )


def _real(path: str | os.PathLike[str]) -> str:
    """A local folder without links on the way; an address as it is."""
    folder = expanded(path, "`path`")
    return os.path.realpath(folder) if os.path.isdir(folder) else folder.rstrip("/")


def _has_bytes(paths: Sequence[str], least: float) -> bool:
    """Whether files have so many bytes together. Images at an address count as many."""
    total = 0
    for path in paths:
        if "://" in path:
            return True
        try:
            total += os.path.getsize(path)
        except OSError:  # It is named when it is read.
            continue
        if total >= least:
            return True
    return total >= least


class Shards:
    """The shards of a folder, written when they are first needed.

    Attributes:
        output: the folder of the shards. Its name is made of the folder, the names of its images
            and the encoding: other images have other shards.
    """

    def __init__(
        self, folder: str, listing: Listing, encoding: Encoding, root: pathlib.Path
    ) -> None:
        digest = hashlib.sha256(f"{folder}\0{dataclasses.astuple(encoding)}".encode())
        for path in listing.paths:
            digest.update(path.encode() + b"\0")
        name = os.path.basename(folder)[:50]
        self.output = root / f"{name}-{encoding.image_size}-{digest.hexdigest()[:16]}"
        self._folder, self._listing, self._encoding = folder, listing, encoding

    def written(self) -> list[FileRange]:
        """Writes the shards that are missing; the ranges are those of `count_records`.

        Raises:
            InputError: if images cannot be decoded; the message names them.
        """
        sharding = Sharding(self._folder, self.output, self._encoding, listing=self._listing)
        with ProgressBar(sharding.num_images, "image", "sharding") as progress:
            sharding.run(
                workers=min(num_cores(), sharding.num_shards),
                on_shard=lambda shard: progress.advance(shard.num_images + len(shard.corrupt)),
                wait=say,
                advice="Repair or remove them; the shards that are finished are kept.",
            )
        return count_records(matching(sharding.pattern))


@dataclasses.dataclass(frozen=True)
class Survey:
    """What a configuration for a folder of images depends on.

    Attributes:
        folder: the folder, without links on the way.
        num_images: number of images.
        class_names: names of the classes, or None without sub-folders.
        smallest_class: number of images of the smallest class.
        side: pixels that the shorter sides of nine of ten images have at least.
        channels: 1 if all images are grey, else 3.
        sides: int [num_measured], ascending: pixels of the shorter sides of the images whose size
            was read, spread evenly over the folder.
        smallest: path of the smallest of them.
    """

    folder: str
    num_images: int
    class_names: tuple[str, ...] | None
    smallest_class: int
    side: int
    channels: int
    sides: np.ndarray
    smallest: str

    @property
    def num_measured(self) -> int:
        """Number of images whose size was read."""
        return len(self.sides)

    @property
    def num_classes(self) -> int:
        """Number of classes; 1 without sub-folders."""
        return len(self.class_names or [self.folder])


def survey(path: str | os.PathLike[str]) -> Survey:
    """Looks at a folder of images. It reads the beginnings of some files, and makes no tensor.

    Raises:
        InputError: if `path` is not a folder of images, or no image of it can be read.
    """
    folder = _real(path)
    listing = list_images(folder)
    places = np.unique(np.linspace(0, len(listing.paths) - 1, NUM_MEASURED).astype(int))
    measured = []
    for place in places:
        found = _measured(listing.paths[place])
        if found is not None:  # What is damaged is named when it is read.
            measured.append((*found, listing.paths[place]))
    if not measured:
        raise InputError(
            f"{path} holds {len(listing.paths):,} files that should be images, but none of the "
            f"{len(places)} that were looked at can be read, such as {listing.paths[0]}."
        )
    measured.sort(key=lambda one: one[0])
    sides = np.array([side for side, _, _ in measured])
    return Survey(
        folder=folder,
        num_images=len(listing.paths),
        class_names=listing.class_names,
        smallest_class=int(np.bincount(listing.labels).min()),
        side=int(sides[len(sides) // 10]),
        channels=1 if all(is_grey for _, is_grey, _ in measured) else 3,
        sides=sides,
        smallest=measured[0][2],
    )


def _measured(path: str) -> tuple[int, bool] | None:
    """(pixels of the shorter side, whether it is grey) of an image; None if it cannot be read."""
    try:
        with (
            tf.io.gfile.GFile(path, "rb") as file,
            Image.open(file, formats=IMAGE_FORMATS) as image,
        ):
            return min(image.size), image.mode in GREY_MODES
    except (*PILLOW_ERRORS, tf.errors.OpError):
        return None
