"""The images of a run as its record describes them, known without the images themselves."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from stugan_tf.data.inspection import Inspection
from stugan_tf.data.order import Blocks
from stugan_tf.data.source import Source
from stugan_tf.errors import InputError


class RecordedSource(Source):
    """The images that a run was trained on: shape, classes, number and fingerprint.

    The images themselves are opened when the first one is needed. They must still be those of the
    record. Otherwise a class or a score could be mistaken for another.
    """

    def __init__(self, record: Inspection, open_images: Callable[[], Source]) -> None:
        """Takes shape, classes and number of images from the record.

        Args:
            record: the `Inspection` that was made when the run was started.
            open_images: opens the images themselves.
        """
        self.name = record.source
        self.image_shape = record.image_shape
        self.num_classes = len(record.class_names)
        self.class_names = tuple(record.class_names) if record.named else None
        self.num_images = record.num_images
        self._record = record
        self._open_images = open_images

    def inspect(self) -> Inspection:
        """The record of the images; reads nothing."""
        return self._record

    @functools.cached_property
    def images(self) -> Source:
        """The `Source` of the images themselves.

        Raises:
            InputError: if the images cannot be read, or have changed since they were recorded.
        """
        advice = (
            "Scores need them unless the statistics of real images are in the cache: bring the "
            "data back, give its new place by --gin_param, or choose other real images by "
            "Evaluator.real or Evaluator.statistics."
        )
        try:
            source = self._open_images()
            found = source.inspect()
        except (InputError, OSError) as error:
            raise InputError(
                f"The images that this run was trained on, {self.name}, cannot be read: {error} "
                f"{advice}"
            ) from error
        before, now = self._record, found
        if before.fingerprint != now.fingerprint:
            raise InputError(
                f"The images of {self.name} have changed since this run was trained on them: there "
                f"were {before.num_images:,} (fingerprint {before.fingerprint}) and are "
                f"{now.num_images:,} ({now.fingerprint}). {advice}"
            )
        return source

    @property
    def flip(self) -> bool:  # type: ignore[override]
        """As in `Source`."""
        return self.images.flip

    @property
    def blocks(self) -> Blocks:
        """As in `Source`."""
        return self.images.blocks

    def load(self, record: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """As in `Source`."""
        return self.images.load(record)

    def records(self) -> tf.data.Dataset:
        """As in `Source`."""
        return self.images.records()

    def records_at(self, positions: Sequence[int] | np.ndarray) -> tf.data.Dataset:
        """As in `Source`."""
        return self.images.records_at(positions)

    def examples_at(self, positions: Sequence[int] | np.ndarray) -> tf.data.Dataset:
        """As in `Source`."""
        return self.images.examples_at(positions)

    def example(self, record: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """As in `Source`."""
        return self.images.example(record)

    def sample(self, count: int) -> tf.data.Dataset:
        """As in `Source`."""
        return self.images.sample(count)

    def layout(self) -> npt.ArrayLike:
        """As in `Source`."""
        return self.images.layout()

    def count_classes(self, labels: npt.ArrayLike) -> tuple[np.ndarray, int]:
        """As in `Source`."""
        return self.images.count_classes(labels)

    def batches(self, global_batch_size: int, **settings: Any) -> tf.data.Dataset:
        """As in `Source`."""
        return self.images.batches(global_batch_size, **settings)

    def in_order(self, batch_size: int, start: int = 0) -> tf.data.Dataset:
        """As in `Source`."""
        return self.images.in_order(batch_size, start)

    def diagnose(self) -> None:
        """As in `Source`."""
        self.images.diagnose()
