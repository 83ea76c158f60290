"""Pooling that Keras does not have."""

import keras


@keras.saving.register_keras_serializable("stugan_tf")
class SumPooling2D(keras.layers.Layer):
    """Sums over height and width: [B, H, W, C] to [B, C]."""

    def call(self, inputs):
        """Sums the positions."""
        return keras.ops.sum(inputs, axis=(1, 2))
