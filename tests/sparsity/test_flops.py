import keras
import numpy as np
import pytest
from keras import layers

from stugan_tf.errors import InputError
from stugan_tf.layers.masked import Masked
from stugan_tf.layers.spectral import SpectralConv2D
from stugan_tf.sparsity.flops import LayerCost, counted, layer_costs, total_flops


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


def test_what_is_inside_a_wrapper_counts_as_often_as_it_is_called():
    convolution = layers.Conv2D(4, 3, padding="same", name="mine")
    cost = cost_of(layers.TimeDistributed(convolution), (5, 8, 6, 2))
    assert (cost.name, cost.size, cost.macs) == ("mine", 72, 5 * 48 * 72)
    normalized = layers.SpectralNormalization(layers.Conv2D(4, 3, padding="same"))
    assert cost_of(normalized, (8, 6, 2)).macs == 48 * 72
    assert cost_of(Masked(layers.SpectralNormalization(layers.Conv2D(4, 3))), (8, 6, 2)).masked


def test_a_separable_convolution_has_two_kernels():
    inputs = keras.Input((8, 6, 2))
    outputs = layers.SeparableConv2D(5, 3, 2, "same", depth_multiplier=3, name="s")(inputs)
    costs = layer_costs(keras.Model(inputs, outputs))
    assert [(cost.name, cost.size, cost.macs) for cost in costs] == [
        ("s/depthwise", 9 * 2 * 3, 12 * 9 * 2 * 3),
        ("s/pointwise", 2 * 3 * 5, 12 * 2 * 3 * 5),
    ]


@pytest.mark.parametrize("by_name", [False, True])
def test_attention_of_several_heads_has_four_projections_and_two_products(by_name):
    query, value = keras.Input((6, 8)), keras.Input((4, 5))
    attention = layers.MultiHeadAttention(2, key_dim=3, value_dim=7, name="a")
    arguments = {"value": value, "query": query, "key": value}
    outputs = attention(**arguments) if by_name else attention(query, value)
    costs = layer_costs(keras.Model([query, value], outputs))
    assert {cost.name: cost.macs for cost in costs} == {
        "a/query": 6 * 8 * 2 * 3,
        "a/key": 4 * 5 * 2 * 3,
        "a/value": 4 * 5 * 2 * 7,
        "a/output": 6 * 2 * 7 * 8,
        "a": 2 * 6 * 4 * (3 + 7),
    }


def test_attention_along_one_axis_multiplies_its_positions_only():
    images = keras.Input((4, 6, 8))
    attention = layers.MultiHeadAttention(2, key_dim=3, attention_axes=(2,), name="a")
    *_, products = layer_costs(keras.Model(images, attention(images, images)))
    assert products.macs == 4 * 2 * 6 * 6 * (3 + 3)


@pytest.mark.parametrize(
    ("equation", "output_shape", "macs"),
    [("abc,cde->abde", (None, 3, 5), 6 * 8 * 15), ("...c,cd->...d", 5, 6 * 8 * 5)],
)
def test_an_einsum_uses_each_weight_at_each_position(equation, output_shape, macs):
    assert cost_of(layers.EinsumDense(equation, output_shape), (6, 8)).macs == macs


def test_channels_may_come_first():
    layer = layers.DepthwiseConv2D(3, padding="same", data_format="channels_first")
    assert cost_of(layer, (6, 8, 4)).macs == 8 * 4 * 54


def test_a_model_for_any_size_counts_at_the_size_that_it_is_called_with():
    images = keras.Input((None, None, 3))
    outputs = layers.Conv2D(4, 3, strides=2, padding="same", name="c")(images)
    inner = keras.Model(images, layers.Conv2D(1, 1, name="d")(layers.ReLU()(outputs)))
    images = keras.Input((8, 6, 3))
    costs = layer_costs(keras.Model(images, inner(images)))
    assert [(cost.name, cost.macs) for cost in costs] == [("c", 12 * 108), ("d", 12 * 4)]


def test_what_cannot_be_counted_says_so_and_is_in_no_total():
    images = keras.Input((None, None, 3))
    costs = layer_costs(keras.Model(images, layers.Conv2D(4, 3, name="mine")(images)))
    assert [(cost.size, cost.uncounted) for cost in costs] == [(108, "its sizes are not known")]
    assert total_flops(counted(costs)) == (0, 0)
    with pytest.raises(InputError, match="FLOPs of layer 'mine' are not known: its sizes"):
        total_flops(costs)
    steps = keras.Input((5, 3))
    outputs = layers.Bidirectional(layers.GRU(2), name="both")(layers.Dense(3)(steps))
    dense, *others = layer_costs(keras.Model(steps, outputs))
    assert not dense.uncounted
    assert sum(cost.size for cost in others) == 2 * (3 * 6 + 2 * 6 + 2 * 6)
    assert all("a Bidirectional is not one of the kinds" in cost.uncounted for cost in others)


def test_a_model_without_a_graph_is_refused():
    class Subclassed(keras.Model):
        def call(self, inputs):
            return inputs

    with pytest.raises(InputError, match="'mine' is a Subclassed"):
        layer_costs(Subclassed(name="mine"))
