"""What scores need to know of a set of images: moments of its features, and some features.

Those of real images are kept between runs, under a name made of what they were computed from: the
fingerprint of the data, the extractor's weights, the preprocessing.
"""

import dataclasses
import hashlib
import io
import json
import pathlib
import time
import zipfile

import numpy as np

from stugan_tf.errors import InputError
from stugan_tf.evaluation.moments import Moments
from stugan_tf.files import cache_folder, write_atomically
from stugan_tf.progress import ProgressBar

SECONDS = 60  # between savings of what is not finished
STORED = 10_000  # features in the cache at least, so that evaluators that want fewer share them


@dataclasses.dataclass
class Statistics:
    """Of the features of one set of images.

    Attributes:
        protocol: dictionary that says of which images.
        mean: float64 [D].
        covariance: float64 [D, D].
        features: float32 [n, D] of some of the images, in random order; None if not known.
        num_images: int; None if not known.
    """

    protocol: dict
    mean: np.ndarray
    covariance: np.ndarray
    features: np.ndarray | None = None
    num_images: int | None = None


class Collector:
    """Gathers the statistics of a known number of images as their features come in.

    Memory is that of one covariance and the kept features, however many images there are.
    """

    def __init__(self, num_images, num_features, num_kept, seed=0):
        """Starts with nothing seen.

        Args:
            num_images: how many will come.
            num_features: D.
            num_kept: how many features to keep, of images drawn at random.
            seed: of that draw.
        """
        self._moments = Moments(num_features)
        num_kept = min(num_kept, num_images)
        self._kept = np.zeros([num_kept, num_features], np.float32)
        self._places = places_of_kept(num_images, num_kept, seed)

    @property
    def num_kept(self):
        """How many features are kept in the end."""
        return len(self._kept)

    @property
    def count(self):
        """Images seen so far."""
        return self._moments.count

    def update(self, features):
        """Takes in the next features, float32 [B, D]."""
        places = self._places[self.count : self.count + len(features)]
        self._kept[places[places >= 0]] = features[places >= 0]
        self._moments.update(features)

    def statistics(self, protocol):
        """The `Statistics` of all images, which must have been seen."""
        if self.count != len(self._places):
            raise InputError(f"Of {len(self._places)} images only {self.count} came.")
        return Statistics(
            protocol, self._moments.mean, self._moments.covariance, self._kept, self.count
        )

    def state(self):
        """Arrays by name, from which `restore` goes on."""
        return {"kept": self._kept, **self._moments.state()}

    def restore(self, state):
        """Goes back to a state."""
        self._kept = state["kept"]
        self._moments = Moments.from_state(state)


def real_statistics(source, extraction, num_kept, cache_dir=None):
    """Statistics of all images of a source, computed once and then read from the cache.

    A computation that is killed goes on where it was last saved.

    Args:
        source: a `stugan_tf.data` source.
        extraction: an `Extraction`.
        num_kept: see `Collector`.
        cache_dir: folder; by default `statistics` in `files.cache_folder()`.

    Returns:
        `Statistics`.
    """
    entry = CacheEntry(source, extraction.extractor, num_kept, cache_dir)
    # Workers extract together, so none may leave because it alone has the file.
    if not all(extraction.on_all_workers(entry.is_there())):
        entry.announce()
        entry.write(_compute(source, extraction, entry.num_stored, entry.path))
        _partial(entry.path).unlink(missing_ok=True)
    return entry.read()


def places_of_kept(num_images, num_kept, seed=0):
    """Int [num_images]: where the features of each image are kept, -1 for nowhere."""
    places = np.full(num_images, -1)
    chosen = np.random.default_rng(seed).permutation(num_images)[:num_kept]
    places[chosen] = np.arange(len(chosen))
    return places


class CacheEntry:
    """Where the statistics of all images of a source are kept, under a name made of content.

    Attributes:
        path: of the file.
        num_stored: int, of how many images the features are to be kept.
    """

    def __init__(self, source, extractor, num_kept, cache_dir=None):
        """Reads what the name depends on; for the arguments see `real_statistics`."""
        inspection = source.inspect()
        self._protocol = {
            "source": source.name,
            "fingerprint": inspection.fingerprint,
            "num_images": inspection.num_images,
        }
        content = {"extractor": extractor.protocol, **self._protocol}
        del content["source"]  # A name is not content.
        key = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
        self.path = pathlib.Path(cache_dir or cache_folder() / "statistics") / f"{key}.npz"
        self._num_kept = min(num_kept, inspection.num_images)
        self.num_stored = min(max(self._num_kept, STORED), inspection.num_images)
        self._description = json.dumps(
            {"source": source.name, **content, "num_kept": self.num_stored}, indent=2
        )

    def is_there(self):
        """Whether enough is kept to be read."""
        return self.path.exists() and len(_read(self.path)["features"]) >= self._num_kept

    def announce(self):
        """Says what is going to be here: it may take an hour. For people; nothing reads it."""
        _write(self.path.with_suffix(".json"), self._description.encode())

    def write(self, collector):
        """Keeps what a `Collector`, or something with its `statistics`, has seen."""
        found = collector.statistics(self._protocol)
        _write_arrays(
            self.path,
            mean=found.mean,
            covariance=found.covariance,
            features=found.features,
            description=self._description,
        )

    def read(self):
        """The `Statistics`, which must be there."""
        stored = _read(self.path)
        # Which features are kept is a draw of which a smaller one is the beginning.
        features = stored["features"][: self._num_kept]
        num_images = self._protocol["num_images"]
        return Statistics(
            self._protocol, stored["mean"], stored["covariance"], features, num_images
        )


def ttur_statistics(path):
    """Reads the mean and covariance that the authors of FID publish, or others of that form.

    Args:
        path: `.npz` file with `mu` [D] and `sigma` [D, D].

    Returns:
        `Statistics` without features, which only FID can be computed from.
    """
    path = pathlib.Path(path).expanduser()
    try:
        data = path.read_bytes()
        stored = np.load(io.BytesIO(data))
        mean, covariance = (np.asarray(stored[name], np.float64) for name in ("mu", "sigma"))
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise InputError(
            f"{path} cannot be read as statistics of real images: {error}. It must be an .npz file "
            "with the arrays `mu` [D] and `sigma` [D, D], as published with the TTUR paper."
        ) from error
    if mean.ndim != 1 or covariance.shape != (len(mean), len(mean)):
        raise InputError(
            f"{path} has `mu` of shape {mean.shape} and `sigma` of shape {covariance.shape}; they "
            "must be [D] and [D, D]."
        )
    digest = hashlib.sha256(data).hexdigest()[:16]
    return Statistics({"file": path.name, "sha256": digest}, mean, covariance)


def _compute(source, extraction, num_kept, path):
    """A `Collector` that has seen all images; saves now and then beside `path`."""
    collector = Collector(source.num_images, extraction.extractor.num_features, num_kept)
    partial = _partial(path)
    state = _read(partial) if partial.exists() else None
    if state and len(state["kept"]) != collector.num_kept:
        state = None
    positions = extraction.on_all_workers(state["count"] if state else 0)
    if state and len(set(positions)) == 1:
        collector.restore(state)
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


def _partial(path):
    return path.with_name(f"{path.stem}.partial.npz")


def _write_arrays(path, **arrays):
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    _write(path, buffer.getvalue())


def _write(path, data):
    try:
        write_atomically(path, data)
    except OSError as error:
        raise InputError(
            f"Statistics of real images cannot be kept in {path.parent}: {error.strerror}. Set "
            "Evaluator.cache_dir to a folder that can be written to."
        ) from error


def _read(path):
    try:
        with np.load(path) as stored:
            return dict(stored)
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise InputError(
            f"The statistics of real images in {path} are damaged: {error}. Delete the file; it "
            "will be computed anew."
        ) from error
