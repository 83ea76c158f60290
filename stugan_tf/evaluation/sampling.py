"""Images of a generator to score or to look at, as uint8, the same on any number of replicas."""

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import keras
import numpy as np
import tensorflow as tf

from stugan_tf.errors import InputError
from stugan_tf.evaluation.extraction import run
from stugan_tf.layers.masked import all_layers
from stugan_tf.layers.moving import undisturbed
from stugan_tf.randomness import draw_latents, fold
from stugan_tf.signatures import Seed

NUM_STANDING = 16  # batches, as in the reference implementation of BigGAN
TOLERANCE = 1e-3  # Rounding may carry a pixel this far out of [-1, 1].


class Generates(Protocol):
    """The part of a `training.gan.GAN` that draws images."""

    @property
    def latent_dim(self) -> int:
        """Length of a latent vector."""

    @property
    def num_classes(self) -> int:
        """Labels are integers below it."""

    @property
    def generator(self) -> keras.Model:
        """The live generator."""

    @property
    def averaged(self) -> Any:
        """The averaged generator; its `model` is a Keras model."""

    @property
    def generate(self) -> Callable[..., tf.Tensor]:
        """`(latents, labels, training, averaged) -> images`, float32 [B, H, W, C]."""


def numbered_inputs(
    num_images: int,
    latent_dim: int,
    num_classes: int,
    seed: Seed,
    truncation: float | None,
    block: int,
) -> tuple[np.ndarray, np.ndarray]:
    """The latents and labels from which `Sampler.batches` makes its images.

    Args:
        num_images: number of images.
        latent_dim: length of a latent vector.
        num_classes: labels are integers below it.
        seed: int [2].
        truncation: see `randomness.draw_latents`.
        block: number of latents that share random numbers.

    Returns:
        Latents, float32 [num_images, latent_dim], and labels, int32 [num_images].
    """
    blocks = [
        draw_latents(block, latent_dim, num_classes, fold(seed, 0, number), truncation)
        for number in range(-(-num_images // block))
    ]
    latents, labels = zip(*blocks, strict=True)
    return np.concatenate(latents)[:num_images], np.concatenate(labels)[:num_images]


class Sampler:
    """Draws images from the generator of one GAN.

    Latents and labels come in blocks, each with its own random numbers. So an image depends on its
    number, but not on the number of replicas, of images, or of images computed at once. Where batch
    norm makes the images of a batch depend on each other, a block must be a batch: each is computed
    by one replica. The generator is left as it was.
    """

    def __init__(
        self,
        gan: Generates,
        strategy: tf.distribute.Strategy,
        batch_size: int,
        averaged: bool = True,
        batch_norm: str = "inference",
        truncation: float | None = None,
        block: int | None = None,
    ) -> None:
        """Prepares for drawing.

        Args:
            gan: a `training.gan.GAN`, or an object like it.
            strategy: the strategy in whose scope `gan` was made.
            batch_size: number of images that one replica computes at once.
            averaged: whether the averaged generator is sampled.
            batch_norm: the statistics to normalise by: 'inference' means moving statistics,
                'batch' the statistics of the batch (the reference samples BigGAN on CIFAR-10 like
                this), 'standing' the mean of the statistics of 16 batches (Brock et al. 2019,
                appendix C).
            truncation: see `randomness.draw_latents`.
            block: number of latents that share random numbers; None means `batch_size`.
        """
        self._block = batch_size if block is None else block
        assert batch_norm == "inference" or self._block == batch_size
        self._gan = gan
        self._strategy = strategy
        self._batch_size = batch_size
        self._averaged = averaged
        self._batch_norm = batch_norm
        self._truncation = truncation
        self._model = gan.averaged.model if averaged else gan.generator

    def batches(self, num_images: int, seed: Seed) -> Iterator[np.ndarray]:
        """Draws images.

        Args:
            num_images: number of images.
            seed: int [2].

        Yields:
            uint8 [B, H, W, C], `num_images` in all; B is `batch_size` times the number of replicas,
            or less in the last batch.
        """
        own_seed = fold(seed, 0)

        def draw(first):
            return self._draw(own_seed, tf.constant(first, tf.int64))

        return self._batches(num_images, seed, draw)

    def inputs(self, num_images: int, seed: Seed) -> tuple[np.ndarray, np.ndarray]:
        """The latents and labels from which `batches` makes its images, see `numbered_inputs`."""
        gan = self._gan
        return numbered_inputs(
            num_images, gan.latent_dim, gan.num_classes, seed, self._truncation, self._block
        )

    def numbered(self, num_images: int, seed: Seed, classes: Sequence[int] = ()) -> np.ndarray:
        """Draws the first images of a seed. Image number i does not depend on `num_images`.

        Args:
            num_images: number of images.
            seed: int [2].
            classes: labels, which the images take in turn; if there are none they are drawn.

        Returns:
            uint8 [num_images, H, W, C].
        """
        # Whole blocks, so that even batch statistics do not depend on the number.
        latents, labels = self.inputs(-(-num_images // self._block) * self._block, seed)
        if classes:
            labels = np.resize(np.array(classes, np.int32), len(labels))
        return np.concatenate(list(self.images_of(latents, labels, seed)))[:num_images]

    def images_of(
        self, latents: np.ndarray, labels: np.ndarray, seed: Seed
    ) -> Iterator[np.ndarray]:
        """Makes images of given latents and labels.

        They come in batches of `batch_size`, in the order given. The last batch is filled up with
        the first images. An image depends on the others of its batch only if batch norm uses
        batch statistics.

        Args:
            latents: float32 [n, latent_dim].
            labels: int32 [n], or weights of classes, float32 [n, num_classes].
            seed: int [2]; used only for standing statistics.

        Yields:
            uint8 [B, H, W, C], as in `batches`.
        """

        def compute(first):
            return self._compute(*(self._parts(values, first) for values in (latents, labels)))

        return self._batches(len(latents), seed, compute)

    def _batches(self, num_images, seed, compute):
        """Yields the batches that `compute` makes from image number `first` on; cuts the last."""
        at_once = self._batch_size * self._strategy.num_replicas_in_sync
        with self.statistics_of(seed):
            for first in range(0, num_images, at_once):
                images, extremes = compute(first)
                check_range(extremes)
                yield images[: num_images - first]

    def _parts(self, values, first):
        """A batch of an array for each replica, from position `first` on."""

        def part(context):
            start = first + context.replica_id_in_sync_group * self._batch_size
            positions = np.arange(start, start + self._batch_size) % len(values)
            return tf.constant(values[positions])

        return self._strategy.experimental_distribute_values_from_function(part)

    @functools.cached_property
    def _draw(self):
        def draw(seed, first):
            replica = tf.distribute.get_replica_context().replica_id_in_sync_group
            return self._pixels(
                *self._inputs_from(first + self._batch_size * tf.cast(replica, tf.int64), seed)
            )

        return run(self._strategy, draw)

    @functools.cached_property
    def _compute(self):
        return run(self._strategy, self._pixels)

    def _inputs(self, num, seed):
        """Latents and labels that share random numbers."""
        gan = self._gan
        return draw_latents(num, gan.latent_dim, gan.num_classes, seed, self._truncation)

    def _inputs_from(self, first, seed):
        """Latents and labels of one batch, which begins with number `first`, int64 []."""
        size, block = self._batch_size, self._block
        # All shapes are static, and all batches begin at a multiple of the batch size.
        if size % block == 0 or block % size == 0:
            num_blocks = max(1, size // block)
        else:
            num_blocks = -(-(size - 1) // block) + 1
        blocks = [
            self._inputs(block, fold(seed, first // block + number)) for number in range(num_blocks)
        ]
        latents, labels = (tf.concat(parts, 0) for parts in zip(*blocks, strict=True))
        start = first % block
        return (
            tf.slice(latents, [start, 0], [size, latents.shape[1]]),
            tf.slice(labels, [start], [size]),
        )

    def _pixels(self, latents, labels):
        """Images of one batch, uint8, and the lowest and highest value before clipping."""
        images, _ = self._pass(latents, labels, training=self._batch_norm == "batch")
        # A value that is not a number would be neither low nor high.
        values = tf.where(tf.math.is_nan(images), float("inf"), images)
        extremes = tf.stack([tf.reduce_min(values), tf.reduce_max(values)])
        pixels = tf.cast(tf.clip_by_value(127.5 * images + 127.5, 0, 255), tf.uint8)
        return pixels, extremes[None]

    def _pass(self, latents, labels, training):
        """Images of one batch, and the variables of batch norms after the pass."""
        with undisturbed(self._model) if training else contextlib.nullcontext():
            images = self._gan.generate(latents, labels, training=training, averaged=self._averaged)
            statistics = [tf.identity(variable) for variable, _ in self._statistics]
        return tf.cast(images, tf.float32), statistics

    @contextlib.contextmanager
    def statistics_of(self, seed: Seed) -> Iterator[None]:
        """Sets the moving statistics for images of a seed, and restores them at the end.

        With `batch_norm='standing'` they become the mean of the statistics of 16 batches; otherwise
        they stay as they are.
        """
        seed = fold(seed, 1)
        if self._batch_norm != "standing":
            yield
            return
        with undisturbed(self._model):
            for variable, _ in self._statistics:
                variable.assign(tf.zeros_like(variable))
            passes = [self._train(fold(seed, block)) for block in range(NUM_STANDING)]
            for (variable, momentum), *moved in zip(self._statistics, *passes, strict=True):
                # From zero, a pass moves them 1 - momentum of the way to its own statistics.
                variable.assign(sum(moved) / (NUM_STANDING * (1 - momentum)))
            yield

    @functools.cached_property
    def _statistics(self):
        """Each moving statistic with its momentum."""
        layers = [layer for layer in all_layers(self._model) if hasattr(layer, "moving_variance")]
        return [
            (variable.value, layer.momentum)
            for layer in layers
            for variable in (layer.moving_mean, layer.moving_variance)
        ]

    @functools.cached_property
    def _train(self):
        """`seed -> statistics` after a pass over a batch in training mode."""

        def train(seed):
            inputs = self._inputs(self._batch_size, seed)
            _, statistics = self._pass(*inputs, training=True)
            return [statistic[None] for statistic in statistics]

        run_all = run(self._strategy, train)
        return lambda seed: [values[0] for values in run_all(seed)]  # Replicas have equal values.


def check_range(extremes: np.ndarray) -> None:
    """Raises InputError unless images are in [-1, 1].

    Args:
        extremes: float [n, 2], the lowest and the highest values of some images.
    """
    lowest, highest = extremes[:, 0].min(), extremes[:, 1].max()
    if lowest < -1 - TOLERANCE or highest > 1 + TOLERANCE:
        raise InputError(
            f"The generator makes images in [{lowest:.4g}, {highest:.4g}] (a value that is not a "
            "number counts as inf), but pictures and scores need them in [-1, 1]. Let it end in a "
            "tanh, or scale what it makes."
        )
