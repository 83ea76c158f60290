"""Training on the non-zeros is the training on dense kernels, to rounding.

A small SNGAN (8x8, width 6), or less where that will do, whose moments follow active weights only:
so sparse execution leaves out the gradients of all others but before a topology update.
"""

import functools
import itertools
import types

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from stugan_tf.kernels import tuning
from stugan_tf.kernels.convolution import Choice
from stugan_tf.layers.masked import masked_layers
from stugan_tf.layers.spectral import SpectralConv2D
from stugan_tf.models.sngan import sngan_discriminator, sngan_generator
from stugan_tf.sparsity.criteria import gradient_flow
from stugan_tf.sparsity.exploration import Exploration
from stugan_tf.training.algorithm import Algorithm
from stugan_tf.training.gan import GAN
from stugan_tf.training.masked_adam import MaskedAdam
from stugan_tf.training.steps import Steps
from tests.helpers.tiny_training import (
    Scripted,
    StopAtTwoError,
    kernels,
    tiny_algorithm,
    tiny_gan,
    tiny_training,
)

pytestmark = pytest.mark.usefixtures("operations")

SHAPE = (8, 8, 1)
BATCH_SIZE = 8
SEED = 3
INTERVAL = 3
NUM_STEPS = 7
# With beta_1 = 0 Adam's first step is the sign of the gradient; this epsilon is large against
# rounding errors, which would otherwise become whole steps.
ADAM = {"learning_rate": 3e-3, "beta_1": 0.0, "epsilon": 1e-3, "moments": "active"}
IMAGES = np.tanh(
    np.random.default_rng(0).normal(size=(NUM_STEPS, BATCH_SIZE, *SHAPE)).astype(np.float32)
)


def small_generator(image_shape, synchronized=False):
    latents = keras.Input((4,))
    outputs = layers.Reshape((4, 4, 4))(layers.Dense(64)(latents))
    shortcut = layers.Conv2D(4, 1)(layers.UpSampling2D()(outputs))
    outputs = layers.ReLU()(layers.BatchNormalization(synchronized=synchronized)(outputs))
    outputs = layers.Conv2D(4, 3, padding="same")(layers.UpSampling2D()(outputs))
    outputs = layers.Add()([outputs, shortcut])
    outputs = layers.Conv2D(1, 3, padding="same", activation="tanh")(outputs)
    return keras.Model(latents, outputs, name="generator")


def small_discriminator(image_shape):
    images = keras.Input(image_shape)
    outputs = SpectralConv2D(4, 3, padding="same")(images)
    outputs = layers.AveragePooling2D(2)(layers.Add()([outputs, layers.Conv2D(4, 1)(images)]))
    outputs = SpectralConv2D(4, 3)(layers.ReLU()(outputs))
    return keras.Model(images, layers.Dense(1)(layers.Flatten()(outputs)), name="discriminator")


SMALL = {"generator": small_generator, "discriminator": small_discriminator}
SNGAN = {
    "generator": functools.partial(sngan_generator, width=6, latent_dim=6),
    "discriminator": functools.partial(sngan_discriminator, width=6),
}


TRACED_SLOWLY = pytest.mark.parametrize(
    "tracing", ["untraced", pytest.param("traced", marks=pytest.mark.slow)], indirect=True
)
# Line by line a large network would take long.
NETWORKS = {"untraced": SMALL, "traced": SNGAN}


class Run:
    """A GAN, its steps and its data on a strategy."""

    def __init__(
        self,
        execution,
        strategy=None,
        exploration=None,
        networks=SMALL,
        **optimizer_settings,
    ):
        self.strategy = strategy or tf.distribute.OneDeviceStrategy("CPU:0")
        exploration = exploration or Exploration(update_interval=INTERVAL)
        optimizer = functools.partial(MaskedAdam, **{**ADAM, **optimizer_settings})
        algorithm = Algorithm(
            total_steps=NUM_STEPS + 1,
            batch_size=BATCH_SIZE,
            generator_batch_size=BATCH_SIZE,
            generator_exploration=exploration,
            discriminator_exploration=exploration,
        )
        with self.strategy.scope():
            self.gan = GAN(
                SHAPE,
                10,
                seed=SEED,
                **networks,
                generator_sparsity=0.6,
                discriminator_sparsity=0.4,
                generator_optimizer=optimizer,
                discriminator_optimizer=optimizer,
            )
            self.gan.set_execution(execution)
            self.steps = Steps(self.gan, algorithm, self.strategy, SEED, jit_compile=False)
        images = IMAGES.reshape(-1, BATCH_SIZE // self.strategy.num_replicas_in_sync, *SHAPE)
        labels = np.zeros(images.shape[:2], np.int32)
        self._iterator = iter(
            self.strategy.distribute_datasets_from_function(
                lambda _: tf.data.Dataset.from_tensor_slices((images, labels)).repeat()
            )
        )
        self.step = 0

    def advance(self):
        """One step; returns its metrics."""
        self.steps.run(self._iterator, self.step, 1)
        self.step += 1
        return self.steps.pop_metrics()

    def state(self, replica=0):
        return {
            name: self.strategy.experimental_local_results(variable)[replica].numpy()
            for name, variable in self.steps.state().items()
        }

    def masks(self):
        return self._of_layers(lambda layer: layer.kernel_mask.numpy())

    def kernels(self):
        return self._of_layers(lambda layer: layer.kernel.numpy())

    def _of_layers(self, read):
        return {
            name: [read(layer) for layer in masked_layers(network)]
            for name, network in self.gan.networks.items()
        }

    def growth_gradients(self, name):
        return [gradient.numpy() for gradient in self.steps.players[name].explorer.growth_gradients]


def assert_close(state, expected, tolerance=1e-3):
    assert state.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(state[name], value, rtol=tolerance, atol=tolerance, err_msg=name)


def assert_same_masks(masks, expected):
    for name, values in expected.items():
        for mask, value in zip(masks[name], values, strict=True):
            np.testing.assert_array_equal(mask, value)


@pytest.fixture(scope="module")
def dense(tracing):
    """Snapshots of a run."""
    return record(Run("dense", networks=NETWORKS[tracing]))


@pytest.fixture(scope="module", params=["sparse", pytest.param("auto", marks=pytest.mark.slow)])
def sparse(request, tracing):
    """Snapshots of a run on the non-zeros; `auto` with choices as measurements may make them."""
    with pytest.MonkeyPatch.context() as patch:
        choices = itertools.cycle([Choice(True, False, True), Choice(False, True, True)])
        patch.setattr(tuning, "fastest", lambda problem: next(choices))
        return record(Run(request.param, networks=NETWORKS[tracing]))


def record(run):
    """What tests look into: before the first step and after each."""

    def snapshot(metrics):
        return types.SimpleNamespace(
            metrics=metrics, masks=run.masks(), kernels=run.kernels(), state=run.state()
        )

    history = [snapshot(None)]
    for _ in range(NUM_STEPS):
        history.append(snapshot(run.advance()))
        if run.step == INTERVAL:
            history[-1].growth_gradients = {n: run.growth_gradients(n) for n in run.gan.networks}
    return history


def test_losses_and_weights_agree_with_those_of_dense_execution(dense, sparse):
    """Until chaos makes rounding errors visible."""
    for step in range(1, INTERVAL + 2):
        assert sparse[step].metrics == pytest.approx(dense[step].metrics, rel=1e-3, abs=1e-4)
        assert_close(sparse[step].state, dense[step].state)


def test_growth_sees_the_dense_gradient(dense, sparse):
    former = dense[INTERVAL - 1].masks
    for name, expected in dense[INTERVAL].growth_gradients.items():
        gradients = sparse[INTERVAL].growth_gradients[name]
        for gradient, value, mask in zip(gradients, expected, former[name], strict=True):
            assert np.all(mask) or np.any(value[mask == 0] != 0)
            np.testing.assert_allclose(gradient, value, rtol=0, atol=1e-4 * np.max(np.abs(value)))


def test_topology_updates_grow_the_same_weights(dense, sparse):
    for step in range(INTERVAL + 1):
        assert_same_masks(sparse[step].masks, dense[step].masks)


def test_all_updates_keep_zeros_and_counts(sparse):
    for step in range(1, NUM_STEPS + 1):
        former, snapshot = sparse[step - 1], sparse[step]
        assert all(np.isfinite(value) for value in snapshot.metrics.values())
        for name, masks in snapshot.masks.items():
            pairs = list(zip(masks, former.masks[name], strict=True))
            assert all(mask.sum() == other.sum() for mask, other in pairs)
            assert any(np.any(mask != other) for mask, other in pairs) == (step % INTERVAL == 0)
            for kernel, mask in zip(snapshot.kernels[name], masks, strict=True):
                assert not np.any(kernel[mask == 0])


@pytest.mark.ci
@pytest.mark.parametrize(
    "settings",
    [
        {"moments": "dense"},
        {"exploration": Exploration(update_interval=2, gradient_momentum=0.5)},
        {"global_clipnorm": 0.05},
    ],
    ids=["dense moments", "gradient momentum", "clipping"],
)
@TRACED_SLOWLY
@pytest.mark.usefixtures("tracing")
def test_what_needs_the_gradients_of_all_weights_gets_them_in_every_step(settings):
    dense, sparse = Run("dense", **settings), Run("sparse", **settings)
    for _ in range(3):
        dense.advance()
        sparse.advance()
        assert_same_masks(sparse.masks(), dense.masks())
        assert_close(sparse.state(), dense.state(), tolerance=2e-5)


@pytest.mark.slow
def test_what_needs_second_derivatives_gets_them():
    """The kernels have none: a topology update that asks for them computes densely."""
    exploration = Exploration(update_interval=2, drop_scores=gradient_flow)
    dense, sparse = Run("dense", None, exploration), Run("sparse", None, exploration)
    former = dense.masks()
    for _ in range(2):
        dense.advance()
        sparse.advance()
    assert_same_masks(sparse.masks(), dense.masks())
    assert_close(sparse.state(), dense.state(), tolerance=2e-5)
    pairs = zip(dense.masks()["generator"], former["generator"], strict=True)
    assert any(np.any(new != old) for new, old in pairs)


@pytest.mark.ci
def test_replicas_agree_and_take_the_steps_of_one(mirrored):
    exploration = Exploration(update_interval=2)
    synchronized = {**SMALL, "generator": functools.partial(small_generator, synchronized=True)}
    two = Run("sparse", mirrored, exploration, synchronized)
    one = Run("dense", None, exploration)
    for _ in range(4):
        two.advance()
        one.advance()
        assert_same_masks(two.masks(), one.masks())
        assert_close(two.state(), one.state())
        assert_replicas_agree(two)


@pytest.mark.slow
def test_replicas_agree_although_each_normalises_by_its_own_part(mirrored):
    run = Run("sparse", mirrored, Exploration(update_interval=2))
    for _ in range(4):
        run.advance()
        assert_replicas_agree(run)


def assert_replicas_agree(run):
    first, second = run.state(0), run.state(1)
    for name, value in first.items():
        np.testing.assert_array_equal(value, second[name], err_msg=name)


def train_in_two_parts(workdir, first, second, algorithm):
    """Two steps under one execution, the others under another."""
    gan = tiny_gan(
        **SMALL,
        generator_optimizer=functools.partial(MaskedAdam, **ADAM),
        discriminator_optimizer=functools.partial(MaskedAdam, **ADAM),
    )
    parts = {"evaluator": Scripted.of([StopAtTwoError]), "evaluate_every": 2, "checkpoint_every": 1}
    begun = tiny_training(gan, algorithm, execution=first, **parts)
    with pytest.raises(StopAtTwoError):
        begun.run(workdir / "parts", "")
    resumed = tiny_training(gan, algorithm, execution=second)
    assert begun.state().keys() == resumed.state().keys()
    resumed.run(workdir / "parts", "")
    straight = tiny_training(gan, algorithm, execution=first)
    straight.run(workdir / "straight", "")
    return resumed, straight


@pytest.mark.ci
@pytest.mark.usefixtures("untraced")
def test_a_run_goes_on_under_another_execution(tmp_path):
    resumed, straight = train_in_two_parts(tmp_path, "sparse", "dense", tiny_algorithm())
    for one, other in zip(kernels(resumed), kernels(straight), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4)


@pytest.mark.ci
@TRACED_SLOWLY
@pytest.mark.usefixtures("tracing")
def test_a_resumed_sparse_run_is_the_uninterrupted_one_bit_for_bit(tmp_path):
    exploration = Exploration(update_interval=3)
    algorithm = tiny_algorithm(
        total_steps=5, generator_exploration=exploration, discriminator_exploration=exploration
    )
    resumed, straight = train_in_two_parts(tmp_path, "sparse", "sparse", algorithm)
    for name, variable in straight.state().items():
        np.testing.assert_array_equal(resumed.state()[name], variable, err_msg=name)
