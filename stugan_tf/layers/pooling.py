"""Pooling that Keras does not have."""

import keras


@keras.saving.register_keras_serializable("stugan_tf")
class SumPooling2D(keras.layers.Layer):
    """Sums over height and width: [B, H, W, C] to [B, C].

    The sum is float32 at least, and rounded once: each of many terms would round it in 16 bits.
    """

    def call(self, inputs):
        """Sums the positions."""
        dtype = keras.backend.result_type(inputs.dtype, "float32")
        sums = keras.ops.sum(keras.ops.cast(inputs, dtype), axis=(1, 2))
        return keras.ops.cast(sums, inputs.dtype)
