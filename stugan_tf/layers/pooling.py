"""Pooling that Keras does not have."""

from typing import Any

import keras


@keras.saving.register_keras_serializable("stugan_tf")
class SumPooling2D(keras.layers.Layer):
    """Sums over height and width: [B, H, W, C] to [B, C].

    The sum is computed in at least float32 and rounded once. In 16 bits each term would round it.
    """

    def call(self, inputs: Any) -> Any:
        """Sums the positions."""
        dtype = keras.backend.result_type(inputs.dtype, "float32")
        sums = keras.ops.sum(keras.ops.cast(inputs, dtype), axis=(1, 2))
        return keras.ops.cast(sums, inputs.dtype)
