"""What the updates draw at random: latents, labels, augmentations and seeds."""

import tensorflow as tf

from stugan_tf.randomness import draw_latents, fold


class Noise:
    """Random numbers as a function of the seed, the attempt, the purpose and the step.

    Each replica draws those of the global batch and takes its slice. So they do not depend on the
    number of replicas or of micro-batches.

    Attributes:
        attempt: variable that counts rollbacks: after one, the same numbers would lead to the same
            end.
    """

    def __init__(self, seed, gan, algorithm, replicas):
        """Creates the state; call it inside `strategy.scope()`.

        Args:
            seed: an integer.
            gan: has `latent_dim` and `num_classes`.
            algorithm: an `Algorithm`.
            replicas: `Replicas`.
        """
        self._seed = (seed, 0)
        self._gan = gan
        self._num_parts = algorithm.accumulation_steps
        self._augmentation = algorithm.augmentation
        self._replicas = replicas
        self.attempt = tf.Variable(0, dtype=tf.int64, trainable=False)

    def seed(self, purpose, step):
        """A seed, int64 [2], for a `Purpose` in a step."""
        return fold(self._seed, self.attempt, purpose, step)

    def latents(self, global_batch_size, purpose, step, part):
        """This replica's latents [b, latent_dim] and labels [b] of a micro-batch."""
        latents, labels = draw_latents(
            global_batch_size,
            self._gan.latent_dim,
            self._gan.num_classes,
            self.seed(purpose, step),
        )
        return self._own(latents, part), self._own(labels, part)

    def augmented(self, images, purpose, step, part):
        """What the discriminator is shown of this replica's images [b, H, W, C]."""
        if self._augmentation is None:
            return images
        drawn = self._augmentation.draw(
            images.shape[0] * self._num_parts * self._replicas.num,
            images.shape[1:],
            self.seed(purpose, step),
        )
        return self._augmentation.apply(images, [self._own(d, part) for d in drawn])

    def _own(self, values, part):
        return self._replicas.own(values, part, self._num_parts)
