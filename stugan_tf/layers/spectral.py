"""Spectral normalisation: layers that compute with W / sigma(W) (Miyato et al., 2018)."""

import math

import keras
import tensorflow as tf


class SpectralNormalization:
    """Mixin of a layer with a `kernel`: divides it by its largest singular value.

    One power iteration per call in training mode; `u` and `v` are constants to the gradient, which
    flows through sigma = v' W u. W is the kernel as a matrix of one column per output channel. The
    stored kernel is never rewritten, so masks and magnitudes refer to the raw weights.

    Two reference implementations are met. PyTorch's, the default, keeps both vectors, of length one
    from the start, and takes sigma from them as they are in inference mode. BigGAN's
    (`iterate_in_inference`) keeps `u` alone, at first N(0, 1) as drawn; inference mode iterates as
    well, but stores nothing. (There `u` is a matrix of one row, here a vector: the same numbers.)

    Args:
        *args: of the layer.
        epsilon: only where a vector is normalised: x / max(|x|, epsilon).
        iterate_in_inference: as in BigGAN's code.
        **kwargs: of the layer.
    """

    def __init__(self, *args, epsilon=1e-12, iterate_in_inference=False, **kwargs):
        super().__init__(*args, **kwargs)
        self.epsilon = epsilon
        self.iterate_in_inference = iterate_in_inference

    def get_config(self):
        """The arguments."""
        own = {"epsilon": self.epsilon, "iterate_in_inference": self.iterate_in_inference}
        return {**super().get_config(), **own}

    def build(self, input_shape):
        """Builds the layer and the singular vectors, random at first."""
        super().build(input_shape)
        num_rows, num_columns = self._matrix_shape
        self.u = self._random_vector("u", num_columns)
        self.v = None if self.iterate_in_inference else self._random_vector("v", num_rows)

    def add_weight(self, *args, **kwargs):
        """Adds a weight; one that is normalised stays in its own precision when layers do not."""
        if kwargs.get("name") in ("kernel", "embeddings"):
            kwargs["autocast"] = False
        return super().add_weight(*args, **kwargs)

    def _random_vector(self, name, size):
        def initializer(shape, dtype):
            vector = keras.random.normal(shape, dtype=dtype)
            return vector if self.iterate_in_inference else self._normalized(vector)

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

    @property
    def _matrix_shape(self):
        *rest, num_columns = self.kernel.shape
        return math.prod(rest), num_columns

    def _matrix(self):
        return tf.reshape(self.kernel, self._matrix_shape)

    def normalized_kernel(self, training):
        """W / sigma(W), a tensor of the kernel's shape in the precision of the layer's work.

        sigma and the quotient are computed in the precision of the variable. Where W = 0, as after
        pruning that took the whole layer, it is 0 (the references compute 0 / 0).
        """
        normalized = tf.math.divide_no_nan(self.kernel, self.sigma(training))
        return tf.cast(normalized, self.compute_dtype)

    def sigma(self, training):
        """The largest singular value of W as estimated now, a float scalar."""
        matrix = self._matrix()
        iterates = training or self.iterate_in_inference
        v = self._normalized(tf.linalg.matvec(matrix, self.u.value)) if iterates else self.v.value
        v = tf.stop_gradient(v)
        product = tf.linalg.matvec(matrix, v, transpose_a=True)  # W'v, a multiple of the new u
        u = tf.stop_gradient(self._normalized(product) if iterates else self.u.value)
        if training:
            # Of W = 0 nothing is learned, and vectors of zeros would never leave zero again.
            known = tf.reduce_any(product != 0)
            self.u.assign(tf.where(known, u, self.u))
            if self.v is not None:
                self.v.assign(tf.where(known, v, self.v))
        return tf.reduce_sum(u * product)


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


@keras.saving.register_keras_serializable("stugan_tf")
class SpectralEmbedding(SpectralNormalization, keras.layers.Embedding):
    """`keras.layers.Embedding` with a spectrally normalised table.

    An output is a class, as in PyTorch, whose table is [classes, features]: `u` has a number for
    each class.
    """

    def call(self, inputs, training=False):
        """Rows of W / sigma(W)."""
        rows = tf.gather(self.embeddings, tf.cast(inputs, tf.int32))
        rows = tf.math.divide_no_nan(rows, self.sigma(training))
        return tf.cast(rows, self.compute_dtype)

    def compute_output_spec(self, inputs, training=False):
        """As of `Embedding`, which takes no `training`."""
        del training
        return super().compute_output_spec(inputs)

    @property
    def _matrix_shape(self):
        num_classes, num_features = self.embeddings.shape
        return num_features, num_classes

    def _matrix(self):
        return tf.transpose(self.embeddings)
