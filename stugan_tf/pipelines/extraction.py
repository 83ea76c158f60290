"""Computes statistics of the features of real images by Beam: a range of images is one element.

Each range leaves a file of moments and features. The files are merged in the order of the ranges,
which depend only on the number of images. So the result does not depend on the workers, and a job
that was killed goes on with the ranges that are missing.
"""

import functools
import io
import math
import pathlib
import shutil
import zipfile
from typing import Any

import numpy as np
import tensorflow as tf

from stugan_tf.data import Source
from stugan_tf.errors import FailedRun
from stugan_tf.evaluation.evaluator import Evaluator
from stugan_tf.evaluation.extraction import Extraction
from stugan_tf.evaluation.moments import Moments
from stugan_tf.evaluation.statistics import (
    CacheEntry,
    Statistics,
    places_of_kept,
    read_arrays,
)
from stugan_tf.files import locked, write_atomically
from stugan_tf.pipelines import beams, configuration
from stugan_tf.pipelines.beams import beam
from stugan_tf.pipelines.settings import Beam

RANGE = 1024  # images in a range at least
MOST_RANGES = 64  # each leaves a covariance on the disk until all are done


def evaluator(text: str) -> Evaluator:
    """The `Evaluator` that gin text configures, on one device."""
    return Evaluator(configuration.source(text), tf.distribute.get_strategy())


def real_statistics(
    source: Source,
    extraction: Extraction,
    num_kept: int,
    cache_dir: str | None = None,
    *,
    text: str,
    runner: Beam,
) -> Statistics:
    """Computes what `evaluation.statistics.real_statistics` computes, with workers.

    Args:
        source: as there.
        extraction: as there.
        num_kept: as there.
        cache_dir: as there.
        text: gin text from which a worker can build the `Evaluator`.
        runner: a `Beam`.
    """
    entry = CacheEntry(source, extraction.extractor, num_kept, cache_dir)
    name = entry.path.stem
    say = functools.partial(print, flush=True)
    with locked(entry.path.with_name(f".{name}.lock"), str(entry.path), say):
        if entry.find() is None:
            entry.announce()
            # The contents of a part depend on how many features are kept.
            parts = entry.path.with_name(f"{name}.{entry.num_stored}.parts")
            entry.write(_merged(source.num_images, entry.num_stored, parts, text, runner))
        for parts in entry.path.parent.glob(f"{name}.*.parts"):  # A kill may have left others.
            shutil.rmtree(parts)
    return entry.read()


def _merged(num_images, num_stored, parts, text, runner):
    """The `Merged` of all ranges, after the workers made the parts that are missing."""
    parts.mkdir(parents=True, exist_ok=True)
    bounds = ranges(num_images)
    places = places_of_kept(num_images, num_stored)
    tasks = [
        (start, stop, np.flatnonzero(places[start:stop] >= 0))
        for start, stop in bounds
        if not zipfile.is_zipfile(_part(parts, start, stop))  # It is missing or torn.
    ]

    def build(pipeline):
        (
            pipeline
            | beam.Create(tasks)
            | beam.Reshuffle()  # Otherwise one worker would get all tasks.
            | beam.ParDo(Extract(text, str(parts)))
        )

    if tasks:
        beams.run(runner, build)
    return Merged(parts, bounds, places)


def ranges(num_images: int) -> list[tuple[int, int]]:
    """The ranges of positions, `(start, stop)` each, that are computed as one element.

    They depend only on the number of images, so sums are formed in the same order with any workers.
    """
    length = max(RANGE, math.ceil(num_images / MOST_RANGES))
    return [(start, min(start + length, num_images)) for start in range(0, num_images, length)]


class Extract(beam.DoFn):
    """Turns `(start, stop, which of them are kept)` into a file of moments and features."""

    def __init__(self, text, folder):
        """Notes the gin text of the `Evaluator`, and the folder of parts."""
        self._text, self._folder = text, folder

    def process(self, task):
        """Writes one part; yields its range."""
        start, stop, kept = task
        found = beams.shared(self._text, functools.partial(evaluator, self._text))
        write_part(found.source, found.extraction, self._folder, start, stop, kept)
        yield start, stop


def write_part(
    source: Source,
    extraction: Extraction,
    folder: str | pathlib.Path,
    start: int,
    stop: int,
    kept: np.ndarray,
) -> None:
    """Writes the moments of images `start` to `stop - 1`, and the features of those in `kept`."""
    moments = Moments(extraction.extractor.num_features)
    features = []
    with source.reading():
        examples = source.examples_at(np.arange(start, stop)).batch(extraction.batch_size)
        for images, _ in examples.as_numpy_iterator():
            found, _ = extraction(images)
            chosen = kept[(kept >= moments.count) & (kept < moments.count + len(found))]
            features.append(found[chosen - moments.count])
            moments.update(found)
    buffer = io.BytesIO()
    arrays: dict[str, Any] = {"features": np.concatenate(features), **moments.state()}
    np.savez(buffer, **arrays)
    write_atomically(_part(pathlib.Path(folder), start, stop), buffer.getvalue())


class Merged:
    """The parts of all ranges, merged in their order."""

    def __init__(self, folder, bounds, places):
        """Notes where they are, and the place of the features of each image; -1 for none."""
        self._folder, self._bounds, self._places = folder, bounds, places

    def statistics(self, protocol: dict[str, Any]) -> Statistics:
        """The `Statistics` of all images."""
        moments: Moments | None = None
        for start, stop in self._bounds:
            path, places = _part(self._folder, start, stop), self._places[start:stop]
            part = read_arrays(path)
            if part is None:
                path.unlink(missing_ok=True)
                raise FailedRun(f"{path} was damaged. Start the same command again.")
            features, found = part["features"], Moments.from_state(part)
            if moments is None:
                moments = found
                kept = np.zeros([(self._places >= 0).sum(), features.shape[1]], np.float32)
            else:
                moments.merge(found)
            kept[places[places >= 0]] = features
        assert moments is not None, "there is at least one range"
        return Statistics(protocol, moments.mean, moments.covariance, kept, moments.count)


def _part(folder, start, stop):
    return folder / f"{start:010}-{stop:010}.npz"
