"""The random numbers of the updates: latents, labels, augmentations and seeds."""

from typing import Any

import tensorflow as tf

from stugan_tf.randomness import Purpose, draw_latents, fold
from stugan_tf.training.algorithm import Algorithm
from stugan_tf.training.gan import GAN
from stugan_tf.training.replicas import Replicas


class Noise:
    """Random numbers as a function of the seed, the attempt, the purpose and the step.

    Each replica draws the numbers of the global batch and takes its slice. So they do not depend on
    the number of replicas or of micro-batches.

    Attributes:
        attempt: variable that counts rollbacks. After a rollback, the same numbers would lead to
            the same failure.
    """

    def __init__(self, seed: int, gan: GAN, algorithm: Algorithm, replicas: Replicas) -> None:
        """Creates the state; call it inside `strategy.scope()`.

        Args:
            seed: an integer.
            gan: a `GAN`; its `latent_dim` and `num_classes` are used.
            algorithm: an `Algorithm`.
            replicas: `Replicas`.
        """
        self._seed = (seed, 0)
        self._gan = gan
        self._num_parts = algorithm.accumulation_steps
        self._augmentation = algorithm.augmentation
        self._replicas = replicas
        self.attempt = tf.Variable(0, dtype=tf.int64, trainable=False)

    def seed(self, purpose: Purpose, step: Any) -> tf.Tensor:
        """A seed, int64 [2], for a `Purpose` in a step."""
        return fold(self._seed, self.attempt, purpose, step)

    def latents(
        self, global_batch_size: int, purpose: Purpose, step: Any, part: Any
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """This replica's latents [b, latent_dim] and labels [b] of a micro-batch."""
        latents, labels = draw_latents(
            global_batch_size,
            self._gan.latent_dim,
            self._gan.num_classes,
            self.seed(purpose, step),
        )
        return self._own(latents, part), self._own(labels, part)

    def augmented(self, images: tf.Tensor, purpose: Purpose, step: Any, part: Any) -> tf.Tensor:
        """This replica's images [b, H, W, C] as the discriminator sees them."""
        if self._augmentation is None:
            return images
        drawn = self._augmentation.draw(
            images.shape[0] * self._num_parts * self._replicas.num,
            images.shape[1:],
            self.seed(purpose, step),
        )
        return self._augmentation.apply(images, [self._own(d, part) for d in drawn])

    def _own(self, values: tf.Tensor, part: Any) -> tf.Tensor:
        return self._replicas.own(values, part, self._num_parts)
