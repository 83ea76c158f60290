"""What scores need of a set of images: the moments of its features, and some of the features.

The statistics of real images are kept between runs. The name of their file is made of what they
were computed from: the fingerprint of the data and the size of its images, the extractor's weights,
what it computes, the preprocessing, and the version of the code that runs it. What a file holds is
checked when it is opened. A damaged file is made again.
"""

import dataclasses
import hashlib
import io
import json
import os
import pathlib
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from stugan_tf.errors import InputError
from stugan_tf.evaluation.metrics import check_moments
from stugan_tf.evaluation.moments import Moments
from stugan_tf.files import cache_folder, local_path, write_atomically
from stugan_tf.progress import ProgressBar
from stugan_tf.telling import say

if TYPE_CHECKING:  # The table of metrics imports this, and must not import TensorFlow.
    from stugan_tf.data import Source
    from stugan_tf.evaluation.extraction import Extraction
    from stugan_tf.evaluation.extractors import Extractor

SECONDS = 60  # between savings of unfinished statistics
# Raise it when the code gives other features for the same images and extractor, or keeps others.
# Version 2 never uses TF32; workers of Beam did before.
VERSION = 2
STORED = 10_000  # least number of features in the cache; evaluators that need fewer share them


@dataclasses.dataclass
class Statistics:
    """Statistics of the features of one set of images.

    Attributes:
        protocol: dictionary that names the images.
        mean: float64 [D].
        covariance: float64 [D, D].
        features: features of some of the images in random order, float32 [n, D]; None if not known.
        num_images: number of images; None if not known.
    """

    protocol: dict[str, Any]
    mean: np.ndarray
    covariance: np.ndarray
    features: np.ndarray | None = None
    num_images: int | None = None


class Gathered(Protocol):
    """An object with the statistics of a set of images, such as a `Collector`."""

    def statistics(self, protocol: dict[str, Any]) -> Statistics:
        """The statistics of all images, under a protocol."""


class Collector:
    """Gathers the statistics of a known number of images as their features come in.

    It holds one covariance and the kept features, however many images there are.
    """

    def __init__(self, num_images: int, num_features: int, num_kept: int, seed: int = 0) -> None:
        """Starts without images.

        Args:
            num_images: number of images that will come.
            num_features: D, number of features of an image.
            num_kept: number of images, drawn at random, whose features are kept.
            seed: seed of that draw.
        """
        self._moments = Moments(num_features)
        num_kept = min(num_kept, num_images)
        self._kept = np.zeros([num_kept, num_features], np.float32)
        self._places = places_of_kept(num_images, num_kept, seed)

    @property
    def num_kept(self) -> int:
        """Number of images whose features are kept in the end."""
        return len(self._kept)

    @property
    def count(self) -> int:
        """Number of images seen so far."""
        return self._moments.count

    def update(self, features: np.ndarray) -> None:
        """Adds the features of the next images, float32 [B, D]."""
        places = self._places[self.count : self.count + len(features)]
        self._kept[places[places >= 0]] = features[places >= 0]
        self._moments.update(features)

    def statistics(self, protocol: dict[str, Any]) -> Statistics:
        """The statistics of all images.

        Args:
            protocol: dictionary that names the images.

        Raises:
            InputError: if some of the images have not come yet.
        """
        if self.count != len(self._places):
            raise InputError(f"Only {self.count} of {len(self._places)} images came.")
        return Statistics(
            protocol, self._moments.mean, self._moments.covariance, self._kept, self.count
        )

    def state(self) -> dict[str, np.ndarray]:
        """Arrays by name, from which `restore` goes on."""
        return {"kept": self._kept, **self._moments.state()}

    def restore(self, state: Mapping[str, np.ndarray]) -> None:
        """Goes back to a state.

        Raises:
            InputError: if it is not a state of a `Collector` of as many images and features. Then
                this one stays as it is.
        """
        kept = _array(state, "kept", self._kept.shape)
        moments = Moments.from_state(
            {
                "count": _array(state, "count", (), "iu"),
                "mean": _array(state, "mean", self._moments.mean.shape),
                "scatter": _array(state, "scatter", 2 * self._moments.mean.shape),
            }
        )
        if not 0 <= moments.count <= len(self._places):
            raise InputError(f"It has seen {moments.count} of {len(self._places)} images.")
        self._kept, self._moments = np.array(kept, np.float32), moments


def real_statistics(
    source: "Source",
    extraction: "Extraction",
    num_kept: int,
    cache_dir: str | os.PathLike[str] | None = None,
) -> Statistics:
    """Statistics of all images of a source, computed once and then read from the cache.

    A computation that was killed goes on where it was last saved.

    Args:
        source: the real images.
        extraction: computes the features.
        num_kept: number of images whose features are kept, see `Collector`.
        cache_dir: folder; by default `statistics` in `files.cache_folder()`.
    """
    entry = CacheEntry(source, extraction.extractor, num_kept, cache_dir)
    # Workers extract together, so a worker that alone has the file must not leave.
    if not all(extraction.on_all_workers(entry.find() is not None)):
        entry.announce()
        entry.write(_compute(source, extraction, entry.num_stored, entry.path))
        _partial(entry.path).unlink(missing_ok=True)
    return entry.read()


def places_of_kept(num_images: int, num_kept: int, seed: int = 0) -> np.ndarray:
    """Draws the images whose features are kept.

    Returns:
        int [num_images]: the place of each image among the kept features, -1 if it is not kept.
    """
    places = np.full(num_images, -1)
    chosen = np.random.default_rng(seed).permutation(num_images)[:num_kept]
    places[chosen] = np.arange(len(chosen))
    return places


class CacheEntry:
    """The file with the statistics of all images of a source, under a name made of its content.

    Attributes:
        path: path of the file.
        num_stored: number of images whose features the file holds.
    """

    def __init__(
        self,
        source: "Source",
        extractor: "Extractor",
        num_kept: int,
        cache_dir: str | os.PathLike[str] | None = None,
    ) -> None:
        """Reads everything that the name depends on; for the arguments see `real_statistics`."""
        inspection = source.inspection
        self._protocol: dict[str, Any] = {
            "source": source.name,
            "fingerprint": inspection.fingerprint,
            "num_images": inspection.num_images,
        }
        content = {
            "version": VERSION,
            "extractor": extractor.protocol,
            "image_shape": list(inspection.image_shape),
            **self._protocol,
        }
        del content["source"]  # A name is not content.
        key = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
        folder = cache_dir or cache_folder() / "statistics"
        self.path = local_path(folder, "Evaluator.cache_dir") / f"{key}.npz"
        self._num_features = extractor.num_features
        self._num_kept = min(num_kept, inspection.num_images)
        self.num_stored = min(max(self._num_kept, STORED), inspection.num_images)
        self._description = json.dumps(
            {"source": source.name, **content, "num_kept": self.num_stored}, indent=2
        )

    def find(self) -> Statistics | None:
        """The statistics in the file; None if it must be made.

        That is so if there is no file, if it keeps too few features, or if it is damaged. A line on
        stderr says which file is damaged, and how.
        """
        stored = read_arrays(self.path)
        if stored is None:
            return None
        try:
            return self._checked(stored)
        except InputError as error:
            say_damaged(self.path, error)
            return None

    def _checked(self, stored: Mapping[str, Any]) -> Statistics | None:
        """The statistics in the arrays of a file; None if it keeps too few features.

        Raises:
            InputError: if they cannot be the statistics of these images and this extractor.
        """
        description = str(stored.get("description"))
        if _computed_from(description) != _computed_from(self._description):
            raise InputError("it is of other images, or by another extractor")
        dim = self._num_features
        mean, covariance = _array(stored, "mean", (dim,)), _array(stored, "covariance", (dim, dim))
        check_moments("its", mean, covariance)
        features = _array(stored, "features", (None, dim))
        if len(features) < self._num_kept:
            return None
        # A smaller draw of kept features is the beginning of a larger one.
        kept, num_images = features[: self._num_kept], self._protocol["num_images"]
        return Statistics(self._protocol, mean, covariance, kept, num_images)

    def announce(self) -> None:
        """Writes a description of the file, for people: the file itself may take an hour."""
        _write(self.path.with_suffix(".json"), self._description.encode())

    def write(self, collector: Gathered) -> None:
        """Writes the statistics that a `Collector`, or an object like it, has gathered."""
        found = collector.statistics(self._protocol)
        _write_arrays(
            self.path,
            mean=found.mean,
            covariance=found.covariance,
            features=found.features,
            description=self._description,
        )

    def read(self) -> Statistics:
        """Reads the statistics that were just found or written.

        Raises:
            InputError: if they cannot be read back.
        """
        found = self.find()
        if found is None:
            raise InputError(
                f"The statistics of real images in {self.path} cannot be read back. Set "
                "Evaluator.cache_dir to a folder on another disk."
            )
        return found


def _computed_from(description: str) -> dict[str, Any] | None:
    """What a description says that statistics depend on; None if the text is not a description."""
    try:
        values = dict(json.loads(description))
    except (ValueError, TypeError):
        return None
    return {name: one for name, one in values.items() if name not in ("source", "num_kept")}


def ttur_statistics(path: str | os.PathLike[str]) -> Statistics:
    """Reads a mean and a covariance in the form that the authors of FID publish.

    Args:
        path: `.npz` file with `mu` [D] and `sigma` [D, D].

    Returns:
        `Statistics` without features: only FID can be computed from them.

    Raises:
        InputError: if the file cannot be read, or its arrays have other shapes.
    """
    path = local_path(path, "Evaluator.statistics")
    try:
        data = path.read_bytes()
        stored = _loaded(data)
        if stored is None:
            raise InputError("it is not an .npz file")
        mean = _array(stored, "mu", (None,))
        covariance = _array(stored, "sigma", 2 * mean.shape)
        check_moments("its", mean, covariance)
    except (OSError, InputError) as error:
        raise InputError(
            f"{path} cannot be read as statistics of real images: {str(error).rstrip('.')}. It "
            "must be an .npz file with the arrays `mu` [D] and `sigma` [D, D], as published with "
            "the TTUR paper."
        ) from error
    digest = hashlib.sha256(data).hexdigest()[:16]
    about = {"file": path.name, "sha256": digest}
    return Statistics(about, np.float64(mean), np.float64(covariance))


def _compute(
    source: "Source", extraction: "Extraction", num_kept: int, path: pathlib.Path
) -> Collector:
    """A `Collector` that has seen all images; saves its state beside `path` from time to time."""

    def new() -> Collector:
        return Collector(source.num_images, extraction.extractor.num_features, num_kept)

    collector, partial = new(), _partial(path)
    state = read_arrays(partial)
    # A state that keeps another number of features is not damaged, but does not fit.
    if state is not None and len(np.atleast_1d(state.get("kept", ()))) == collector.num_kept:
        try:
            collector.restore(state)
        except InputError as error:
            say_damaged(partial, error)
    if len(set(extraction.on_all_workers(collector.count))) > 1:
        collector = new()  # Workers extract together, so all begin at the same image.
    saved = time.monotonic()
    batches = source.in_order(extraction.batch_size, start=collector.count)
    with (
        source.reading(),
        ProgressBar(source.num_images, "image", "real images", collector.count) as progress,
    ):
        for images, _ in batches.as_numpy_iterator():
            features, _ = extraction(images)
            collector.update(features)
            progress.advance(len(images))
            if time.monotonic() - saved > SECONDS:
                _write_arrays(partial, **collector.state())
                saved = time.monotonic()
    return collector


def _partial(path: pathlib.Path) -> pathlib.Path:
    return path.with_name(f"{path.stem}.partial.npz")


def _write_arrays(path: pathlib.Path, **arrays: Any) -> None:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    _write(path, buffer.getvalue())


def _write(path: pathlib.Path, data: bytes) -> None:
    try:
        write_atomically(path, data)
    except OSError as error:
        raise InputError(
            f"Statistics of real images cannot be kept in {path.parent}: {error.strerror}. Set "
            "Evaluator.cache_dir to a folder that can be written to."
        ) from error


def read_arrays(path: pathlib.Path) -> dict[str, np.ndarray] | None:
    """The arrays of an .npz file; None if there is no file, or it is damaged, which a line says.

    Raises:
        InputError: if there is a file that may not be read.
    """
    try:
        data = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise InputError(
            f"The statistics of real images in {path} cannot be read: {error.strerror}. Change its "
            "permissions, or set Evaluator.cache_dir to another folder."
        ) from error
    stored = _loaded(data)
    if stored is None:
        say_damaged(path, "it is not a whole .npz file")
    return stored


def say_damaged(path: pathlib.Path, reason: object) -> None:
    """Says on stderr that a file is damaged and that its contents will be made again."""
    say(f"{path} is damaged: {str(reason).rstrip('.')}. It is made again.")


def _loaded(data: bytes) -> dict[str, np.ndarray] | None:
    """The arrays in the bytes of an .npz file; None if they are not those of a whole one."""
    try:
        stored = np.load(io.BytesIO(data), allow_pickle=False)
        return dict(stored) if isinstance(stored, np.lib.npyio.NpzFile) else None
    except Exception:  # NumPy and zipfile raise errors of a dozen classes for damaged files.
        return None


def _array(
    stored: Mapping[str, Any], name: str, shape: tuple[int | None, ...], kinds: str = "fiu"
) -> np.ndarray:
    """An array of a file; InputError unless it has the shape (None is any size) and is finite."""
    if name not in stored:
        raise InputError(f"it has no array `{name}`; there are: {', '.join(stored) or 'none'}")
    found = np.asarray(stored[name])
    fits = found.ndim == len(shape) and all(
        wanted in (None, size) for wanted, size in zip(shape, found.shape, strict=True)
    )
    if not fits or found.dtype.kind not in kinds:
        sizes = ", ".join("n" if size is None else str(size) for size in shape)
        raise InputError(
            f"its array `{name}` is {found.dtype} {list(found.shape)}, expected are numbers of "
            f"shape [{sizes}]"
        )
    if not np.isfinite(found).all():
        raise InputError(f"its array `{name}` has values that are not finite")
    return found
