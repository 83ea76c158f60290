"""Spectral normalisation: layers that compute with W / sigma(W) (Miyato et al., 2018)."""

import math
from typing import Any

import keras
import tensorflow as tf


class SpectralNormalization(keras.layers.Layer):
    """Mixin for a layer with a `kernel`: divides it by its largest singular value.

    Each call in training mode makes one power iteration. The gradient flows through
    sigma = v' W u, with `u` and `v` as constants. W is the kernel as a matrix with one column per
    output channel. The stored kernel is never rewritten, so masks and magnitudes refer to the raw
    weights.

    Two reference implementations are matched. PyTorch's is the default: both vectors are kept, have
    length 1 from the start, and give sigma as they are in inference mode. BigGAN's
    (`iterate_in_inference`) keeps `u` only, which starts as N(0, 1), not normalised. Its inference
    mode iterates too, but stores nothing. (There `u` is a matrix with one row, here it is a vector:
    the same numbers.)

    Args:
        *args: arguments of the layer.
        epsilon: used only to normalise a vector: x / max(|x|, epsilon).
        iterate_in_inference: compute as BigGAN's code does.
        **kwargs: arguments of the layer.
    """

    def __init__(
        self,
        *args: Any,
        epsilon: float = 1e-12,
        iterate_in_inference: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.epsilon = epsilon
        self.iterate_in_inference = iterate_in_inference

    def get_config(self) -> dict[str, Any]:
        """The arguments."""
        own = {"epsilon": self.epsilon, "iterate_in_inference": self.iterate_in_inference}
        return {**super().get_config(), **own}

    def build(self, input_shape: Any) -> None:
        """Builds the layer and the singular vectors, which are random at first."""
        super().build(input_shape)
        num_rows, num_columns = self._matrix_shape
        self.u = self._random_vector("u", num_columns)
        self.v: Any = None if self.iterate_in_inference else self._random_vector("v", num_rows)

    def add_weight(self, *args: Any, **kwargs: Any) -> keras.Variable:
        """Adds a weight. The normalised one keeps its own precision under mixed precision."""
        if kwargs.get("name") in ("kernel", "embeddings"):
            kwargs["autocast"] = False
        return super().add_weight(*args, **kwargs)

    def _random_vector(self, name: str, size: int) -> keras.Variable:
        def initializer(shape: Any, dtype: Any) -> tf.Tensor:
            vector = keras.random.normal(shape, dtype=dtype)
            return vector if self.iterate_in_inference else self._normalized(vector)

        return self.add_weight(
            name=name, shape=(size,), initializer=initializer, trainable=False, autocast=False
        )

    def _normalized(self, vector: tf.Tensor) -> tf.Tensor:
        return vector / tf.maximum(tf.norm(vector), self.epsilon)

    # Keras saves only `kernel` and `bias` of its convolution and dense layers.
    def save_own_variables(self, store: Any) -> None:
        """Saves all variables of the layer."""
        keras.layers.Layer.save_own_variables(self, store)

    def load_own_variables(self, store: Any) -> None:
        """Loads all variables of the layer."""
        keras.layers.Layer.load_own_variables(self, store)

    @property
    def _matrix_shape(self) -> tuple[int, int]:
        *rest, num_columns = self.kernel.shape
        return math.prod(rest), num_columns

    def _matrix(self) -> tf.Tensor:
        return tf.reshape(self.kernel, self._matrix_shape)

    def normalized_kernel(self, training: bool) -> tf.Tensor:
        """W / sigma(W), a tensor in the shape of the kernel and the layer's compute precision.

        sigma and the quotient are computed in the precision of the variable. If W = 0, as when
        pruning took the whole layer, the result is 0 (the references compute 0 / 0).
        """
        normalized = tf.math.divide_no_nan(self.kernel, self.sigma(training))
        return tf.cast(normalized, self.compute_dtype)

    def sigma(self, training: bool) -> tf.Tensor:
        """The present estimate of the largest singular value of W, a float scalar."""
        matrix = self._matrix()
        iterates = training or self.iterate_in_inference
        v = self._normalized(tf.linalg.matvec(matrix, self.u.value)) if iterates else self.v.value
        v = tf.stop_gradient(v)
        product = tf.linalg.matvec(matrix, v, transpose_a=True)  # W'v, a multiple of the new u
        u = tf.stop_gradient(self._normalized(product) if iterates else self.u.value)
        if training:
            # W = 0 says nothing about its vectors, and vectors of zeros would stay zero for good.
            known = tf.reduce_any(product != 0)
            self.u.assign(tf.where(known, u, self.u))
            if self.v is not None:
                self.v.assign(tf.where(known, v, self.v))
        return tf.reduce_sum(u * product)


@keras.saving.register_keras_serializable("stugan_tf")
class SpectralConv2D(SpectralNormalization, keras.layers.Conv2D):
    """`keras.layers.Conv2D` with a spectrally normalised kernel."""

    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Convolves with W / sigma(W), then adds the bias."""
        outputs = self.convolution_op(inputs, self.normalized_kernel(training))
        if self.use_bias:
            outputs = tf.nn.bias_add(outputs, self.bias)
        return self.activation(outputs)


@keras.saving.register_keras_serializable("stugan_tf")
class SpectralDense(SpectralNormalization, keras.layers.Dense):
    """`keras.layers.Dense` with a spectrally normalised kernel."""

    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Multiplies by W / sigma(W), then adds the bias."""
        outputs = self.matmul_op(inputs, self.normalized_kernel(training))
        if self.use_bias:
            outputs = outputs + self.bias
        return self.activation(outputs)

    def matmul_op(self, inputs: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
        """The matrix product. `Masked` may replace it, as it may replace `convolution_op`."""
        # As Keras does. `tf.matmul` of [9, 1, 2, 6] and [6, 1] is wrong (2.21 with oneDNN).
        return keras.ops.matmul(inputs, kernel)


@keras.saving.register_keras_serializable("stugan_tf")
class SpectralEmbedding(SpectralNormalization, keras.layers.Embedding):
    """`keras.layers.Embedding` with a spectrally normalised table.

    An output is a class, as in PyTorch, where the table is [classes, features]: `u` has one number
    for each class.
    """

    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Rows of W / sigma(W)."""
        rows = tf.gather(self.embeddings, tf.cast(inputs, tf.int32))
        rows = tf.math.divide_no_nan(rows, self.sigma(training))
        return tf.cast(rows, self.compute_dtype)

    def compute_output_spec(self, inputs: Any, training: bool = False) -> keras.KerasTensor:
        """Like that of `Embedding`, which takes no `training`."""
        del training
        return super().compute_output_spec(inputs)

    @property
    def _matrix_shape(self) -> tuple[int, int]:
        num_classes, num_features = self.embeddings.shape
        return num_features, num_classes

    def _matrix(self) -> tf.Tensor:
        return tf.transpose(self.embeddings)
