"""Variables are named by their path, alike in each process."""

import keras

from stugan_tf.layers.masked import Masked
from stugan_tf.layers.paths import names_of, unique


class Twins(keras.layers.Layer):
    """Two layers of one name inside of a third."""

    def build(self, input_shape):
        self.first = keras.layers.Dense(2, name="inner")
        self.second = keras.layers.Dense(2, name="inner")
        self.first.build(input_shape)
        self.second.build(input_shape)

    def call(self, inputs):
        return self.first(inputs) + self.second(inputs)


def build():
    images = keras.Input((4, 4, 1))
    outputs = Masked(keras.layers.Conv2D(2, 1, name="block2_c1"))(images)
    outputs = Masked(keras.layers.Conv2D(2, 1))(outputs)
    outputs = keras.layers.Dropout(0.5)(keras.layers.Conv2D(2, 1, use_bias=False)(outputs))
    outputs = keras.layers.Conv2D(2, 1, use_bias=False, name="conv_7")(outputs)
    return keras.Model(images, Twins()(keras.layers.Flatten()(outputs)))


def test_names_are_paths_and_layers_without_a_name_are_numbered_within_the_model():
    names = names_of(build())
    assert len(names) == len(set(names))
    assert [name for name in names if "conv" in name or "block" in name] == [
        "block2_c1/kernel_mask",
        "block2_c1/kernel",
        "block2_c1/bias",
        "conv2d/kernel_mask",
        "conv2d/kernel",
        "conv2d/bias",
        "conv2d_1/kernel",
        "conv_7/kernel",
    ]


def test_names_do_not_depend_on_what_was_built_before():
    first = build()
    second = build()
    assert [v.path for v in first.variables] != [v.path for v in second.variables]
    assert names_of(first) == names_of(second)


def test_each_name_is_there_once():
    names = ["a", "b", "a", "a_2", "a"]
    assert unique(names) == ["a", "b", "a_2", "a_2_2", "a_3"]
