"""Pictures that show how a training goes: always of the same latents."""

import numpy as np
import tensorflow as tf

from stugan_tf.images import image_grid
from stugan_tf.latents import class_rows
from stugan_tf.randomness import Purpose, draw_latents, fold
from stugan_tf.training.gan import GAN

MOST_ROWS = 16  # A grid of more classes has no row for each; its classes are drawn at random.


class Samples:
    """Images of the averaged generator, of the same latents at each call."""

    def __init__(self, gan: GAN, num_samples: int, seed: int) -> None:
        """Keeps the settings.

        Args:
            gan: the `GAN`.
            num_samples: the most images in a grid.
            seed: seed of the run.
        """
        self._gan, self._num_samples, self._seed = gan, num_samples, seed

    @property
    def columns(self) -> int | None:
        """Images in a row, if the grid has a row for each class; else None."""
        num_classes = self._gan.num_classes
        has_rows = self._gan.conditional and num_classes <= min(MOST_ROWS, self._num_samples)
        return self._num_samples // num_classes if has_rows else None

    def images(self) -> np.ndarray:
        """The images, float [n, H, W, C].

        If the classes are few, each has a row, and all rows have the same latents.
        """
        rows = self._gan.num_classes
        num_drawn = self.columns or self._num_samples
        seed = fold((self._seed, 0), Purpose.SAMPLES)
        latents, labels = draw_latents(num_drawn, self._gan.latent_dim, rows, seed)
        if self.columns:
            latents, labels = map(tf.constant, class_rows(latents.numpy(), range(rows)))
        return self._gan.generate(latents, labels, training=False, averaged=True).numpy()

    def grid(self) -> np.ndarray:
        """The images side by side, uint8 [height, width, C]."""
        return image_grid(self.images(), self.columns)
