"""DiffAugment (Zhao et al. 2020): alters all images that the discriminator sees.

Real and generated images are altered. All alterations are differentiable, and the generator learns
through them. Random numbers are drawn for a whole batch at once. Each replica and each micro-batch
takes its part of them.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import gin
import tensorflow as tf

from stugan_tf.contracts import Trial
from stugan_tf.errors import InputError
from stugan_tf.randomness import ALGORITHM, draw_uniform, fold
from stugan_tf.signatures import ImageShape, Seed

TRANSLATION = 1 / 8  # The largest shift, as a fraction of an image's side; as in the paper.
CUTOUT = 1 / 2  # The side of the cut, as a fraction of an image's side; as in the paper.


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """A sequence of alterations.

    Attributes:
        policy: names of the alterations, in their order; see `diff_augment`.
    """

    policy: tuple[str, ...]

    def draw(self, num: int, image_shape: ImageShape, seed: Seed) -> list[tf.Tensor]:
        """Draws random numbers for `num` images of `image_shape`.

        Args:
            num: number of images.
            image_shape: (H, W, C).
            seed: int [2].

        Returns:
            A tensor [num, ...] for each alteration.
        """
        return [
            _ALTERATIONS[name][0](num, image_shape, fold(seed, index))
            for index, name in enumerate(self.policy)
        ]

    def apply(self, images: tf.Tensor, drawn: Sequence[tf.Tensor]) -> tf.Tensor:
        """Alters images.

        Args:
            images: float32 [num, H, W, C] in [-1, 1].
            drawn: the random numbers that `draw` returned for them.

        Returns:
            float32 [num, H, W, C].
        """
        for name, numbers in zip(self.policy, drawn, strict=True):
            images = _ALTERATIONS[name][1](images, numbers)
        return images


def check_augmentation(name: str, augmentation: Augmentation, image_shape: ImageShape) -> None:
    """Raises InputError unless an augmentation alters images of `image_shape`."""
    images = tf.fill([2, *image_shape], 0.25)
    contract = "`(num, image_shape, seed) -> drawn`, a list of tensors [num, ...]"
    trial = Trial(f"{name}'s draw", augmentation.draw, contract)
    drawn = trial.of(num=2, image_shape=tuple(image_shape), seed=tf.constant([3, 4], tf.int64))
    if not isinstance(drawn, (list, tuple)) or not all(
        tf.is_tensor(numbers) and numbers.shape[:1] == [2] for numbers in drawn
    ):
        raise trial.refusal(f"for 2 images it returned {drawn}")
    contract = "`(images, drawn) -> images`, float32 in the shape of images"
    trial = Trial(f"{name}'s apply", augmentation.apply, contract)
    trial.check_tensor("its result", trial.of(images=images, drawn=drawn), images.shape)


@gin.configurable
def diff_augment(policy: Sequence[str] = ("color", "translation", "cutout")) -> Augmentation:
    """The alterations of the paper, in the order of `policy`.

    Args:
        policy: names among `color` (brightness, saturation and contrast), `translation` (by up to
            1/8 of the image, filled with zeros) and `cutout` (a square of half the side becomes
            zero).

    Raises:
        InputError: if a name is unknown, or `policy` is empty.
    """
    names = list(_ALTERATIONS)
    if isinstance(policy, str) or not policy or not set(policy) <= set(names):
        raise InputError(
            f"diff_augment.policy must be a list of some of {names}, got {policy!r}. To change "
            "nothing, set Algorithm.augmentation = None."
        )
    return Augmentation(tuple(policy))


def _draw_color(num: int, image_shape: ImageShape, seed: Seed) -> tf.Tensor:
    del image_shape
    return draw_uniform([num, 3], seed)


def _alter_color(images: tf.Tensor, numbers: tf.Tensor) -> tf.Tensor:
    """Adds a brightness in [-0.5, 0.5), scales saturation by [0, 2), contrast by [0.5, 1.5)."""
    brightness, saturation, contrast = tf.unstack(numbers[:, :, None, None, None], axis=1)
    images += brightness - 0.5
    gray = tf.reduce_mean(images, axis=3, keepdims=True)
    images = (images - gray) * (2 * saturation) + gray
    mean = tf.reduce_mean(images, axis=[1, 2, 3], keepdims=True)
    return (images - mean) * (contrast + 0.5) + mean


def _draw_translation(num: int, image_shape: ImageShape, seed: Seed) -> tf.Tensor:
    largest = _rounded(TRANSLATION * image_shape[0]), _rounded(TRANSLATION * image_shape[1])
    return _draw_pairs(num, seed, [-size for size in largest], [size + 1 for size in largest])


def _translate(images: tf.Tensor, shifts: tf.Tensor) -> tf.Tensor:
    """Moves each image down and to the right by `shifts`, int32 [num, 2]."""
    for axis in (1, 2):
        size = images.shape[axis]
        source = tf.range(size) - shifts[:, axis - 1 : axis]  # [num, size]
        moved = tf.gather(images, tf.clip_by_value(source, 0, size - 1), axis=axis, batch_dims=1)
        inside = tf.cast((source >= 0) & (source < size), images.dtype)
        images = moved * _along(inside, axis)
    return images


def _draw_cutout(num: int, image_shape: ImageShape, seed: Seed) -> tf.Tensor:
    # The centre may be anywhere in the image. For an even square it may also be its end.
    stops = [size + 1 - _rounded(CUTOUT * size) % 2 for size in image_shape[:2]]
    return _draw_pairs(num, seed, [0, 0], stops)


def _cut_out(images: tf.Tensor, centers: tf.Tensor) -> tf.Tensor:
    """Zeroes the square around `centers`, int32 [num, 2], as far as it is inside the image."""
    covered: Any = 1.0
    for axis in (1, 2):
        size = images.shape[axis]
        side = _rounded(CUTOUT * size)
        position = tf.range(size) - centers[:, axis - 1 : axis] + side // 2
        within = tf.cast((position >= 0) & (position < side), images.dtype)
        covered *= _along(within, axis)
    return images * (1 - covered)


_ALTERATIONS = {
    "color": (_draw_color, _alter_color),
    "translation": (_draw_translation, _translate),
    "cutout": (_draw_cutout, _cut_out),
}


def _draw_pairs(num: int, seed: Seed, starts: Sequence[int], stops: Sequence[int]) -> tf.Tensor:
    """Uniform int32 [num, 2]; column i is in [`starts[i]`, `stops[i]`)."""
    columns = [
        tf.random.stateless_uniform([num], fold(seed, index), start, stop, tf.int32, alg=ALGORITHM)
        for index, (start, stop) in enumerate(zip(starts, stops, strict=True))
    ]
    return tf.stack(columns, axis=1)


def _along(values: tf.Tensor, axis: int) -> tf.Tensor:
    """Reshapes [num, size] to [num, size, 1, 1] or [num, 1, size, 1]."""
    return values[:, :, None, None] if axis == 1 else values[:, None, :, None]


def _rounded(value: float) -> int:
    return int(value + 0.5)
