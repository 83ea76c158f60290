"""A data set as the rest of the package sees it: images and labels in a reproducible order."""

import contextlib
import functools
import math
import re
from collections.abc import Iterator, Sequence

import gin
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from stugan_tf.checks import check_at_least_zero, check_bool, check_instance
from stugan_tf.data.inspection import Inspection, fingerprint, remarks_on_classes, remarks_on_pixels
from stugan_tf.data.order import Blocks, IndexBlock, ordered
from stugan_tf.errors import InputError
from stugan_tf.signatures import ImageShape

NUM_SAMPLED = 2048
# What TensorFlow raises if an image is damaged, gone or forbidden.
UNREADABLE = (
    tf.errors.InvalidArgumentError,
    tf.errors.DataLossError,
    tf.errors.NotFoundError,
    tf.errors.FailedPreconditionError,
    tf.errors.PermissionDeniedError,
    tf.errors.UnknownError,
)


class Source:
    """A labelled set of images; subclass it to bring your own.

    A subclass gives `name`, `image_shape`, `num_classes` and `num_images` (attributes or
    properties) and a method `load` for one image. Sets that fit into `cache_gib` are decoded once.

    Attributes:
        name: name of the source in messages and records.
        image_shape: (height, width, channels), known without the data where possible.
        num_classes: number of classes; an unlabelled set has one.
        class_names: a name for each class, or None.
        num_images: number of images.
        flip: whether images are mirrored left to right at random, by (seed, position).
        cache_gib: GiB; up to this size in uint8 pixels the decoded set is held in memory.
        remarks: sentences for the preflight about what a person should look at.
    """

    name: str
    image_shape: ImageShape
    num_classes: int
    num_images: int
    class_names: tuple[str, ...] | None = None
    flip: bool = False
    cache_gib: float = 2.0
    remarks: tuple[str, ...] = ()

    def load(self, record: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Loads one image.

        Args:
            record: scalar; an int64 index below `num_images` unless `blocks` says otherwise.

        Returns:
            `(image, label)`: uint8 [H, W, C] and an int scalar.
        """
        raise NotImplementedError

    @property
    def blocks(self) -> Blocks:
        """How an epoch is divided for shuffling, see `order`."""
        return IndexBlock(self.num_images)

    def records(self) -> tf.data.Dataset:
        """All records in stored order."""
        return tf.data.Dataset.range(self.num_images)

    @property
    def has_random_access(self) -> bool:
        """Whether records are indices of images, so that any image can be read directly."""
        return isinstance(self.blocks, IndexBlock)

    def examples_at(self, positions: Sequence[int] | np.ndarray) -> tf.data.Dataset:
        """Reads some images.

        Args:
            positions: int64 [n], places in stored order. Without random access they must be n
                successive numbers, ascending.

        Returns:
            Dataset of `(image, label)`: uint8 [H, W, C], never mirrored, and an int32 scalar.
        """
        self.image_shape  # noqa: B018 - it may read the first image, which a graph cannot do
        return self.records_at(positions).map(self._load, tf.data.AUTOTUNE)

    def records_at(self, positions: Sequence[int] | np.ndarray) -> tf.data.Dataset:
        """The records of `examples_at`, not yet loaded."""
        if self.has_random_access:
            return tf.data.Dataset.from_tensor_slices(np.asarray(positions, np.int64))
        return self.records().skip(positions[0]).take(len(positions))

    def example(self, record: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Loads one record: an image and its label, as `examples_at` gives them."""
        return self._load(record)

    def sample(self, count: int) -> tf.data.Dataset:
        """`count` records spread evenly over the set."""
        return tf.data.Dataset.from_tensor_slices(
            np.linspace(0, self.num_images - 1, count).astype(np.int64)
        )

    def layout(self) -> npt.ArrayLike:
        """Sizes of files, which tell apart sets with the same sample; int64 of any shape."""
        return ()

    def count_classes(self, labels: npt.ArrayLike) -> tuple[np.ndarray, int]:
        """Counts the images of each class.

        Args:
            labels: int32 [n], classes of the images that were read.

        Returns:
            `(class_counts, num_counted)`: int [num_classes] and the number of images counted.
        """
        return np.bincount(labels, minlength=self.num_classes), np.size(labels)

    def batches(
        self,
        global_batch_size: int,
        *,
        seed: int,
        start: int = 0,
        num_replicas: int = 1,
        replicas: Sequence[int] = (0,),
        read_at_once: int = 1,
    ) -> tf.data.Dataset:
        """The endless batches of some replicas, from global batch `start` on.

        Row i of global batch k is the image at position k * global_batch_size + i. Replica r has
        rows [r * b, (r + 1) * b), b = global_batch_size // num_replicas. Batches are full and may
        straddle epochs; an epoch has every image once. The data set holds only what these replicas
        need: use it in `strategy.distribute_datasets_from_function`.

        Args:
            global_batch_size: number of images in a step, over all replicas.
            seed: the order is a function of it and the epoch.
            start: how many global batches have been seen.
            num_replicas: number of replicas; it divides the batch size.
            replicas: which replicas to yield for, in turn; ascending.
            read_at_once: so many global batches are read before the first of them is yielded. If
                an image among them cannot be read, none of them is yielded.

        Returns:
            Dataset of `(images, labels)`: float32 [b, H, W, C] in [-1, 1] and int32 [b].

        Raises:
            InputError: if the batch size, the start or the replicas are invalid.
        """
        _check_batches(global_batch_size, start, num_replicas, replicas)
        batch_size = global_batch_size // num_replicas

        def keep(positions: tf.Tensor) -> tf.Tensor:
            replica = positions % global_batch_size // batch_size
            return tf.reduce_any(replica[:, None] == tf.constant(list(replicas), tf.int64), axis=1)

        cache = self._cache
        examples = ordered(
            self.blocks if cache is None else IndexBlock(self.num_images),
            seed=seed,
            start=start * global_batch_size,
            keep=keep,
        )
        if cache is None:
            batches = examples.map(
                lambda record, flip: (*self._load(record), flip), tf.data.AUTOTUNE
            ).batch(batch_size, drop_remainder=True, num_parallel_calls=tf.data.AUTOTUNE)
            num_read = read_at_once * len(replicas)
            if num_read > 1:
                batches = batches.batch(num_read, drop_remainder=True).prefetch(1).unbatch()
        else:
            batches = examples.batch(batch_size, drop_remainder=True).map(
                lambda indices, flips: (*(tf.gather(part, indices) for part in cache), flips),
                tf.data.AUTOTUNE,
            )
        options = tf.data.Options()
        options.deterministic = True
        options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
        batches = batches.map(self._finish, tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE)
        return batches.with_options(options)

    def in_order(self, batch_size: int, start: int = 0) -> tf.data.Dataset:
        """Every image once, as stored, from image number `start` on; the last batch may be short.

        Returns:
            Dataset of `(images, labels)`: uint8 [b, H, W, C], never mirrored, and int32 [b].
        """
        if self._cache is None:
            examples = self.records().skip(start).map(self._load, tf.data.AUTOTUNE)
        else:
            rest = tuple(part[start:] for part in self._cache)
            examples = tf.data.Dataset.from_tensor_slices(rest)
        return examples.batch(batch_size).prefetch(tf.data.AUTOTUNE)

    def inspect(self) -> Inspection:
        """Reads a set that fits in memory, else a sample of it, and checks what it reads.

        Raises:
            InputError: if an image cannot be read or is not what the source says.
        """
        with self.reading():
            if self._cache is not None:
                images, labels = (part.numpy() for part in self._cache)
                layout: npt.ArrayLike = ()
            else:
                sample = self.sample(min(NUM_SAMPLED, self.num_images))
                images, labels = zip(
                    *sample.map(self._load, tf.data.AUTOTUNE).as_numpy_iterator(), strict=True
                )
                layout = self.layout()
        counts, num_counted = self.count_classes(labels)
        return Inspection(
            source=self.name,
            num_images=self.num_images,
            image_shape=self.image_shape,
            class_names=self.class_names or tuple(map(str, range(self.num_classes))),
            class_counts=tuple(map(int, counts)),
            num_read=num_counted,
            fingerprint=fingerprint(self.num_images, images, labels, layout),
            named=self.class_names is not None,
            remarks=(
                *self.remarks,
                *remarks_on_classes(counts if num_counted == self.num_images else ()),
                *remarks_on_pixels(images),
            ),
        )

    @functools.cached_property
    def inspection(self) -> Inspection:
        """What `inspect` found when it was asked for first."""
        return self.inspect()

    def diagnose(self) -> None:
        """Loads all images, until one cannot be loaded.

        Raises:
            InputError: if an image cannot be loaded; the message names it.
        """
        self.image_shape  # noqa: B018 - as in `examples_at`
        num_loaded = 0
        try:
            for _ in self.records().map(self._load, tf.data.AUTOTUNE):
                num_loaded += 1
        except tf.errors.OpError as error:
            raise InputError(self.complaint(num_loaded, reason(error), error)) from error

    def complaint(self, position: int, why: str, error: tf.errors.OpError) -> str:
        """The message about an image that cannot be loaded.

        Args:
            position: place of the image in stored order.
            why: the reason, for people.
            error: the error of TensorFlow.
        """
        del error
        name = self.name_of(position)
        if why.startswith(name):
            return why
        return f"{self.name if name in why else name} cannot be read: {why}"

    def name_of(self, position: int) -> str:
        """The name of the image at a place in stored order, for messages."""
        return f"Image number {position} of {self.name}"

    @contextlib.contextmanager
    def reading(self) -> Iterator[None]:
        """Turns TensorFlow's errors over unreadable data into an `InputError`."""
        try:
            yield
        except tf.errors.OpError as error:
            self.diagnose()
            raise InputError(f"{self.name} cannot be read. {reason(error)}") from error

    def _check_not_empty(self) -> None:
        if self.num_images < 1:
            raise InputError(f"{self.name} holds no image: at least 1 is needed.")

    @functools.cached_property
    def _cache(self) -> tuple[tf.Tensor, tf.Tensor] | None:
        """uint8 [num_images, H, W, C] and int32 [num_images] on the CPU, or None if too large."""
        self._check_not_empty()
        if self.num_images * math.prod(self.image_shape) > self.cache_gib * 2**30:
            return None
        with tf.device("CPU"), self.reading():
            examples = self.records().map(self._load, tf.data.AUTOTUNE)
            return examples.batch(self.num_images, drop_remainder=True).get_single_element()

    @tf.autograph.experimental.do_not_convert  # it would wrap our errors in its own
    def _load(self, record: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        image, label = self.load(record)
        image = tf.convert_to_tensor(image)
        if image.dtype != tf.uint8 or not image.shape.is_compatible_with(self.image_shape):
            raise InputError(
                f"`load` of {self.name} must return a uint8 image of shape {self.image_shape}, "
                f"got {image.dtype.name} {image.shape}."
            )
        label = tf.convert_to_tensor(label)
        if not label.dtype.is_integer:
            raise InputError(
                f"`load` of {self.name} must return an integer label, got {label.dtype.name}."
            )
        wide = label if label.dtype == tf.uint64 else tf.cast(label, tf.int64)
        in_range = tf.debugging.Assert(
            (wide >= tf.zeros_like(wide)) & (wide < tf.constant(self.num_classes, wide.dtype)),
            [f"{self.name} has a label outside 0 .. {self.num_classes - 1}:", label],
        )
        with tf.control_dependencies([in_range] if in_range is not None else []):
            label = tf.cast(label, tf.int32)
            return tf.ensure_shape(image, self.image_shape), tf.ensure_shape(label, [])

    def _finish(
        self, images: tf.Tensor, labels: tf.Tensor, flips: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        if self.flip:
            images = tf.where(flips[:, None, None, None], images[:, :, ::-1], images)
        return tf.cast(images, tf.float32) / 127.5 - 1.0, labels


def check_settings(flip: bool, cache_gib: float = 0.0) -> None:
    """Raises InputError unless the settings that sources have in common can work."""
    check_bool("`flip`", flip)
    check_at_least_zero("`cache_gib`", cache_gib)


def reason(error: tf.errors.OpError) -> str:
    """The message of TensorFlow's error over an image, without its place in TensorFlow."""
    text = re.sub(_PLACE_IN_GRAPH, "", error.message.strip())
    text = re.sub(r"(?s)^.*(InputError|assertion failed|}}):? | \[Op:.*|\n.*", "", text)
    return re.sub(_PLACE_IN_PIPELINE, "", text)


_PLACE_IN_GRAPH = r"\A(Graph execution error:|Detected at node .*|\s+File .*|<stack traces.*|\n)+"
_PLACE_IN_PIPELINE = (
    r"^Error in user-defined function passed to \S+ transformation with iterator: \S+: "
)


@gin.configurable
def data(source: Source = gin.REQUIRED) -> Source:
    """The source that a configuration chooses, e.g. by `data.source = @cifar10()`.

    Args:
        source: a `Source`.

    Raises:
        InputError: if it is not a `Source`.
    """
    check_instance("data.source", source, Source)
    return source


def _check_batches(
    global_batch_size: int, start: int, num_replicas: int, replicas: Sequence[int]
) -> None:
    if global_batch_size < 1 or num_replicas < 1 or global_batch_size % num_replicas:
        raise InputError(
            f"`global_batch_size` must be a positive multiple of the number of replicas, got "
            f"{global_batch_size} for {num_replicas} replicas."
        )
    if start < 0:
        raise InputError(f"`start` must be at least 0, got {start}. It counts global batches.")
    if not replicas or sorted(set(replicas) & set(range(num_replicas))) != list(replicas):
        raise InputError(
            f"`replicas` must be ascending numbers below {num_replicas}, got {tuple(replicas)}."
        )
