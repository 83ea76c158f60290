"""Images of a generator to score or to look at, as uint8, the same on any number of replicas."""

import contextlib
import functools

import numpy as np
import tensorflow as tf

from stugan_tf.errors import InputError
from stugan_tf.evaluation.extraction import run
from stugan_tf.layers.masked import all_layers
from stugan_tf.layers.moving import undisturbed
from stugan_tf.randomness import draw_latents, fold

BATCH_NORMS = ("inference", "batch", "standing")
NUM_STANDING = 16  # batches, as in the reference implementation of BigGAN
TOLERANCE = 1e-3  # by which rounding may carry a pixel out of [-1, 1]


class Sampler:
    """Draws images of one GAN's generator.

    Images come in blocks of `batch_size`, each with random numbers of its own, and a block is
    computed by one replica. So neither the number of replicas nor that of images asked for changes
    an image, even where batch norm lets those of a block depend on each other. The generator is
    left as it was.
    """

    def __init__(
        self, gan, strategy, batch_size, averaged=True, batch_norm="inference", truncation=None
    ):
        """Notes what to do.

        Args:
            gan: has `generate`, `generator`, `averaged`, `latent_dim` and `num_classes`.
            strategy: the `tf.distribute.Strategy` in whose scope it was made.
            batch_size: images of a block.
            averaged: whether the averaged generator is sampled.
            batch_norm: 'inference' normalises by moving statistics, 'batch' by those of the block
                (so the reference samples BigGAN on CIFAR-10), 'standing' by the mean of those of 16
                blocks (Brock et al. 2019, appendix C).
            truncation: see `randomness.draw_latents`.
        """
        self._gan = gan
        self._strategy = strategy
        self._batch_size = batch_size
        self._averaged = averaged
        self._batch_norm = batch_norm
        self._truncation = truncation
        self._model = gan.averaged.model if averaged else gan.generator

    def batches(self, num_images, seed):
        """Draws images.

        Args:
            num_images: how many.
            seed: int [2].

        Yields:
            uint8 [B, H, W, C], `num_images` in all; `batch_size` a replica, but for the last.
        """
        own_seed = fold(seed, 0)

        def draw(first):
            return self._draw(own_seed, tf.constant(first // self._batch_size, tf.int64))

        return self._batches(num_images, seed, draw)

    def inputs(self, num_images, seed):
        """What `batches` makes its images of.

        Args:
            num_images: how many.
            seed: int [2].

        Returns:
            Latents float32 [num_images, latent_dim] and labels int32 [num_images], arrays.
        """
        num_blocks = -(-num_images // self._batch_size)
        blocks = [self._inputs(fold(seed, 0, block)) for block in range(num_blocks)]
        return tuple(np.concatenate(values)[:num_images] for values in zip(*blocks, strict=True))

    def images_of(self, latents, labels, seed):
        """Makes images of given latents and labels.

        They come in blocks of `batch_size`, too, in the order given; the last one is filled up with
        the first ones. Only batch statistics let an image depend on the others of its block.

        Args:
            latents: float32 [n, latent_dim], an array.
            labels: an array [n, ...] of what the GAN generates by: labels or weights of classes.
            seed: int [2], for standing statistics alone.

        Yields:
            As `batches`.
        """

        def compute(first):
            return self._compute(*(self._parts(values, first) for values in (latents, labels)))

        return self._batches(len(latents), seed, compute)

    def _batches(self, num_images, seed, compute):
        """Yields what `compute` makes from image number `first` on, the last less what is over."""
        at_once = self._batch_size * self._strategy.num_replicas_in_sync
        with self.statistics_of(seed):
            for first in range(0, num_images, at_once):
                images, extremes = compute(first)
                _check_range(extremes)
                yield images[: num_images - first]

    def _parts(self, values, first):
        """A block of an array for each replica, from position `first` on."""

        def part(context):
            start = first + context.replica_id_in_sync_group * self._batch_size
            positions = np.arange(start, start + self._batch_size) % len(values)
            return tf.constant(values[positions])

        return self._strategy.experimental_distribute_values_from_function(part)

    @functools.cached_property
    def _draw(self):
        def draw(seed, first_block):
            replica = tf.distribute.get_replica_context().replica_id_in_sync_group
            block = first_block + tf.cast(replica, tf.int64)
            return self._pixels(*self._inputs(fold(seed, block)))

        return run(self._strategy, draw)

    @functools.cached_property
    def _compute(self):
        return run(self._strategy, self._pixels)

    def _inputs(self, seed):
        """Latents and labels of one block."""
        return draw_latents(
            self._batch_size, self._gan.latent_dim, self._gan.num_classes, seed, self._truncation
        )

    def _pixels(self, latents, labels):
        """Images of one block, uint8, and the lowest and the highest value they were made of."""
        images, _ = self._pass(latents, labels, training=self._batch_norm == "batch")
        # A value that is not a number would be neither low nor high.
        values = tf.where(tf.math.is_nan(images), float("inf"), images)
        extremes = tf.stack([tf.reduce_min(values), tf.reduce_max(values)])
        pixels = tf.cast(tf.clip_by_value(127.5 * images + 127.5, 0, 255), tf.uint8)
        return pixels, extremes[None]

    def _pass(self, latents, labels, training):
        """Images of one block, and its batch norms' variables as the pass left them."""
        with undisturbed(self._model) if training else contextlib.nullcontext():
            images = self._gan.generate(latents, labels, training=training, averaged=self._averaged)
            statistics = [tf.identity(variable) for variable, _ in self._statistics]
        return tf.cast(images, tf.float32), statistics

    @contextlib.contextmanager
    def statistics_of(self, seed):
        """While it lasts, moving statistics are those that images of a seed are made with.

        If they are to stand, these are the mean of those of some blocks.
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
                # Begun at zero, a pass moved them 1 - momentum of the way to its own.
                variable.assign(sum(moved) / (NUM_STANDING * (1 - momentum)))
            yield

    @functools.cached_property
    def _statistics(self):
        """Each moving statistic and the momentum by which it moves."""
        layers = [layer for layer in all_layers(self._model) if hasattr(layer, "moving_variance")]
        return [
            (variable.value, layer.momentum)
            for layer in layers
            for variable in (layer.moving_mean, layer.moving_variance)
        ]

    @functools.cached_property
    def _train(self):
        """`seed -> statistics` that a pass over a block in training mode leaves behind."""

        def train(seed):
            _, statistics = self._pass(*self._inputs(seed), training=True)
            return [statistic[None] for statistic in statistics]

        run_all = run(self._strategy, train)
        return lambda seed: [values[0] for values in run_all(seed)]  # The replicas' are equal.


def _check_range(extremes):
    """Raises InputError unless all replicas' lowest and highest values are in [-1, 1]."""
    lowest, highest = extremes[:, 0].min(), extremes[:, 1].max()
    if lowest < -1 - TOLERANCE or highest > 1 + TOLERANCE:
        raise InputError(
            f"The generator makes images in [{lowest:.4g}, {highest:.4g}] (a value that is not a "
            "number counts as inf), but pictures and scores need them in [-1, 1]. Let it end in a "
            "tanh, or scale what it makes."
        )
