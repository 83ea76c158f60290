"""The signatures of the functions that users can bring.

All functions of a family have one signature. A function of your own fits wherever one of ours
fits. The module named above an alias says what the arguments mean.
"""

from collections.abc import Callable, Sequence
from typing import TypeAlias

import tensorflow as tf

# The shape of a kernel: (height, width, in, out) or (in, out).
Shape: TypeAlias = tuple[int, ...]
# The shape of an image: (height, width, channels).
ImageShape: TypeAlias = tuple[int, int, int]
# Two integers, the seed of TensorFlow's stateless random numbers.
Seed: TypeAlias = Sequence[int] | tf.Tensor

# (weight, gradient, seed) -> scores: `sparsity.criteria`.
Criterion: TypeAlias = Callable[[tf.Tensor, tf.Tensor, Seed], tf.Tensor]
# (shapes, density) -> a density for each shape: `sparsity.distributions`.
Distribution: TypeAlias = Callable[[Sequence[Shape], float], list[float]]
# (shape, density, seed) -> mask: `sparsity.distributions`.
MaskDraw: TypeAlias = Callable[[Shape, float, Seed], tf.Tensor]
# (progress) -> drop fraction: `sparsity.schedules`.
Schedule: TypeAlias = Callable[[float], float]
# (average, weight, mask, seen, decay) -> (average, seen): `sparsity.averaging`.
Average: TypeAlias = Callable[
    [tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor, float], tuple[tf.Tensor, tf.Tensor]
]
