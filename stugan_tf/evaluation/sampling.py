"""Images of a generator for scoring, as uint8, the same ones on any number of replicas."""

import contextlib
import functools

import tensorflow as tf

from stugan_tf.errors import InputError
from stugan_tf.evaluation.extraction import run
from stugan_tf.layers.masked import all_layers, masked_layers
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
        num_replicas = self._strategy.num_replicas_in_sync
        seed, standing_seed = fold(seed, 0), fold(seed, 1)
        with self._standing(standing_seed):
            for first in range(0, num_images, self._batch_size * num_replicas):
                block = tf.constant(first // self._batch_size, tf.int64)
                images, extremes = self._draw(seed, block)
                _check_range(extremes)
                yield images[: num_images - first]

    @functools.cached_property
    def _draw(self):
        def draw(seed, first_block):
            replica = tf.distribute.get_replica_context().replica_id_in_sync_group
            block = first_block + tf.cast(replica, tf.int64)
            images, _ = self._pass(fold(seed, block), training=self._batch_norm == "batch")
            # A value that is not a number would be neither low nor high.
            values = tf.where(tf.math.is_nan(images), float("inf"), images)
            extremes = tf.stack([tf.reduce_min(values), tf.reduce_max(values)])
            pixels = tf.cast(tf.clip_by_value(127.5 * images + 127.5, 0, 255), tf.uint8)
            return pixels, extremes[None]

        return run(self._strategy, draw)

    def _pass(self, seed, training):
        """Images of one block, and its batch norms' variables as the pass left them."""
        latents, labels = draw_latents(
            self._batch_size, self._gan.latent_dim, self._gan.num_classes, seed, self._truncation
        )
        variables = self._moving if training else []
        former = [tf.identity(variable) for variable in variables]
        images = self._gan.generate(latents, labels, training=training, averaged=self._averaged)
        statistics = [tf.identity(variable) for variable, _ in self._statistics]
        for variable, value in zip(variables, former, strict=True):
            variable.assign(value)
        return tf.cast(images, tf.float32), statistics

    @contextlib.contextmanager
    def _standing(self, seed):
        """If they are to stand, makes moving statistics the mean of those of some blocks."""
        if self._batch_norm != "standing":
            yield
            return
        former = [variable.numpy() for variable, _ in self._statistics]
        try:
            for variable, _ in self._statistics:
                variable.assign(tf.zeros_like(variable))
            passes = [self._train(fold(seed, block)) for block in range(NUM_STANDING)]
            for (variable, momentum), *moved in zip(self._statistics, *passes, strict=True):
                # Begun at zero, a pass moved them 1 - momentum of the way to its own.
                variable.assign(sum(moved) / (NUM_STANDING * (1 - momentum)))
            yield
        finally:
            for (variable, _), value in zip(self._statistics, former, strict=True):
                variable.assign(value)

    @functools.cached_property
    def _moving(self):
        """What a pass in training mode assigns, seeds of layers that draw numbers included."""
        masks = {id(layer.kernel_mask) for layer in masked_layers(self._model)}
        variables = self._model.non_trainable_variables
        return [variable.value for variable in variables if id(variable) not in masks]

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
            _, statistics = self._pass(seed, training=True)
            return [statistic[None] for statistic in statistics]

        run_all = run(self._strategy, train)
        return lambda seed: [values[0] for values in run_all(seed)]  # The replicas' are equal.


def _check_range(extremes):
    """Raises InputError unless all replicas' lowest and highest values are in [-1, 1]."""
    lowest, highest = extremes[:, 0].min(), extremes[:, 1].max()
    if lowest < -1 - TOLERANCE or highest > 1 + TOLERANCE:
        raise InputError(
            f"The generator makes images in [{lowest:.4g}, {highest:.4g}] (a value that is not a "
            "number counts as inf), but scores need them in [-1, 1]. Let it end in a tanh, or "
            "scale what it makes."
        )
