"""Zeros stay where callbacks of Keras, averages and optimizers of others assign weights."""

import contextlib

import keras
import numpy as np
import pytest

from stugan_tf.fit.optimizer import SparseOptimizer
from stugan_tf.layers.kernel_mask import kernel_masks
from stugan_tf.layers.masked import check_zeros
from stugan_tf.sparsity.rules import RigL
from tests.helpers.masked_models import masked_classifier, regression_data
from tests.helpers.params import first_by_default


def averaging():
    return keras.optimizers.Adam(0.05, use_ema=True, ema_momentum=0.7)


def changing(inner, slots="zero"):
    return SparseOptimizer(inner, RigL(3, drop_fraction=0.5, slots=slots), total_steps=40)


def fitted(model, callbacks, epochs=3):
    """Four steps an epoch."""
    inputs, targets = regression_data()
    model.fit(
        inputs,
        targets,
        batch_size=8,
        epochs=epochs,
        callbacks=callbacks,
        validation_data=(inputs, targets),
        verbose=0,
    )


class Seen(keras.callbacks.Callback):
    """Checks zeros and keeps the kernels of each epoch: trained, evaluated, and saved."""

    def __init__(self):
        super().__init__()
        self.trained, self.evaluated, self.saved = [], [], []

    def kernels(self):
        check_zeros(self.model)
        return np.concatenate([mask.kernel.numpy().ravel() for mask in kernel_masks(self.model)])

    def on_train_batch_end(self, batch, logs=None):
        if batch == 3:
            self.trained.append(self.kernels())

    def on_test_batch_end(self, batch, logs=None):
        if batch == 0:
            self.evaluated.append(self.kernels())

    def on_epoch_end(self, epoch, logs=None):
        self.saved.append(self.kernels())


@pytest.mark.parametrize(
    "make",
    first_by_default(
        lambda: changing(averaging()),
        averaging,
        lambda: keras.optimizers.LossScaleOptimizer(changing(averaging())),
    ),
    ids=["sparse", "plain", "scaled"],
)
def test_averages_that_are_swapped_in_are_zero_outside_the_masks(make):
    model, seen = masked_classifier(), Seen()
    model.compile(make(), "mse", run_eagerly=True)
    fitted(model, [keras.callbacks.SwapEMAWeights(swap_on_epoch=True), seen])
    check_zeros(model)
    for trained, evaluated, saved in zip(seen.trained, seen.evaluated, seen.saved, strict=True):
        assert np.any(trained != evaluated)
        np.testing.assert_allclose(evaluated, saved, rtol=1e-5, atol=1e-6)


@pytest.mark.ci
@pytest.mark.parametrize("is_mirrored", [False, True], ids=["xla", "mirrored"])
def test_averages_are_zero_outside_the_masks_in_compiled_steps(is_mirrored, mirrored):
    with mirrored.scope() if is_mirrored else contextlib.nullcontext():
        model, seen = masked_classifier(), Seen()
        model.compile(changing(averaging()), "mse", jit_compile=not is_mirrored)
    fitted(model, [keras.callbacks.SwapEMAWeights(swap_on_epoch=True), seen])
    check_zeros(model)
    assert len(seen.evaluated) == 3
    assert np.any(seen.trained[0] != seen.evaluated[0])


def test_a_mask_that_a_callback_assigns_holds_for_the_average():
    def prune(epoch, logs):
        del epoch, logs
        for mask in kernel_masks(model):
            kept = np.abs(mask.kernel.numpy())
            mask.assign_mask((kept > np.median(kept[kept > 0])).astype(np.float32))

    model = masked_classifier()
    model.compile(averaging(), "mse", run_eagerly=True)
    pruning = keras.callbacks.LambdaCallback(on_epoch_end=prune)
    fitted(model, [pruning], epochs=1)  # Keras then assigns the averages.
    check_zeros(model)


def test_the_best_weights_come_back_with_their_masks():
    model = masked_classifier()
    model.compile(changing(keras.optimizers.SGD(2.0)), "mse", run_eagerly=True)
    kept = []

    def keep(epoch, logs):
        del epoch, logs
        kept.append(model.get_weights())

    stopping = keras.callbacks.EarlyStopping("val_loss", patience=2, restore_best_weights=True)
    fitted(model, [keras.callbacks.LambdaCallback(on_epoch_end=keep), stopping], epochs=6)
    best = stopping.best_epoch
    assert best < len(kept) - 1
    for restored, expected in zip(model.get_weights(), kept[best], strict=True):
        np.testing.assert_array_equal(restored, expected)
    assert any(np.any(old != new) for old, new in zip(kept[best], kept[-1], strict=True))
    check_zeros(model)
    fitted(model, [], epochs=1)  # The topology goes on from the restored masks.
    check_zeros(model)


@keras.saving.register_keras_serializable("tests")
class Lookahead(keras.optimizers.SGD):
    """Every second step goes back half of the way to slow weights, after the constraints."""

    def build(self, variables):
        super().build(variables)
        self.slow = [self.add_variable_from_reference(v, "slow") for v in variables]
        for slow, variable in zip(self.slow, variables, strict=True):
            slow.assign(variable)

    def apply(self, grads, trainable_variables=None):
        super().apply(grads, trainable_variables)
        if int(self.iterations) % 2 == 0:
            for slow, variable in zip(self.slow, self._trainable_variables, strict=True):
                slow.assign(slow + 0.5 * (variable - slow))
                variable.assign(slow)

    def finalize_variable_values(self, var_list):
        for slow, variable in zip(self.slow, var_list, strict=True):
            variable.assign(slow)


@pytest.mark.parametrize("slots", first_by_default("zero", "keep"))
def test_slow_weights_of_other_optimizers_bring_no_dropped_weight_back(slots):
    model, seen = masked_classifier(), Seen()
    model.compile(changing(Lookahead(0.1), slots), "mse", run_eagerly=True)
    fitted(model, [seen])
    check_zeros(model)
