"""A generator out of an artifact: one way to draw from it, whatever file it came in."""

import numpy as np

from stugan_tf.checks import check_above_zero, check_natural, check_positive
from stugan_tf.errors import InputError
from stugan_tf.images import to_uint8
from stugan_tf.randomness import Purpose, fold
from stugan_tf.serving.numbering import BLOCK, numbered_inputs

MAX_IMAGES = 2**20


class ServedGenerator:
    """Draws images.

    Attributes:
        interface: `Interface`: sizes, classes.
        about: what the manifest of the artifact says.
    """

    def __init__(self, interface, compute, about, mix):
        """Notes how images are computed.

        Args:
            interface: an `Interface`.
            compute: `(latents [B, latent_dim], labels [B] or None) -> float32 [B, H, W, C]`.
            about: a dictionary.
            mix: `(latents, weights [B, num_classes]) -> images`, or words on why there is none.
        """
        self.interface = interface
        self.about = about
        self._compute = compute
        self._mix = mix

    def __call__(
        self, num_images=None, seed=0, labels=None, truncation=None, latents=None, dtype="uint8"
    ):
        """Draws images.

        Image number i of a seed is the same in any number of images, and that of `sample`.

        Args:
            num_images: how many; that of the latents, if given, else 1.
            seed: of latents and labels that are not given.
            labels: a class, or one for each image; drawn unless given.
            truncation: cuts latents off at this absolute value.
            latents: float [n, latent_dim], instead of a seed.
            dtype: 'uint8', or 'float32' for images in [-1, 1].

        Returns:
            An array [num_images, H, W, C].

        Raises:
            InputError: if an argument does not fit the generator.
        """
        if dtype not in ("uint8", "float32"):
            raise InputError(f"dtype must be 'uint8' or 'float32', got {dtype!r}.")
        if latents is None:
            num_images = 1 if num_images is None else num_images
            latents, drawn = self.inputs(num_images, seed, truncation)
        else:
            latents = self._checked_latents(latents, num_images, truncation)
            drawn = None
        if labels is None and self.interface.conditional and drawn is None:
            raise InputError("Latents need labels here: give labels=3, or one for each image.")
        labels = drawn if labels is None else self._checked_labels(labels, len(latents))
        images = np.concatenate(list(self.batches(latents, labels)))
        return images if dtype == "float32" else to_uint8(images)

    def inputs(self, num_images, seed=0, truncation=None):
        """Latents float32 [n, latent_dim] and labels int32 [n] of a seed."""
        check_positive("num_images", num_images)
        if num_images > MAX_IMAGES:
            raise InputError(f"num_images must be at most {MAX_IMAGES}, got {num_images}.")
        check_natural("seed", seed)
        if truncation is not None:
            check_above_zero("truncation", truncation)
        latents, labels = numbered_inputs(
            num_images,
            self.interface.latent_dim,
            self.interface.num_classes,
            fold((seed, 0), Purpose.SAMPLES),
            truncation,
        )
        return latents.numpy(), labels.numpy()

    def batches(self, latents, labels):
        """Computes images, at most 64 at once.

        Args:
            latents: float32 [n, latent_dim].
            labels: int32 [n], or weights of classes float32 [n, num_classes]; of no use to an
                unconditional generator.

        Yields:
            float32 [B, H, W, C] in [-1, 1].
        """
        compute = self._compute
        if self.interface.conditional and labels.dtype.kind == "f":
            self.check_mixes()
            compute = self._mix
        for first in range(0, len(latents), BLOCK):
            some = slice(first, first + BLOCK)
            given = labels[some] if self.interface.conditional else None
            yield np.asarray(compute(latents[some], given))

    def check_mixes(self):
        """Raises InputError if it takes no mixtures of classes."""
        if isinstance(self._mix, str):
            raise InputError(f"There is nothing between classes here: {self._mix}")

    def _checked_latents(self, latents, num_images, truncation):
        latents = np.asarray(latents, np.float32)
        if latents.ndim != 2 or latents.shape[1] != self.interface.latent_dim or not len(latents):
            raise InputError(
                f"latents must be of shape [n, {self.interface.latent_dim}], got {latents.shape}."
            )
        if num_images not in (None, len(latents)) or truncation is not None:
            raise InputError("Latents are given, so leave out num_images and truncation.")
        if not np.all(np.isfinite(latents)):
            raise InputError("latents must be finite.")
        return latents

    def _checked_labels(self, labels, num_images):
        if not self.interface.conditional:
            raise InputError("This generator was trained without labels. Leave them out.")
        labels = np.asarray(labels)
        if labels.dtype.kind not in "iu" or labels.shape not in ((), (num_images,)):
            raise InputError(
                f"labels must be an integer or {num_images} of them, got {labels.dtype} "
                f"{labels.shape}."
            )
        if labels.min() < 0 or labels.max() >= self.interface.num_classes:
            raise InputError(
                f"labels must be from 0 to {self.interface.num_classes - 1}, got "
                f"{labels.min()} to {labels.max()}."
            )
        return np.broadcast_to(labels, [num_images]).astype(np.int32)
