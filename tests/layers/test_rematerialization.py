"""A model that rematerialises is the model: outputs, gradients, and state, which moves once."""

import functools
import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st
from keras import layers
from tensorflow.python.eager import context

from stugan_tf.adapters.keras_internals import nodes
from stugan_tf.errors import InputError
from stugan_tf.layers.fusion import fuse
from stugan_tf.layers.graph import activation_size
from stugan_tf.layers.masked import set_execution
from stugan_tf.layers.rematerialization import (
    Rematerialized,
    cheapest_cuts,
    parts_of,
    rematerialized_sizes,
)
from stugan_tf.models.biggan import biggan_discriminator, biggan_generator
from stugan_tf.models.sngan import sngan_discriminator, sngan_generator
from tests.helpers.comparison import assert_same, everything, randomize
from tests.helpers.params import first_by_default

SHAPE = (32, 32, 3)
NUM_CLASSES = 3
BIGGAN = {"width": 2, "attention_sizes": (16,)}


def draw(*shape):
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


LABELS = np.array([2, 0, 2, 1], np.int32)
# A network, and what it is given.
CASES = {
    "sngan_generator": (
        functools.partial(sngan_generator, (16, 16, 3), width=4, latent_dim=5),
        draw(4, 5),
    ),
    "sngan_discriminator": (
        functools.partial(sngan_discriminator, (16, 16, 3), width=4),
        draw(4, 16, 16, 3),
    ),
    "biggan_generator": (
        functools.partial(biggan_generator, SHAPE, NUM_CLASSES, latent_dim=8, **BIGGAN),
        [draw(4, 8), LABELS],
    ),
    "hierarchical_generator": (
        functools.partial(
            biggan_generator,
            SHAPE,
            NUM_CLASSES,
            latent_dim=8,
            shared_dim=5,
            hierarchical=True,
            **BIGGAN,
        ),
        [draw(4, 8), LABELS],
    ),
    "biggan_discriminator": (
        functools.partial(biggan_discriminator, SHAPE, NUM_CLASSES, **BIGGAN),
        [draw(4, *SHAPE), LABELS],
    ),
}


def check(model, inputs, tolerance=0.0):
    """That rematerialisation changes nothing; returns the rematerialised model."""
    variables = list(model.variables)
    expected = everything(model, inputs, variables)
    rematerialized = Rematerialized(model)
    assert_same(everything(rematerialized, inputs, variables), expected, tolerance)
    return rematerialized


@pytest.mark.parametrize("case", first_by_default(*CASES))
def test_it_is_the_same_network_and_cut_between_its_blocks(case):
    make, inputs = CASES[case]
    model = randomize(make())
    # A tensor that several segments use gets its gradients in another order.
    rematerialized = check(model, inputs, tolerance=1e-6)
    assert len(rematerialized.segments) >= 3
    kept, largest = rematerialized_sizes(model)
    assert kept + largest < 0.8 * activation_size(model)
    assert np.all(rematerialized(inputs) == model(inputs))


@pytest.mark.parametrize("case", CASES)
def test_every_operation_is_in_one_part_and_parts_hand_on_one_feature_map(case):
    model = CASES[case][0]()
    parts = parts_of(model)
    assert [n for part in parts for n in part.nodes] == nodes(model)
    known = {id(tensor) for tensor in model.inputs}
    for part in parts:
        assert {id(tensor) for tensor in part.inputs} <= known
        assert sum(len(tensor.shape) > 2 for tensor in part.outputs) <= 1
        known |= {id(tensor) for tensor in part.outputs}
    assert {id(tensor) for tensor in model.outputs} <= known


@pytest.mark.usefixtures("operations")
def test_it_goes_with_fused_sparse_execution():
    make, inputs = CASES["sngan_generator"]
    fused = fuse(set_execution(randomize(make()), "sparse"))
    assert len(check(fused, inputs, tolerance=1e-6).segments) >= 3


def chain():
    """Eight layers, one after the other, of feature maps of one size."""
    images = outputs = keras.Input([4, 4, 2])
    for _ in range(4):
        outputs = layers.Conv2D(2, 3, padding="same")(outputs)
        outputs = layers.BatchNormalization()(outputs)
    return keras.Model(images, outputs)


def test_of_a_chain_about_the_root_is_kept():
    """Of eight feature maps three between the parts, and the output; two in a part."""
    model = chain()
    assert [len(part.nodes) for part in parts_of(model)] == [2, 2, 2, 2]
    check(model, draw(3, 4, 4, 2))
    size = 4 * 4 * 4 * 2  # Bytes, height, width, channels.
    assert rematerialized_sizes(model) == (4 * size, 2 * size)


def test_where_cuts_save_nothing_there_is_one_segment():
    """The first feature map is as large as the rest of the network."""
    images = keras.Input([4, 4, 2])
    features = layers.GlobalAveragePooling2D()(layers.Conv2D(2, 3, padding="same")(images))
    model = keras.Model(images, layers.Dense(1)(features))
    assert len(check(model, draw(3, 4, 4, 2)).segments) == 1


def test_layers_called_twice_models_inside_and_several_outputs():
    images, numbers = keras.Input([4, 4, 2]), keras.Input([], dtype="int32")
    convolution = layers.Conv2D(2, 3, padding="same")
    activation = layers.Activation("tanh")
    outputs = first = activation(convolution(images))
    outputs = activation(convolution(chain()(outputs)))
    outputs = keras.Sequential([layers.BatchNormalization(), layers.ReLU()])(outputs)
    features = layers.GlobalAveragePooling2D()(outputs)
    doubled = 2 * numbers
    features *= keras.ops.expand_dims(keras.ops.cast(doubled, "float32"), -1)
    model = keras.Model([images, numbers], {"features": features, "first": first, "2n": doubled})
    inputs = [draw(3, 4, 4, 2), LABELS[:3]]
    assert len(check(model, inputs, tolerance=1e-6).segments) > 1
    assert Rematerialized(model)(inputs).keys() == model(inputs).keys()


@pytest.mark.parametrize("jit_compile", [False, True])
def test_dropout_drops_the_same_units_again_and_others_the_next_time(jit_compile):
    vectors = keras.Input([1000])
    dropout = layers.Dropout(0.5, seed=1)
    model = Rematerialized(keras.Model(vectors, dropout(vectors)))
    given = tf.constant(draw(1, 1000))

    @tf.function(jit_compile=jit_compile)
    def call():
        with tf.GradientTape() as tape:
            tape.watch(given)
            outputs = model(given, training=True)
        return outputs, tape.gradient(outputs, given)

    (first, gradient), (second, _) = call(), call()
    np.testing.assert_allclose(first, gradient * given, rtol=1e-6)
    assert np.any(gradient == 0)
    assert np.any((first == 0) != (second == 0))


def gradient_function(call, model, jit_compile):
    @tf.function(jit_compile=jit_compile)
    def gradients(images):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(call(images, training=True) ** 2)
        return tape.gradient(loss, [variable.value for variable in model.trainable_variables])

    return gradients


def num_convolutions(gradients, images, jit_compile):
    """How many there are in the optimized program of a gradient function."""
    if jit_compile:
        hlo = gradients.experimental_get_compiler_ir(images)(stage="optimized_hlo")
        return hlo.count(" convolution(")
    context.context().enable_run_metadata()
    gradients(images)
    graphs = context.context().export_run_metadata().partition_graphs
    context.context().disable_run_metadata()
    operations = [node.op for graph in graphs for node in graph.node]  # Others may be fused in.
    return sum("Conv2D" in name and "Backprop" not in name for name in operations)


@pytest.mark.parametrize("jit_compile", first_by_default(False, True))
def test_no_compiler_merges_the_second_run_with_the_first(jit_compile):
    """Each of four segments is a convolution and a batch norm, whose gradient needs the former."""
    model = chain()
    images = tf.constant(draw(3, 4, 4, 2))
    calls = [gradient_function(call, model, jit_compile) for call in (model, Rematerialized(model))]
    plain, again = (num_convolutions(call, images, jit_compile) for call in calls)
    # To XLA the gradients of kernels are convolutions, and those of inputs; images need none.
    assert plain == (4 + 4 + 3 if jit_compile else 4)
    assert again == plain + 4
    found = []
    for call in calls:
        for variable in model.non_trainable_variables:
            variable.assign(tf.zeros_like(variable))
        found.append(call(images))
    for gradient, expected in zip(*found, strict=True):
        np.testing.assert_allclose(gradient, expected, rtol=1e-3, atol=1e-3)


@given(
    st.lists(st.integers(0, 9), min_size=1, max_size=7),
    st.lists(st.integers(0, 9), min_size=6, max_size=6),
)
def test_no_other_cuts_keep_less(sizes, kept):
    kept = kept[: len(sizes) - 1]

    def memory(cuts):
        assert (cuts[0], cuts[-1]) == (0, len(sizes))
        parts = [sum(sizes[begin:end]) for begin, end in itertools.pairwise(cuts)]
        return sum(kept[cut - 1] for cut in cuts[1:-1]) + max(parts)

    inside = range(1, len(sizes))
    others = (
        [0, *chosen, len(sizes)]
        for number in range(len(sizes))
        for chosen in itertools.combinations(inside, number)
    )
    assert memory(cheapest_cuts(sizes, kept)) == min(map(memory, others))


def test_a_model_without_a_graph_is_refused():
    class Mine(keras.Model):
        """A subclassed model."""

    with pytest.raises(InputError, match="a Mine, cannot be rematerialised: only functional and"):
        Rematerialized(Mine())
