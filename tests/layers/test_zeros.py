"""Weights outside masks stay exactly zero, whatever trains the model."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, optimizers

from stugan_tf.errors import InputError
from stugan_tf.layers.kernel_mask import kernel_masks
from stugan_tf.layers.masked import Masked, check_zeros
from stugan_tf.sparsity.sparsify import sparsify
from tests.helpers.params import first_by_default

FEATURES = np.random.default_rng(0).normal(size=(12, 5)).astype(np.float32)
LABELS = np.arange(12) % 3

OPTIMIZERS = sorted(
    name
    for name, kind in vars(optimizers).items()
    if isinstance(kind, type)
    and issubclass(kind, optimizers.Optimizer)
    and kind not in (optimizers.Optimizer, optimizers.LossScaleOptimizer)
)


def classifier(wrap=lambda layer: layer):
    features = keras.Input((5,))
    outputs = wrap(layers.Dense(6, activation="relu", name="hidden"))(features)
    return keras.Model(features, wrap(layers.Dense(3, name="last"))(outputs))


def train(model, optimizer, **compiled):
    """Two epochs of three steps; then the zeros are checked and more than zeros have changed."""
    before = [mask.kernel.numpy() for mask in kernel_masks(model)]
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss, **compiled)
    model.fit(FEATURES, LABELS, batch_size=4, epochs=2, verbose=0)
    check(model)
    for mask, kernel in zip(kernel_masks(model), before, strict=True):
        assert np.any(mask.kernel.numpy() != kernel)


def check(model):
    check_zeros(model)
    for mask in kernel_masks(model):
        zeros = mask.kernel_mask.numpy() == 0
        assert zeros.any()
        assert np.all(mask.kernel.numpy()[zeros] == 0)


OTHERS = sorted({*OPTIMIZERS} - {"AdamW", "SGD", "Lion", "MultiOptimizer"})


def ema(**kwargs):
    return optimizers.Adam(0.1, use_ema=True, ema_momentum=0.5, **kwargs)


@pytest.mark.parametrize(
    "name",
    first_by_default("AdamW", "SGD", "Lion", "MultiOptimizer", *OTHERS, in_ci=3),
)
def test_with_every_optimizer(name):
    arguments = [0.1]
    if name == "MultiOptimizer":
        arguments = [
            optimizers.OptimizerMap(optimizers.Adam(0.1), {"hidden.*": optimizers.SGD(1.0)})
        ]
    train(sparsify(classifier(), 0.5), getattr(optimizers, name)(*arguments), run_eagerly=True)


def test_all_optimizers_are_there():
    assert {"AdamW", "Lion", "SGD", "Ftrl", "Adafactor", "Lamb"} <= set(OPTIMIZERS)


@pytest.mark.parametrize("wrap", [lambda layer: layer, Masked])
@pytest.mark.parametrize(
    "make",
    [
        ema,
        pytest.param(lambda: ema(ema_overwrite_frequency=2), marks=pytest.mark.ci),
        pytest.param(lambda: optimizers.LossScaleOptimizer(ema()), marks=pytest.mark.ci),
    ],
)
def test_when_weights_are_overwritten_with_their_averages(make, wrap):
    """Keras does so at the end of `fit`, without constraints."""
    train(sparsify(classifier(wrap), 0.5), make(), run_eagerly=True)


def test_when_averages_are_swapped_in_for_validation_and_for_files(tmp_path):
    class Check(keras.callbacks.Callback):
        def on_test_begin(self, logs=None):
            check(self.model)

    model = sparsify(classifier(), 0.5)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(ema(), loss, run_eagerly=True)
    path = tmp_path / "{epoch}.keras"
    model.fit(
        FEATURES,
        LABELS,
        batch_size=4,
        verbose=0,
        validation_data=(FEATURES, LABELS),
        callbacks=[
            keras.callbacks.SwapEMAWeights(swap_on_epoch=True),
            keras.callbacks.ModelCheckpoint(path),
            Check(),
        ],
    )
    check(keras.models.load_model(tmp_path / "1.keras"))


def test_a_dense_product_beside_a_masked_kernel_is_refused():
    model = sparsify(classifier(), 0.5)
    with pytest.raises(InputError, match=r"'hidden' has a mask.*before st\.sparsify"):
        model.get_layer("hidden").enable_lora(2)
    wrapped = sparsify(classifier(Masked), 0.5)
    wrapped.layers[1].layer.enable_lora(2)
    with pytest.raises(InputError, match="'hidden' adds a dense product"):
        check_zeros(wrapped)


def test_a_layer_that_had_a_dense_product_before_stays_dense(tmp_path):
    model = classifier()
    model.get_layer("hidden").enable_lora(2)
    sparsify(model, 0.5)
    assert [mask.name for mask in kernel_masks(model)] == ["last"]
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(loaded(FEATURES), model(FEATURES), rtol=1e-5)


@pytest.mark.ci
@pytest.mark.parametrize(
    ("make", "compiled"),
    [
        (lambda: optimizers.LossScaleOptimizer(optimizers.Adam(0.1)), {}),
        (lambda: optimizers.SGD(0.1, momentum=0.9, weight_decay=0.1, clipnorm=0.1), {}),
        (lambda: optimizers.Adam(0.1, global_clipnorm=0.1), {}),
        (lambda: optimizers.Adam(0.1, gradient_accumulation_steps=2), {}),
        (lambda: optimizers.Adam(0.1), {"jit_compile": True}),
        (lambda: optimizers.Adam(0.1), {"steps_per_execution": 3}),
    ],
)
def test_whatever_the_step_is_made_of(make, compiled):
    train(sparsify(classifier(), 0.5), make(), **compiled)


@pytest.mark.ci
@pytest.mark.parametrize("inside", [True, False])
def test_on_several_replicas(mirrored, inside):
    with mirrored.scope():
        model = classifier()
        if inside:
            sparsify(model, 0.5)
    if not inside:
        sparsify(model, 0.5)
    with mirrored.scope():
        optimizer = ema()
    train(model, optimizer)
    for mask in kernel_masks(model):
        for variable in (mask.kernel, mask.kernel_mask):
            first, second = mirrored.experimental_local_results(variable.value)
            np.testing.assert_array_equal(first, second)


def test_a_constraint_of_the_users_own_holds_too():
    model = keras.Sequential([keras.Input((5,)), layers.Dense(3, kernel_constraint="non_neg")])
    train(sparsify(model, 0.5), optimizers.SGD(1.0))
    assert np.all(model.layers[0].kernel.numpy() >= 0)


def test_a_model_that_was_trained_dense_keeps_its_zeros_when_it_is_trained_on():
    """Keras has compiled its step already, without the masks."""
    model = classifier()
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(FEATURES, LABELS, verbose=0)
    sparsify(model, 0.5)
    model.fit(FEATURES, LABELS, verbose=0)
    check(model)


def test_a_mask_of_another_shape_is_refused():
    first, second = kernel_masks(sparsify(classifier(), 0.5))
    with pytest.raises(ValueError, match=r"'\w+' must have the shape of its kernel, \(5, 6\), got"):
        first.assign_mask(tf.convert_to_tensor(second.kernel_mask))


def test_a_mask_is_zeros_and_ones_of_any_type():
    mask, _ = kernel_masks(sparsify(classifier(), 0.5))
    former = mask.kernel_mask.numpy()
    with pytest.raises(ValueError, match="'hidden' has values other than 0 and 1"):
        mask.assign_mask(np.full((5, 6), 0.5, np.float32))
    np.testing.assert_array_equal(mask.kernel_mask, former)
    ones = np.arange(30).reshape(5, 6) % 2
    for given in (ones, ones.astype(bool), ones.tolist(), tf.constant(ones, tf.float64)):
        mask.assign_mask(given)
        np.testing.assert_array_equal(mask.kernel_mask, ones)
