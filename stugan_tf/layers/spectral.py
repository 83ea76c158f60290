"""Spectral normalisation: layers that compute with W / sigma(W) (Miyato et al., 2018)."""

import math

import keras
import tensorflow as tf


class SpectralNormalization:
    """Mixin of a layer with a `kernel`: divides it by its largest singular value.

    One power iteration per call in training mode, none in inference mode; `u` and `v` are
    constants to the gradient, which flows through sigma = v' W u. W is the kernel as a matrix of
    one column per output channel. The stored kernel is never rewritten, so masks and magnitudes
    refer to the raw weights.
    """

    epsilon = 1e-12  # Only where a vector is normalised: x / max(|x|, epsilon).

    def build(self, input_shape):
        """Builds the layer and the two singular vectors, random unit vectors at first."""
        super().build(input_shape)
        *rest, num_columns = self.kernel.shape
        num_rows = math.prod(rest)
        self.u = self._unit_vector("u", num_columns)
        self.v = self._unit_vector("v", num_rows)

    def add_weight(self, *args, **kwargs):
        """Adds a weight; one that is normalised stays in its own precision when layers do not."""
        if kwargs.get("name") in ("kernel", "embeddings"):
            kwargs["autocast"] = False
        return super().add_weight(*args, **kwargs)

    def _unit_vector(self, name, size):
        def initializer(shape, dtype):
            return self._normalized(keras.random.normal(shape, dtype=dtype))

        return self.add_weight(
            name=name, shape=(size,), initializer=initializer, trainable=False, autocast=False
        )

    def _normalized(self, vector):
        return vector / tf.maximum(tf.norm(vector), self.epsilon)

    # What Keras saves of its convolution and dense layers is `kernel` and `bias` alone.
    def save_own_variables(self, store):
        """Saves all variables of the layer."""
        keras.layers.Layer.save_own_variables(self, store)

    def load_own_variables(self, store):
        """Loads all variables of the layer."""
        keras.layers.Layer.load_own_variables(self, store)

    def normalized_kernel(self, training):
        """W / sigma(W), a tensor of the kernel's shape in the precision of the layer's work.

        sigma and the quotient are computed in the precision of the variable.
        """
        return tf.cast(self.kernel / self.sigma(training), self.compute_dtype)

    def sigma(self, training):
        """The largest singular value of the kernel as estimated now, a float scalar."""
        matrix = tf.reshape(self.kernel, [-1, self.kernel.shape[-1]])
        if training:
            v = self._normalized(tf.linalg.matvec(matrix, self.u.value))
            self.v.assign(tf.stop_gradient(v))
        v = tf.stop_gradient(self.v.value)
        product = tf.linalg.matvec(matrix, v, transpose_a=True)  # W'v, a multiple of the new u
        if training:
            self.u.assign(tf.stop_gradient(self._normalized(product)))
        return tf.reduce_sum(tf.stop_gradient(self.u.value) * product)


@keras.saving.register_keras_serializable("stugan_tf")
class SpectralConv2D(SpectralNormalization, keras.layers.Conv2D):
    """`keras.layers.Conv2D` with a spectrally normalised kernel."""

    def call(self, inputs, training=False):
        """Convolves with W / sigma(W), then adds the bias."""
        outputs = self.convolution_op(inputs, self.normalized_kernel(training))
        if self.use_bias:
            outputs = tf.nn.bias_add(outputs, self.bias)
        return self.activation(outputs)


@keras.saving.register_keras_serializable("stugan_tf")
class SpectralDense(SpectralNormalization, keras.layers.Dense):
    """`keras.layers.Dense` with a spectrally normalised kernel."""

    def call(self, inputs, training=False):
        """Multiplies by W / sigma(W), then adds the bias."""
        outputs = self.matmul_op(inputs, self.normalized_kernel(training))
        if self.use_bias:
            outputs = outputs + self.bias
        return self.activation(outputs)

    def matmul_op(self, inputs, kernel):
        """The matrix product; `Masked` may replace it, as it may a `convolution_op`."""
        # As Keras does. `tf.matmul` of [9, 1, 2, 6] and [6, 1] is wrong (2.21 with oneDNN).
        return keras.ops.matmul(inputs, kernel)
