import gc

import keras
import numpy as np
import pytest
from keras import layers

from stugan_tf.errors import InputError
from stugan_tf.layers.kernel_mask import kernel_masks
from stugan_tf.layers.masked import Masked
from stugan_tf.models.sngan import sngan_discriminator, sngan_generator
from stugan_tf.sparsity.distributions import bernoulli_mask, erk, uniform
from stugan_tf.sparsity.explorer import Explorer
from stugan_tf.sparsity.sparsify import Counts, count_weights, sparsify, sparsity_report
from tests.helpers.params import first_by_default

IMAGES = np.random.default_rng(0).normal(size=(2, 8, 8, 3)).astype(np.float32)


def functional():
    images = keras.Input((8, 8, 3))
    outputs = layers.Conv2D(16, 3)(images)
    shortcut = layers.Conv2D(16, 1)(outputs)
    outputs = layers.BatchNormalization()(layers.Conv2D(16, 3, padding="same")(outputs))
    outputs = layers.GlobalAveragePooling2D()(outputs + shortcut)
    return keras.Model(images, layers.Dense(10)(outputs))


def sequential():
    return keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            layers.Conv2D(16, 3, activation="relu"),
            layers.Conv2D(16, 3),
            layers.Flatten(),
            layers.Dense(10),
        ]
    )


def generator():
    return sngan_generator((16, 16, 3), width=8, latent_dim=4)


def discriminator():
    return sngan_discriminator((16, 16, 3), width=8)


MODELS = [functional, sequential, generator, discriminator]


def masks_of(model):
    return [mask.kernel_mask.numpy() for mask in kernel_masks(model)]


@pytest.mark.parametrize("make", MODELS)
@pytest.mark.parametrize("sparsity", first_by_default(0.8, 0.0, 0.3, 0.5, in_ci=1))
@pytest.mark.parametrize("distribution", [erk, uniform])
def test_any_model_is_sparse_after_one_line(make, sparsity, distribution):
    """The budget is met, kernels keep their values or are zero, all else is as before."""
    model = make()
    before = {id(variable): variable.numpy() for variable in model.trainable_variables}
    model = sparsify(model, sparsity, distribution)
    masked = kernel_masks(model)
    shapes = [layer.kernel.shape for layer in masked]
    for layer, density in zip(masked, distribution(shapes, 1 - sparsity), strict=True):
        mask = layer.kernel_mask.numpy()
        assert set(np.unique(mask)) <= {0, 1}
        assert layer.num_active() == mask.sum() == round(density * mask.size)
        np.testing.assert_array_equal(layer.kernel, before.pop(id(layer.kernel)) * mask)
    counts = count_weights(model)
    assert abs(counts.active - (1 - sparsity) * counts.maskable) <= len(masked) / 2
    for variable in model.trainable_variables:
        if id(variable) in before:
            np.testing.assert_array_equal(variable, before[id(variable)])


@pytest.mark.parametrize("make", [functional, sequential])
def test_sparsity_zero_is_the_plain_model(make):
    model = make()
    np.testing.assert_array_equal(sparsify(model, 0)(IMAGES), model(IMAGES))


def test_a_model_of_masked_layers_is_changed_in_place():
    model = generator()
    assert sparsify(model, 0.5) is model


def test_the_seed_alone_decides_the_masks():
    first, same, other = (
        masks_of(sparsify(functional(), 0.5, distribution=uniform, seed=seed)) for seed in (3, 3, 4)
    )
    for mask, same_mask, other_mask in zip(first, same, other, strict=True):
        np.testing.assert_array_equal(mask, same_mask)
        assert np.any(mask != other_mask)


def test_layers_of_one_shape_get_different_masks():
    first, second, *_ = masks_of(sparsify(discriminator(), 0.5, distribution=uniform))[-2:]
    assert first.shape == second.shape
    assert np.any(first != second)


def test_masks_can_be_drawn_independently():
    model = sparsify(generator(), 0.5, distribution=uniform, draw=bernoulli_mask)
    counts = count_weights(model)
    assert counts.sparsity == pytest.approx(0.5, abs=5 * 0.5 / np.sqrt(counts.maskable))
    assert any(2 * mask.sum() != mask.size for mask in masks_of(model))


@pytest.mark.parametrize("make", [functional, sequential])
def test_the_choice_of_a_gan_leaves_dense_layers_out_or_takes_them(make):
    """As a GAN asks: its masks are in layers of a new model, and dense layers have none."""
    for mask_dense in (True, False):
        model = make()
        sparse = sparsify(model, 0.5, mask_dense=mask_dense)
        assert sparse is not model
        kinds = [type(mask.layer) for mask in kernel_masks(sparse)]
        assert kinds.count(layers.Dense) == mask_dense


def test_counts_by_hand():
    model = sparsify(functional(), 0.5)
    maskable = 9 * 3 * 16 + 16 * 16 + 9 * 16 * 16 + 16 * 10
    assert count_weights(model).maskable == maskable
    assert count_weights(model).trainable == maskable + 3 * 16 + 2 * 16 + 10
    counts = Counts(active=30, maskable=120, trainable=180)
    assert counts.sparsity == 0.75
    assert counts.overall_sparsity == 0.5


@pytest.mark.parametrize("sparsity", [1, 1.5, -0.1, 90, float("nan")])
def test_impossible_sparsities_are_refused(sparsity):
    message = rf"must be in \[0, 1\), got {sparsity}\. .* write 0\.9 for 90% sparse"
    with pytest.raises(InputError, match=message):
        sparsify(functional(), sparsity)


def test_a_model_with_nothing_to_mask_is_refused():
    model = keras.Sequential([keras.Input((4,)), layers.Dense(3)], name="mine")
    with pytest.raises(InputError, match=r"'mine' has no convolution.*GAN.mask_dense = True"):
        sparsify(model, 0.5, mask_dense=False)
    assert count_weights(sparsify(model, 0.5, mask_dense=True)).active == 6


def test_a_model_without_kernels_is_refused():
    model = keras.Sequential(
        [keras.Input((4,)), layers.Embedding(3, 2), layers.LayerNormalization()]
    )
    with pytest.raises(
        InputError, match=r"no kernel to mask.*embeddings only with embeddings=True"
    ):
        sparsify(model, 0.5)
    assert count_weights(sparsify(model, 0.5, embeddings=True)).active == 3


def test_embeddings_are_refused_where_they_are_not_asked_for_in_this_way():
    with pytest.raises(InputError, match=r"embeddings=True is for plain models"):
        sparsify(functional(), 0.5, mask_dense=True, embeddings=True)
    with pytest.raises(InputError, match=r"embeddings=True is for plain models"):
        sparsify(generator(), 0.5, embeddings=True)


@pytest.mark.parametrize("wrap", [lambda layer: layer, Masked])
def test_a_model_that_is_not_built_is_refused(wrap):
    model = keras.Sequential([wrap(layers.Conv2D(4, 3))], name="mine")
    with pytest.raises(
        InputError, match=r"'mine' is not built.* Give it a `keras\.Input`, or call"
    ):
        sparsify(model, 0.5)
    model(IMAGES)
    assert count_weights(sparsify(model, 0.5)).sparsity == 0.5


def test_layers_that_are_not_built_yet_are_named(caplog):
    class Late(keras.Model):
        def __init__(self):
            super().__init__(name="mine")
            self.used, self.unused = layers.Dense(3), layers.Dense(2, name="late")

        def call(self, inputs):
            return self.used(inputs)

    model = Late()
    model(np.zeros((1, 4)))
    sparsify(model, 0.5)
    assert "late of 'mine' are not built, so they get no masks" in caplog.text


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"model": "model"}, "A Keras model is needed, such as .*, got 'model'"),
        ({"model": [keras.layers.Dense(3)]}, r"A Keras model is needed, such as .*, got \[<Dense"),
        ({"seed": "0"}, "sparsify.seed must be an integer of at least 0, got '0'"),
        ({"seed": 0.5}, "sparsify.seed must be an integer of at least 0, got 0.5"),
        ({"embeddings": "yes"}, "sparsify.embeddings must be True or False, got 'yes'"),
        ({"mask_dense": "yes"}, "sparsify.mask_dense must be True or False, got 'yes'"),
    ],
)
def test_arguments_of_a_wrong_kind_are_refused(arguments, told):
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    with pytest.raises(InputError, match=told):
        sparsify(**{"model": model, "sparsity": 0.5, **arguments})


def test_a_report_of_nothing_is_refused():
    with pytest.raises(InputError, match=r"A Keras model is needed, such as .*, got 'model'"):
        sparsity_report("model")
    with pytest.raises(InputError, match="is not built, so its kernels have no shapes"):
        sparsity_report(keras.Sequential([keras.layers.Dense(3)]))
    with pytest.raises(InputError, match="'bare' has no trainable parameter"):
        sparsity_report(keras.Sequential([keras.Input((4,)), keras.layers.ReLU()], name="bare"))


def test_a_layer_without_any_weight_is_refused():
    model = keras.Sequential([keras.Input([8, 8, 1]), keras.layers.Conv2D(2, 1)])
    with pytest.raises(InputError, match="keeps none of its 2 weights"):
        sparsify(model, 0.9, distribution=uniform)


def test_text_is_not_a_sparsity():
    with pytest.raises(InputError, match=r"must be in \[0, 1\), got '0\.9'"):
        sparsify(functional(), "0.9")


def test_a_plain_model_gets_masks_once():
    """A second draw would zero more of the weights that both models share."""
    model = functional()
    first = sparsify(model, 0.5, seed=1)
    kernels = [layer.kernel.numpy() for layer in kernel_masks(first)]
    assert first is model
    with pytest.raises(InputError, match=r"is already sparse.*Build the model again"):
        sparsify(first, 0.5, seed=2)
    for layer, kernel in zip(kernel_masks(first), kernels, strict=True):
        np.testing.assert_array_equal(layer.kernel, kernel)
        assert np.count_nonzero(kernel) == layer.num_active()


def test_even_after_the_model_with_the_first_masks_is_gone():
    model = keras.Sequential([keras.Input((8, 3)), layers.Conv1D(4, 3), layers.Conv1D(4, 3)])
    sparsify(model, 0.5, mask_dense=False)
    gc.collect()
    with pytest.raises(InputError, match=r"is already under a mask.*build the layers again"):
        sparsify(model, 0.5, mask_dense=False)
    with pytest.raises(InputError, match=r"is already sparse.*Build the model again"):
        sparsify(model, 0.5)


def test_the_report_tells_what_is_sparse_and_what_stays_dense():
    numbers = keras.Input((3,), dtype="int32")
    outputs = layers.Embedding(10, 8, name="table")(numbers)
    outputs = layers.EinsumDense("abc,cde->abde", (None, 2, 3), bias_axes="de", name="e")(outputs)
    model = sparsify(keras.Model(numbers, outputs, name="mine"), 0.25)
    first, _, *rows = sparsity_report(model).splitlines()
    assert first == (
        "mine: sparsity 0.2500 of the 48 weights under masks, 0.0896 of all 134 parameters"
    )
    assert [row.split() for row in rows] == [
        ["e", "8x2x3", "48", "35.8%", "0.7500"],
        ["table", "(Embedding)", "80", "59.7%", "stays", "dense"],
        ["biases,", "scales", "and", "the", "like", "6", "4.5%", "stay", "dense"],
    ]


def test_a_kernel_of_three_axes_counts_as_inputs_by_outputs():
    inputs = keras.Input((5, 40))
    wide = layers.EinsumDense("abc,cde->abde", (5, 4, 50))
    model = sparsify(keras.Model(inputs, layers.Dense(30)(layers.Flatten()(wide(inputs)))), 0.9)
    densities = [mask.density() for mask in kernel_masks(model)]
    expected = erk([(40, 200), (1000, 30)], 0.1)
    np.testing.assert_allclose(densities, expected, atol=1e-4)


def wrapped(*inside):
    images = keras.Input((8, 8, 3))
    outputs = images
    for layer in inside:
        outputs = layer(outputs)
    return keras.Model(images, outputs, name="mine")


def test_convolutions_that_no_mask_covers_are_named(caplog):
    normalized = layers.SpectralNormalization(layers.Conv2D(4, 3, name="inner"))
    sparsify(
        wrapped(normalized, layers.Conv2D(4, 1), layers.SeparableConv2D(2, 3, name="s")),
        0.5,
        mask_dense=False,
    )
    assert "inner (SpectralNormalization(Conv2D)), s (SeparableConv2D)" in caplog.text
    assert "SpectralConv2D" in caplog.text


def test_without_any_other_convolution_they_are_named_in_the_refusal():
    normalized = layers.SpectralNormalization(layers.Conv2D(4, 3, name="inner"))
    with pytest.raises(InputError, match=r"no convolution to mask: inner \(SpectralNormalization"):
        sparsify(wrapped(normalized), 0.5, mask_dense=False)


@pytest.mark.parametrize("mask_dense", [None, False])
def test_frozen_layers_stay_dense(mask_dense):
    frozen = layers.Conv2D(4, 3)
    model = wrapped(frozen, layers.Conv2D(2, 3))
    frozen.trainable = False
    before = frozen.kernel.numpy()
    model = sparsify(model, 0.5, mask_dense=mask_dense)
    assert [layer.kernel.shape for layer in kernel_masks(model)] == [(3, 3, 4, 2)]
    np.testing.assert_array_equal(frozen.kernel, before)
    assert count_weights(model).overall_sparsity == 36 / (72 + 2)


def test_a_mask_on_a_frozen_layer_is_refused():
    frozen = Masked(layers.Conv2D(4, 3, name="frozen"))
    model = wrapped(frozen, Masked(layers.Conv2D(2, 3)))
    frozen.trainable = False
    with pytest.raises(InputError, match=r"'frozen' of 'mine' is under a mask and frozen"):
        sparsify(model, 0.5)


def test_a_sparsity_of_all_weights_is_a_fraction_even_if_layers_are_frozen_later():
    model = sparsify(wrapped(layers.Conv2D(4, 3), layers.Conv2D(2, 1)), 0.5)
    for mask in kernel_masks(model):
        mask.layer.trainable = False
    assert 0 < count_weights(model).overall_sparsity <= 1
    with pytest.raises(InputError, match="frozen"):
        Explorer(model, None)
