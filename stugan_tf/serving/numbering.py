"""Latents and labels by number: image i of a seed is the same however many are drawn."""

import tensorflow as tf

from stugan_tf.randomness import draw_latents, fold

BLOCK = 64  # as `sample` draws them, see `evaluation.sampling.Sampler.inputs`


def numbered_inputs(num_images, latent_dim, num_classes, seed, truncation):
    """Latents float32 [n, latent_dim] and labels int32 [n].

    Args:
        num_images: an integer, or an integer scalar.
        latent_dim: length of a latent vector.
        num_classes: number of labels.
        seed: int [2].
        truncation: see `draw_latents`.
    """

    def draw(block):
        return draw_latents(BLOCK, latent_dim, num_classes, fold(seed, 0, block), truncation)

    blocks = tf.range(-(-tf.cast(num_images, tf.int64) // BLOCK))
    latents, labels = tf.map_fn(draw, blocks, fn_output_signature=(tf.float32, tf.int32))
    latents = tf.reshape(latents, [-1, latent_dim])[:num_images]
    return latents, tf.reshape(labels, [-1])[:num_images]
