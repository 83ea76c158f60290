import keras
import numpy as np
import pytest
from keras import layers

from stugan_tf.errors import InputError
from stugan_tf.layers.masked import Masked
from stugan_tf.layers.spectral import SpectralConv2D
from stugan_tf.sparsity.flops import LayerCost, layer_costs, total_flops


def cost_of(layer, input_shape):
    inputs = keras.Input(input_shape)
    (cost,) = layer_costs(keras.Model(inputs, layer(inputs)))
    return cost


@pytest.mark.parametrize(
    ("layer", "input_shape", "size", "macs"),
    [
        (layers.Dense(5), (7,), 35, 35),
        (layers.Dense(5), (4, 7), 35, 4 * 35),
        (layers.Conv1D(4, 3, padding="same"), (10, 2), 24, 10 * 24),
        (layers.Conv2D(4, 3, padding="same"), (8, 6, 2), 72, 48 * 72),
        (layers.Conv2D(4, 3), (8, 6, 2), 72, 6 * 4 * 72),
        (layers.Conv2D(4, 3, strides=2, padding="same"), (8, 6, 2), 72, 4 * 3 * 72),
        (layers.Conv2D(4, 3, groups=2, padding="same"), (8, 8, 6), 3 * 3 * 3 * 4, 64 * 108),
        (layers.Conv2DTranspose(4, 3, strides=2, padding="same"), (4, 4, 2), 72, 16 * 72),
        (layers.DepthwiseConv2D(3, padding="same"), (8, 8, 6), 54, 64 * 54),
        (Masked(SpectralConv2D(4, 3, padding="same")), (8, 6, 2), 72, 48 * 72),
    ],
)
def test_costs_by_hand(layer, input_shape, size, macs):
    cost = cost_of(layer, input_shape)
    assert cost.size == cost.active == size
    assert cost.macs == macs
    assert cost.density == 1
    assert cost.flops == 2 * macs
    assert cost.masked == isinstance(layer, Masked)
    assert cost.name == layer.name


def test_attention_costs_two_products():
    query, value, key = keras.Input((6, 2)), keras.Input((4, 5)), keras.Input((4, 2))
    attention = layers.Attention()
    (cost,) = layer_costs(keras.Model([query, value, key], attention([query, value, key])))
    assert cost.macs == 6 * 2 * 4 + 6 * 4 * 5
    assert (cost.size, cost.active, cost.density, cost.masked) == (0, 0, 1, False)
    assert cost.flops == 2 * cost.macs


def test_a_transposed_convolution_costs_what_its_transpose_does():
    """Undoing a stride of 2 from 4x4 to 8x8 pairs the same weights as going from 8x8 to 4x4."""
    forward = cost_of(layers.Conv2D(5, 3, strides=2, padding="same"), (8, 8, 2))
    backward = cost_of(layers.Conv2DTranspose(2, 3, strides=2, padding="same"), (4, 4, 5))
    assert forward.macs == backward.macs


def test_flops_scale_with_the_density_of_the_mask():
    layer = Masked(layers.Conv2D(4, 3, padding="same"))
    layer.build((None, 8, 6, 2))
    mask = np.zeros(72, np.float32)
    mask[:18] = 1
    layer.assign_mask(mask.reshape(3, 3, 2, 4))
    cost = cost_of(layer, (8, 6, 2))
    assert (cost.active, cost.density) == (18, 0.25)
    assert cost.flops == 2 * 48 * 18


def test_each_call_of_a_shared_layer_counts_also_in_nested_models():
    shared = layers.Conv2D(2, 1, name="shared")
    inner = keras.Sequential([keras.Input((8, 8, 2)), shared, layers.AveragePooling2D(2)])
    images = keras.Input((8, 8, 2))
    outputs = shared(inner(shared(images)))
    outputs = layers.Dense(3, name="last")(layers.Flatten()(layers.ReLU()(outputs)))
    costs = layer_costs(keras.Model(images, outputs))
    assert [(cost.name, cost.macs) for cost in costs] == [
        ("shared", 64 * 4),
        ("shared", 64 * 4),
        ("shared", 16 * 4),
        ("last", 32 * 3),
    ]


def test_totals_by_hand():
    costs = [
        LayerCost("first", (10, 10), masked=True, active=25, macs=400),
        LayerCost("second", (1, 1, 5, 2), masked=False, active=10, macs=10),
    ]
    assert total_flops(costs) == (2 * 100 + 2 * 10, 2 * 400 + 2 * 10)


def test_unknown_sizes_are_refused():
    images = keras.Input((None, None, 3))
    model = keras.Model(images, layers.Conv2D(4, 3, name="mine")(images))
    with pytest.raises(InputError, match=r"sizes of layer 'mine' are not known: .*fixed image"):
        layer_costs(model)


def test_a_model_without_a_graph_is_refused():
    class Subclassed(keras.Model):
        def call(self, inputs):
            return inputs

    with pytest.raises(InputError, match="'mine' is a Subclassed"):
        layer_costs(Subclassed(name="mine"))
