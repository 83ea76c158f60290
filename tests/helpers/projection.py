"""The smallest conditional discriminator of plain Keras layers."""

import gin
import keras


@gin.configurable(module="tests", denylist=["image_shape", "num_classes"])
def projection_discriminator(image_shape, num_classes=10):
    """As in Miyato & Koyama (2018): the logit has a product of features and embedded class."""
    images, labels = keras.Input(image_shape), keras.Input([], dtype="int32")
    outputs = keras.layers.Conv2D(8, 3, strides=2, activation="relu")(images)
    outputs = keras.layers.GlobalAveragePooling2D()(outputs)
    projection = keras.layers.Dot(1)([outputs, keras.layers.Embedding(num_classes, 8)(labels)])
    return keras.Model(
        [images, labels], keras.layers.Add()([keras.layers.Dense(1)(outputs), projection])
    )
