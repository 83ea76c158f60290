"""`TopologyMonitor` and `SparseOptimizer` in Keras' `fit`."""

import csv

import keras
import numpy as np
import pytest
import tensorflow as tf

from stugan_tf.errors import InputError
from stugan_tf.fit.monitor import TopologyMonitor
from stugan_tf.fit.optimizer import SparseOptimizer
from stugan_tf.sparsity.criteria import criterion
from stugan_tf.sparsity.exploration import Exploration
from tests.helpers.masked_models import masked_classifier, regression_data


class Recorder(keras.callbacks.Callback):
    """Keeps the masks after each epoch."""

    def __init__(self):
        super().__init__()
        self.masks = []

    def on_train_begin(self, logs=None):
        self.masks.append(self.now())

    def on_epoch_end(self, epoch, logs=None):
        self.masks.append(self.now())

    def now(self):
        return [layer.kernel_mask.numpy() for layer in self.model.layers]


def compiled(model=None, rule=None, inner=None, **options):
    model = model or masked_classifier()
    rule = rule or Exploration(update_interval=2)
    inner = inner or keras.optimizers.Adam(0.01)
    options = {"jit_compile": False, **options}
    model.compile(SparseOptimizer(inner, rule, seed=3), "mse", **options)
    return model


def fitted(model, epochs=2, callbacks=(), **options):
    """Four steps an epoch."""
    inputs, targets = regression_data()
    options = {"shuffle": False, "verbose": 0, "batch_size": 8, **options}
    callbacks = [TopologyMonitor(), *callbacks]
    return model.fit(inputs, targets, epochs=epochs, callbacks=callbacks, **options)


def weights(model):
    for layer in model.layers:
        layer.check_zeros()
    return [keras.ops.convert_to_numpy(variable) for variable in model.variables]


def assert_equal(one, other):
    for a, b in zip(one, other, strict=True):
        np.testing.assert_array_equal(a, b)


def test_logs_say_what_the_masks_did(tmp_path, capsys):
    recorder = Recorder()
    table = keras.callbacks.CSVLogger(tmp_path / "log.csv")
    model = compiled(run_eagerly=True)
    history = fitted(model, 2, [recorder, table], verbose=2).history
    printed = capsys.readouterr().out
    assert "Topology: 3 topology updates, every 2 steps; drop fraction" in printed
    assert "(of 8 steps)" in printed
    assert history["density"] == pytest.approx([24 / 72] * 2)
    assert history["density/hidden"] == pytest.approx([16 / 48] * 2)
    assert history["density/logits"] == pytest.approx([8 / 24] * 2)
    flat = [np.concatenate([mask.ravel() for mask in masks]) for masks in recorder.masks]
    for epoch in (0, 1):
        new = (flat[epoch + 1] > flat[epoch]).sum() / flat[epoch + 1].sum()
        assert history["churn"][epoch] == pytest.approx(new)
    ever = np.concatenate([keras.ops.ravel(union) for union in model.optimizer.ever_active])
    assert history["exploration_rate"][-1] == pytest.approx(ever.mean())
    assert (ever >= np.max(flat, axis=0)).all()
    with open(tmp_path / "log.csv") as file:
        (first, _) = csv.DictReader(file)
    assert float(first["churn"]) == pytest.approx(history["churn"][0])


def test_rates_that_callbacks_set_are_those_of_the_weights():
    model = compiled(run_eagerly=True)
    schedule = keras.callbacks.LearningRateScheduler(lambda epoch: 0.5 / (epoch + 1))
    fitted(model, 2, [schedule])
    assert float(model.optimizer.inner_optimizer.learning_rate) == 0.25


def test_wrong_uses_are_refused_before_the_first_step():
    model = masked_classifier()
    before = weights(model)
    model.compile("adam", "mse")
    with pytest.raises(InputError, match=r"compiled with Adam. Write .*SparseOptimizer"):
        fitted(model)
    compiled(model)
    data = tf.data.Dataset.from_generator(
        lambda: iter([]), output_signature=tf.TensorSpec([None, 6])
    )
    with pytest.raises(InputError, match="Give `steps_per_epoch` to fit"):
        model.fit(data, epochs=2, verbose=0, callbacks=[TopologyMonitor()])
    assert_equal(weights(model), before)
    with pytest.raises(InputError, match="per_layer must be True or False"):
        TopologyMonitor(per_layer="yes")


def test_a_rule_without_a_step_in_the_training_is_told():
    model = compiled(masked_classifier(), Exploration(update_interval=8))
    with pytest.warns(UserWarning, match=r"every 8 steps, but a training of 8 steps"):
        fitted(model, 2)


def test_a_second_fit_beyond_the_plan_is_refused():
    model = compiled(run_eagerly=True)
    fitted(model, 1)
    with pytest.raises(InputError, match=r"go on to step 8, .* planned for 4 steps.*total_steps=8"):
        fitted(model, 1)


@pytest.mark.ci
@pytest.mark.parametrize("rule", [Exploration(update_interval=2, gradient_momentum=0.5)])
def test_a_resumed_fit_is_an_uninterrupted_one(tmp_path, rule):
    def new(seed=0):
        return compiled(masked_classifier(seed), rule, keras.optimizers.AdamW(0.01))

    class Killed(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if epoch == 1:
                raise KeyboardInterrupt

    whole = new()
    fitted(whole, 4)
    backup = keras.callbacks.BackupAndRestore(str(tmp_path / "backup"))
    saved = keras.callbacks.ModelCheckpoint(str(tmp_path / "model.keras"))
    with pytest.raises(KeyboardInterrupt):
        fitted(new(), 4, [backup, saved, Killed()])
    restored = new(seed=5)
    fitted(restored, 4, [keras.callbacks.BackupAndRestore(str(tmp_path / "backup"))])
    assert_equal(weights(restored), weights(whole))

    loaded = keras.models.load_model(tmp_path / "model.keras")
    loaded.jit_compile = False
    assert loaded.optimizer.rule == rule
    fitted(loaded, 4, initial_epoch=2)
    assert_equal(weights(loaded), weights(whole))
    for one, other in zip(loaded.optimizer.variables, whole.optimizer.variables, strict=True):
        np.testing.assert_array_equal(one.numpy(), other.numpy())


@pytest.mark.ci
def test_all_ways_to_run_a_step_change_the_same_weights_and_trace_it_once():
    traces = []

    @criterion(gradient="loss")
    def counted(weight, gradient, seed):
        traces.append(tf.is_symbolic_tensor(gradient))
        return tf.abs(gradient)

    def run(**options):
        model = compiled(None, Exploration(update_interval=2, grow_scores=counted), **options)
        traces.clear()
        fitted(model, 3)
        return weights(model), sum(traces)

    graph, num_traces = run()
    assert num_traces == 2  # Once for each of the two kernels.
    for options in ({"run_eagerly": True}, {"steps_per_execution": 3}, {"jit_compile": True}):
        found, num_traces = run(**options)
        assert num_traces in (0, 2)
        for one, other in zip(found, graph, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.ci
@pytest.mark.parametrize("slots", ["keep", "age"])
def test_replicas_train_like_one_device(mirrored, slots):
    class Rule(Exploration):
        pass

    rule = Rule(update_interval=2, gradient_momentum=0.5 if slots == "keep" else 0.0)
    object.__setattr__(rule, "slots", slots)
    single = compiled(rule=rule)
    fitted(single)
    with mirrored.scope():
        model = masked_classifier()
        inner = keras.optimizers.Adam(0.01)
        optimizer = SparseOptimizer(inner, rule, seed=3)
        if slots == "keep":
            optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
        model.compile(optimizer, "mse", jit_compile=False)
    fitted(model)
    for one, other in zip(weights(model), weights(single), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
    for variable in [*model.variables, *optimizer.variables]:
        first, second = mirrored.experimental_local_results(variable.value)
        np.testing.assert_array_equal(first.numpy(), second.numpy())
