"""Initial weights, as in PyTorch and in BigGAN's code.

`normal_weights` and `orthogonal_weights` are one family, `() -> initializer`. They are called once
for each layer: a Keras initializer that is used twice draws the same numbers twice.
"""

import math
from collections.abc import Sequence

import gin
import keras
import tensorflow as tf


@gin.configurable
def normal_weights(standard_deviation: float = 0.02) -> keras.initializers.Initializer:
    """N(0, standard_deviation^2). BigGAN's code calls the default N02.

    Args:
        standard_deviation: of the weights.
    """
    return keras.initializers.RandomNormal(stddev=standard_deviation)


@gin.configurable
def orthogonal_weights() -> keras.initializers.Initializer:
    """Orthonormal rows or columns of the kernel, seen as a matrix with a column per output."""
    return Orthogonal()


def torch_kernel() -> keras.initializers.Initializer:
    """PyTorch's default for kernels of linear layers: U(-1/sqrt(fan_in), 1/sqrt(fan_in))."""
    return keras.initializers.VarianceScaling(1 / 3, mode="fan_in", distribution="uniform")


def torch_bias(fan_in: int) -> keras.initializers.Initializer:
    """PyTorch's default for all biases: U(-1/sqrt(fan_in), 1/sqrt(fan_in))."""
    return keras.initializers.RandomUniform(-1 / math.sqrt(fan_in), 1 / math.sqrt(fan_in))


@keras.saving.register_keras_serializable("stugan_tf")
class Orthogonal(keras.initializers.Orthogonal):
    """Draws like Keras' initializer, but without its QR decomposition: it is slow for wide layers.

    The orthogonal Q of a Gaussian matrix A = QR is A R^-1, where R'R = A'A, so R is a Cholesky
    factor. That squares the condition number, which is below 3 for a matrix four times as high as
    wide, but large for a square one.
    """

    def __call__(self, shape: Sequence[int], dtype: str | None = None) -> tf.Tensor:
        """A tensor that, as a matrix with a column per output, has orthonormal columns or rows."""
        *rest, num_columns = shape
        num_rows = math.prod(rest)
        long, short = max(num_rows, num_columns), min(num_rows, num_columns)
        matrix = keras.random.normal((long, short), dtype="float32", seed=self.seed)
        matrix = tf.cast(matrix, tf.float32 if long >= 4 * short else tf.float64)
        factor = tf.linalg.cholesky(tf.matmul(matrix, matrix, transpose_a=True))  # R'
        inverse = tf.linalg.triangular_solve(factor, tf.eye(short, dtype=matrix.dtype))
        orthogonal = tf.matmul(matrix, inverse, transpose_b=True)
        if num_rows < num_columns:
            orthogonal = tf.transpose(orthogonal)
        return self.gain * tf.cast(tf.reshape(orthogonal, shape), dtype or keras.config.floatx())
