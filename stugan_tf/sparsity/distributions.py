"""The density of each layer (Sec. 4.1), and the random mask that a layer starts with.

Distributions have the signature `(shapes, density) -> densities`. `shapes` are kernel shapes,
(height, width, in, out) or (in, out). `density` is the fraction of all their weights to keep. Draws
of masks have the signature `(shape, density, seed) -> mask`. The mask is float32, `seed` is a pair
of integers.

The paper does not say what happens to a layer whose density would exceed 1. Like RigL we keep such
layers dense and spread the rest of the budget over the others. The paper does not say how a mask is
drawn, either: `exact_mask` is our default, the authors' code has `bernoulli_mask`.
"""

import math
from collections.abc import Callable, Sequence

import gin
import numpy as np
import tensorflow as tf

from stugan_tf.contracts import Trial
from stugan_tf.errors import InputError
from stugan_tf.randomness import draw_uniform
from stugan_tf.signatures import Distribution, MaskDraw, Seed, Shape
from stugan_tf.sparsity.topology import top_k_mask


@gin.configurable(denylist=["shapes", "density"])
def erk(shapes: Sequence[Shape], density: float) -> list[float]:
    """Erdos-Renyi-Kernel: density_l = scale * (n_in + n_out + w + h) / (n_in * n_out * w * h).

    For a dense kernel this is the Erdos-Renyi density. `scale` is chosen to meet the budget.

    Raises:
        InputError: if there are no shapes, or the density is not in (0, 1].
    """
    return _proportional(shapes, density, score=lambda shape: sum(shape) / math.prod(shape))


@gin.configurable(denylist=["shapes", "density"])
def er(shapes: Sequence[Shape], density: float) -> list[float]:
    """Erdos-Renyi: density_l = scale * (n_in + n_out) / (n_in * n_out).

    SET defines it for dense layers, as the sparsity 1 - density_l. For convolutions the score
    ignores the height and width of the kernel, as in RigL. `scale` is chosen to meet the budget.

    Raises:
        InputError: if there are no shapes, or the density is not in (0, 1].
    """
    return _proportional(
        shapes, density, score=lambda shape: sum(shape[-2:]) / math.prod(shape[-2:])
    )


@gin.configurable(denylist=["shapes", "density"])
def uniform(shapes: Sequence[Shape], density: float) -> list[float]:
    """Gives every layer the density of the whole network.

    Raises:
        InputError: if there are no shapes, or the density is not in (0, 1].
    """
    _check(shapes, density)
    return [float(density)] * len(shapes)


@gin.configurable(denylist=["shape", "density", "seed"])
def exact_mask(shape: Shape, density: float, seed: Seed) -> tf.Tensor:
    """Puts exactly round(density * size) ones at uniformly random places."""
    return top_k_mask(draw_uniform(shape, seed), round(density * math.prod(shape)))


@gin.configurable(denylist=["shape", "density", "seed"])
def bernoulli_mask(shape: Shape, density: float, seed: Seed) -> tf.Tensor:
    """Sets each entry to one with probability `density`, independently of the others."""
    return tf.cast(draw_uniform(shape, seed) < density, tf.float32)


def densities_by(
    name: str, distribution: Distribution, shapes: Sequence[Shape], density: float
) -> list[float]:
    """The densities that a distribution gives to kernels of `shapes`.

    Raises:
        InputError: if `distribution`, the value of the setting `name`, breaks its contract.
    """
    trial = Trial(
        name, distribution, "`(shapes, density) -> densities`, a list of a number for each shape"
    )
    densities = trial.of(shapes=shapes, density=density)
    if not hasattr(densities, "__len__") or len(densities) != len(shapes):
        raise trial.refusal(f"for {len(shapes)} shapes it returned {densities!r}")
    for index, found in enumerate(densities):
        trial.check_number(f"number {index} of its result", found)
        if not 0 <= found <= 1:
            raise trial.refusal(f"number {index} of its result is {found}, outside [0, 1]")
    return densities


def check_draw(name: str, draw: MaskDraw) -> None:
    """Raises InputError unless `draw`, the value of a setting, draws masks."""
    trial = Trial(name, draw, "`(shape, density, seed) -> mask`, float32 zeros and ones of `shape`")
    mask = trial.of(shape=(2, 3), density=0.5, seed=(3, 4))
    trial.check_tensor("its result", mask, (2, 3))
    if not bool(tf.reduce_all((mask == 0) | (mask == 1))):
        raise trial.refusal("it returned other numbers")


def _proportional(
    shapes: Sequence[Shape], density: float, score: Callable[[Shape], float]
) -> list[float]:
    """Densities in proportion to the scores, which keep `density` of all weights; at most 1."""
    _check(shapes, density)
    scores = np.array([score(shape) for shape in shapes])
    sizes = np.array([math.prod(shape) for shape in shapes])
    densities = np.ones(len(shapes))
    sparse = np.full(len(shapes), density < 1)
    while sparse.any():
        budget = density * sizes.sum() - sizes[~sparse].sum()
        densities[sparse] = scores[sparse] * budget / (scores * sizes)[sparse].sum()
        if densities.max() <= 1:
            break
        sparse &= scores < scores[sparse].max()  # as in RigL, all that share the highest score
        densities[~sparse] = 1.0
    return densities.tolist()


def _check(shapes: Sequence[Shape], density: float) -> None:
    if not 0 < density <= 1:
        raise InputError(
            f"`density` must be in (0, 1], got {density}. "
            "It is the fraction of weights kept: write 0.1 for 90% sparse."
        )
    if not shapes or any(len(shape) < 2 or min(shape) < 1 for shape in shapes):
        raise InputError(
            "`shapes` must list kernels such as (3, 3, 256, 256) or (128, 4096), "
            f"got {shapes}. Check that the model is built and has layers to mask."
        )
