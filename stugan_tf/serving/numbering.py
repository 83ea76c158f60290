"""Latents and labels by number: image i of a seed is the same however many are drawn."""

import tensorflow as tf

from stugan_tf.randomness import draw_latents, fold
from stugan_tf.signatures import Seed

BLOCK = 64  # Images whose latents share random numbers; in batch statistics, one batch.


def numbered_inputs(
    num_images: int | tf.Tensor,
    latent_dim: int,
    num_classes: int,
    seed: Seed,
    truncation: float | tf.Tensor | None,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Draws latents and labels.

    Args:
        num_images: an integer, or an integer scalar.
        latent_dim: length of a latent vector.
        num_classes: labels are integers below it.
        seed: int [2].
        truncation: see `draw_latents`.

    Returns:
        Latents, float32 [num_images, latent_dim], and labels, int32 [num_images].
    """

    def draw(block: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return draw_latents(BLOCK, latent_dim, num_classes, fold(seed, 0, block), truncation)

    blocks = tf.range(-(-tf.cast(num_images, tf.int64) // BLOCK))
    latents, labels = tf.map_fn(draw, blocks, fn_output_signature=(tf.float32, tf.int32))
    latents = tf.reshape(latents, [-1, latent_dim])[:num_images]
    return latents, tf.reshape(labels, [-1])[:num_images]
