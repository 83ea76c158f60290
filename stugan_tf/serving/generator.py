"""The generator of an artifact: one way to draw from it, whatever its format."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from stugan_tf.checks import check_above_zero, check_positive, check_seed
from stugan_tf.errors import InputError
from stugan_tf.images import to_uint8
from stugan_tf.randomness import Purpose, fold
from stugan_tf.serving.bounds import MAX_IMAGES
from stugan_tf.serving.interface import Interface
from stugan_tf.serving.numbering import BLOCK, numbered_inputs


class ServedGenerator:
    """A loaded generator, which draws images; see `load`.

    Attributes:
        interface: sizes and classes of the generator.
        about: the manifest of the artifact.
        computed_by: what computes the images: 'TensorFlow', or another program and its version.
    """

    def __init__(
        self,
        interface: Interface,
        compute: Callable[..., Any],
        about: dict[str, Any],
        mix: Callable[..., Any] | str,
        computed_by: str = "TensorFlow",
    ) -> None:
        """Takes the functions that compute images.

        Args:
            interface: sizes and classes of the generator.
            compute: `(latents [B, latent_dim], labels [B] or None) -> float32 [B, H, W, C]`.
            about: the manifest of the artifact.
            mix: `(latents, weights [B, num_classes]) -> float32 [B, H, W, C]`, or the reason why
                the generator takes no mixtures of classes.
            computed_by: what computes the images.
        """
        self.interface = interface
        self.about = about
        self.computed_by = computed_by
        self._compute = compute
        self._mix = mix

    def __call__(
        self,
        num_images: int | None = None,
        seed: int = 0,
        labels: npt.ArrayLike | None = None,
        truncation: float | None = None,
        latents: npt.ArrayLike | None = None,
        dtype: str = "uint8",
    ) -> np.ndarray:
        """Draws images.

        Image number i of a seed is the same however many images are drawn, and the same that
        `sample` draws.

        Args:
            num_images: number of images; by default the number of latents, or 1.
            seed: seed of the latents and labels that are not given.
            labels: a class, or one class for each image, by number or name; drawn by default.
            truncation: where latents are cut off, an absolute value.
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
            raise InputError(
                "This generator needs labels for given latents: give labels=3, or one for each "
                "image."
            )
        labels = drawn if labels is None else self._checked_labels(labels, len(latents))
        images = np.concatenate(list(self.batches(latents, labels)))
        return images if dtype == "float32" else to_uint8(images)

    def inputs(
        self, num_images: int, seed: int = 0, truncation: float | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Draws the latents and labels of a seed.

        Args:
            num_images: number of images.
            seed: at least 0.
            truncation: where latents are cut off, an absolute value.

        Returns:
            Latents, float32 [num_images, latent_dim], and labels, int32 [num_images].

        Raises:
            InputError: if an argument is invalid.
        """
        check_positive("num_images", num_images)
        if num_images > MAX_IMAGES:
            raise InputError(f"num_images must be at most {MAX_IMAGES}, got {num_images}.")
        check_seed("seed", seed)
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

    def batches(self, latents: np.ndarray, labels: np.ndarray | None) -> Iterator[np.ndarray]:
        """Computes images, at most 64 at once.

        Args:
            latents: float32 [n, latent_dim].
            labels: int32 [n], or weights of classes, float32 [n, num_classes]. An unconditional
                generator ignores them.

        Yields:
            float32 [B, H, W, C] in [-1, 1].

        Raises:
            InputError: if weights are given and the generator takes no mixtures of classes.
        """
        compute: Any = self._compute
        if self.interface.conditional and labels.dtype.kind == "f":  # type: ignore[union-attr]
            self.check_mixes()
            compute = self._mix
        for first in range(0, len(latents), BLOCK):
            some = slice(first, first + BLOCK)
            given = labels[some] if self.interface.conditional else None  # type: ignore[index]
            yield np.asarray(compute(latents[some], given))

    def check_mixes(self) -> None:
        """Raises InputError if the generator takes no mixtures of classes."""
        if isinstance(self._mix, str):
            raise InputError(f"This generator cannot mix classes: {self._mix}")

    def _checked_latents(
        self, latents: npt.ArrayLike, num_images: int | None, truncation: float | None
    ) -> np.ndarray:
        latents = _array("latents", latents, np.float32)
        if latents.ndim != 2 or latents.shape[1] != self.interface.latent_dim or not len(latents):
            raise InputError(
                f"latents must be of shape [n, {self.interface.latent_dim}], got {latents.shape}."
            )
        if num_images not in (None, len(latents)) or truncation is not None:
            raise InputError("Latents are given, so leave out num_images and truncation.")
        if not np.all(np.isfinite(latents)):
            raise InputError("latents must be finite.")
        return latents

    def _checked_labels(self, labels: npt.ArrayLike, num_images: int) -> np.ndarray:
        if not self.interface.conditional:
            raise InputError("This generator was trained without labels. Leave them out.")
        if isinstance(labels, str):
            labels = self.interface.numbers_of([labels], "labels")[0]
        elif isinstance(labels, (list, tuple)) and any(isinstance(one, str) for one in labels):
            labels = self.interface.numbers_of(labels, "labels")
        labels = _array("labels", labels)
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


def _array(name: str, values: npt.ArrayLike, dtype: npt.DTypeLike | None = None) -> np.ndarray:
    try:
        with np.errstate(over="ignore"):  # Too large numbers become infinite and are refused later.
            return np.asarray(values, dtype)
    except (ValueError, TypeError, OverflowError) as error:
        raise InputError(f"{name} must be numbers: {error}.") from None
