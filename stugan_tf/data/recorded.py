"""A set of images as the record of a run describes it, known without the images."""

import functools

from stugan_tf.data.source import Source
from stugan_tf.errors import InputError


class RecordedSource(Source):
    """Says what a run was trained on: shape, classes, number of images, fingerprint.

    The images themselves are opened when the first of them is asked for. They must still be those
    of the record, so that neither a class nor a score is taken for another.
    """

    def __init__(self, record, open_images):
        """Notes both.

        Args:
            record: the `Inspection` that was made when the run was started.
            open_images: `() -> Source`.
        """
        self.name = record.source
        self.image_shape = tuple(record.image_shape)
        self.num_classes = len(record.class_names)
        self.class_names = tuple(record.class_names) if record.named else None
        self.num_images = record.num_images
        self._record = record
        self._open_images = open_images

    def inspect(self):
        """What was found when the run was started; reads nothing."""
        return self._record

    @functools.cached_property
    def images(self):
        """The `Source` that has the images.

        Raises:
            InputError: if they cannot be read, or are no longer those of the record.
        """
        advice = (
            "Scores need them unless the statistics of real images are in the cache: bring the "
            "data back, say by --gin_param where it is now, or choose other real images by "
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
    def flip(self):
        """As in `Source`."""
        return self.images.flip

    @property
    def blocks(self):
        """As in `Source`."""
        return self.images.blocks

    def load(self, record):
        """As in `Source`."""
        return self.images.load(record)

    def records(self):
        """As in `Source`."""
        return self.images.records()

    def records_at(self, positions):
        """As in `Source`."""
        return self.images.records_at(positions)

    def examples_at(self, positions):
        """As in `Source`."""
        return self.images.examples_at(positions)

    def example(self, record):
        """As in `Source`."""
        return self.images.example(record)

    def sample(self, count):
        """As in `Source`."""
        return self.images.sample(count)

    def layout(self):
        """As in `Source`."""
        return self.images.layout()

    def count_classes(self, labels):
        """As in `Source`."""
        return self.images.count_classes(labels)

    def batches(self, global_batch_size, **settings):
        """As in `Source`."""
        return self.images.batches(global_batch_size, **settings)

    def in_order(self, batch_size, start=0):
        """As in `Source`."""
        return self.images.in_order(batch_size, start)

    def diagnose(self):
        """As in `Source`."""
        self.images.diagnose()
