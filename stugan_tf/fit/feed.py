"""What `SparseGAN.fit` takes: a source, arrays, or a data set of batches, as endless batches.

The batches are a function of the step. So a training that goes on sees those that come next.
"""

import contextlib
from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
import tensorflow as tf

from stugan_tf.data.arrays import arrays, check_pixels
from stugan_tf.data.source import UNREADABLE, Source
from stugan_tf.errors import InputError
from stugan_tf.signatures import ImageShape
from stugan_tf.training.algorithm import Algorithm
from stugan_tf.training.batches import distributed_batches

WANTED = (
    "Give `fit` a Source such as st.digits(), an array of images [N, H, W, C] with its labels as "
    "`y`, or a tf.data.Dataset of batches `images` or `(images, labels)`."
)


class Feed(Protocol):
    """Where the images of a training come from.

    Attributes:
        num_images: number of images in an epoch, or None if nobody knows.
        batch_size: number of images in a batch, or None for the default.
    """

    num_images: int | None
    batch_size: int | None

    def batches(
        self, algorithm: Algorithm, strategy: tf.distribute.Strategy, seed: int, step: int
    ) -> Any:
        """The micro-batches after a generator step, see `training.batches`."""

    def reading(self) -> contextlib.AbstractContextManager[None]:
        """Turns errors over images that cannot be read into an `InputError` that names them."""


def feed_of(
    x: Any, y: Any, batch_size: int | None, image_shape: ImageShape, num_classes: int | None
) -> Feed:
    """The `Feed` of the arguments of `fit`.

    Args:
        x: a `Source`, an array or a `tf.data.Dataset`.
        y: labels of an array, or None.
        batch_size: number of images in a batch, or None.
        image_shape: (H, W, C) of the images that the networks take.
        num_classes: number of classes of a conditional GAN, else None.

    Raises:
        InputError: if the data does not fit the networks.
    """
    is_array = isinstance(x, np.ndarray) or tf.is_tensor(x)
    if y is not None and not is_array:
        raise InputError(
            "`y` is for labels of an array of images. A Source brings its own labels, and a "
            "tf.data.Dataset has them as `(images, labels)`."
        )
    if isinstance(x, tf.data.Dataset):
        return _DatasetFeed(x, batch_size, image_shape, num_classes)
    if isinstance(x, Source):
        return _SourceFeed(x, batch_size, image_shape, num_classes)
    if is_array:
        if y is None and num_classes is not None:
            raise _labels_missing(num_classes)
        return _SourceFeed(arrays(x, y), batch_size, image_shape, num_classes)
    raise InputError(f"`fit` cannot read a {type(x).__name__}. {WANTED}")


class _SourceFeed:
    """The images of a `Source`, in its order."""

    def __init__(
        self,
        source: Source,
        batch_size: int | None,
        image_shape: ImageShape,
        num_classes: int | None,
    ) -> None:
        self._source = source
        self.batch_size = batch_size
        self.num_images: int | None = source.num_images
        _check_shape(source.image_shape, image_shape)
        if num_classes is not None and source.num_classes == 1:
            raise _labels_missing(num_classes)
        if num_classes is not None and source.num_classes > num_classes:
            raise InputError(
                f"The data has {source.num_classes} classes, but SparseGAN.num_classes is "
                f"{num_classes}. Set it to {source.num_classes}."
            )

    def batches(
        self, algorithm: Algorithm, strategy: tf.distribute.Strategy, seed: int, step: int
    ) -> Any:
        return distributed_batches(self._source, algorithm, strategy, seed, step)

    @contextlib.contextmanager
    def reading(self) -> Iterator[None]:
        try:
            yield
        except UNREADABLE:
            self._source.diagnose()
            raise


class _DatasetFeed:
    """The batches of a `tf.data.Dataset`, cut anew into full ones, without end.

    A training that goes on reads the data set from its beginning and drops what it has seen. So its
    order must be fixed by seeds.
    """

    def __init__(
        self,
        dataset: tf.data.Dataset,
        batch_size: int | None,
        image_shape: ImageShape,
        num_classes: int | None,
    ) -> None:
        if batch_size is not None:
            raise InputError(
                f"batch_size = {batch_size} is for arrays and sources. A tf.data.Dataset has "
                "batches of its own: set their size there, by `dataset.batch(...)`."
            )
        self._dataset = dataset
        self._image_shape = image_shape
        self._num_classes = num_classes
        images, self._has_labels = self._spec()
        _check_shape(images.shape[1:], image_shape)
        self._dtype = images.dtype
        first = next(iter(dataset), None)
        if first is None:
            raise InputError(f"The data set is empty. {WANTED}")
        pixels = tf.nest.flatten(first)[0].numpy()
        self.batch_size: int | None = len(pixels)
        if self._dtype.is_floating:
            check_pixels("Images", float(pixels.min()), float(pixels.max()))
        number = int(dataset.cardinality())
        self.num_images = number * len(pixels) if number > 0 else None

    def _spec(self) -> tuple[tf.TensorSpec, bool]:
        """The spec of the images, and whether there are labels; raises InputError if unfit."""
        spec = self._dataset.element_spec
        parts = spec if isinstance(spec, tuple) else (spec,)
        if len(parts) not in (1, 2) or not all(isinstance(p, tf.TensorSpec) for p in parts):
            raise InputError(f"The data set yields {spec}. {WANTED}")
        images = parts[0]
        if images.shape.rank == 3:
            raise InputError(
                f"The data set yields single images {images.shape}. Make batches of them, by "
                "`dataset.batch(64)`."
            )
        if images.shape.rank != 4 or not (images.dtype.is_floating or images.dtype == tf.uint8):
            raise InputError(
                f"The data set yields images of {images.dtype.name} {images.shape}. They must be "
                "[B, H, W, C], float32 in [-1, 1] or uint8."
            )
        if self._num_classes is None:
            return images, False
        if len(parts) == 1:
            raise _labels_missing(self._num_classes)
        labels = parts[1]
        if not labels.dtype.is_integer or tuple(labels.shape[1:]) not in ((), (1,)):
            raise InputError(
                f"The data set yields labels of {labels.dtype.name} {labels.shape}. They must be "
                "integers [B] from 0 on. Turn one-hot vectors into integers by `tf.argmax`."
            )
        return images, True

    def batches(
        self, algorithm: Algorithm, strategy: tf.distribute.Strategy, seed: int, step: int
    ) -> Any:
        del seed  # The data set has an order of its own.

        def batches(context: tf.distribute.InputContext) -> tf.data.Dataset:
            if context.num_input_pipelines > 1:
                raise InputError(
                    "A tf.data.Dataset cannot be divided among several workers in a fixed order. "
                    "Give `fit` a Source, such as st.image_folder(...) or st.tfrecords(...)."
                )
            num_parts = algorithm.accumulation_steps * context.num_replicas_in_sync
            size = algorithm.batch_size // num_parts
            done = step * algorithm.discriminator_steps * num_parts
            options = tf.data.Options()
            options.deterministic = True
            policy = tf.data.experimental.AutoShardPolicy.OFF
            options.experimental_distribute.auto_shard_policy = policy
            batches = self._dataset.repeat().rebatch(size, drop_remainder=True).skip(done)
            batches = batches.map(lambda *batch: self._standard(size, *batch), tf.data.AUTOTUNE)
            return batches.prefetch(tf.data.AUTOTUNE).with_options(options)

        return strategy.distribute_datasets_from_function(batches)

    def _standard(self, size: int, images: tf.Tensor, *rest: tf.Tensor) -> tuple[tf.Tensor, ...]:
        """Images float32 [size, H, W, C] in [-1, 1], labels int32 [size]."""
        images = tf.ensure_shape(images, [size, *self._image_shape])
        images = tf.cast(images, tf.float32)
        if not self._dtype.is_floating:
            images = images / 127.5 - 1.0
        if not self._has_labels:
            return images, tf.zeros([size], tf.int32)
        labels = tf.reshape(tf.cast(rest[0], tf.int32), [size])
        assert self._num_classes is not None
        known = tf.reduce_all((labels >= 0) & (labels < self._num_classes))
        check = tf.debugging.Assert(
            known, [f"a label outside 0 .. {self._num_classes - 1}:", labels], summarize=-1
        )
        with tf.control_dependencies([check] if check is not None else []):
            return images, tf.identity(labels)

    def reading(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()


def _check_shape(shape: Any, image_shape: ImageShape) -> None:
    if not tf.TensorShape(shape).is_compatible_with(image_shape):
        raise InputError(
            f"The data has images {tuple(shape)}, but the networks are for images "
            f"{tuple(image_shape)}. Resize the images, or build the networks for theirs."
        )


def _labels_missing(num_classes: int) -> InputError:
    return InputError(
        f"SparseGAN.num_classes is {num_classes}, so the networks take labels, but the data has "
        "none. Give labels as `y` or in the data set, or leave out num_classes."
    )
