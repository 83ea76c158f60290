"""One small residual GAN (8x8, width 4) that takes four steps, on any strategy."""

import functools
import types

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from stugan_tf.layers.masked import masked_layers
from stugan_tf.models.sngan import sngan_generator
from stugan_tf.sparsity.exploration import Exploration
from stugan_tf.training.algorithm import Algorithm
from stugan_tf.training.gan import GAN
from stugan_tf.training.masked_adam import MaskedAdam
from stugan_tf.training.precision import computing_in
from stugan_tf.training.steps import Steps
from tests.helpers.small_networks import residual_discriminator

SHAPE = (8, 8, 1)
BATCH_SIZE = 8
SEED = 2  # Here no ReLU comes within rounding of its kink, which would change the gradient.
NUM_STEPS = 4
DECAY = 0.9
# With beta_1 = 0 Adam's first step is the sign of the gradient, so that where a gradient is about
# 0 its rounding errors would become whole steps. This epsilon is large against them.
ADAM = {"learning_rate": 0.01, "beta_1": 0.0, "beta_2": 0.9, "epsilon": 1e-3}

IMAGES = np.random.default_rng(0).uniform(-1, 1, (2 * NUM_STEPS, BATCH_SIZE, *SHAPE))
IMAGES = np.tanh(IMAGES + np.linspace(-1, 1, 8)[:, None]).astype(np.float32)


def algorithm(**settings):
    """Two discriminator updates a step; the generator explores in steps 2 and 4."""
    settings = {
        "total_steps": NUM_STEPS + 1,
        "batch_size": BATCH_SIZE,
        "generator_batch_size": BATCH_SIZE,
        "discriminator_steps": 2,
        "generator_position": 1,
        "generator_exploration": Exploration(update_interval=2),
        "average_decay": DECAY,
        **settings,
    }
    return Algorithm(**settings)


def build_gan(cross_replica_batch_norm=True, **settings):
    optimizer = functools.partial(MaskedAdam, **ADAM)
    settings = {
        "generator": functools.partial(
            sngan_generator,
            width=4,
            latent_dim=6,
            cross_replica_batch_norm=cross_replica_batch_norm,
        ),
        "discriminator": residual_discriminator,
        "generator_sparsity": 0.5,
        "discriminator_sparsity": 0.5,
        "generator_optimizer": optimizer,
        "discriminator_optimizer": optimizer,
        **settings,
    }
    return GAN(SHAPE, 10, seed=SEED, **settings)


class Run:
    """A GAN, its steps and its data on a strategy."""

    def __init__(
        self,
        settings=None,
        strategy=None,
        jit_compile=False,
        precision="float32",
        rematerialize=False,
        **gan_settings,
    ):
        self.strategy = strategy or tf.distribute.OneDeviceStrategy("CPU:0")
        settings = settings or algorithm()
        with self.strategy.scope():
            with computing_in(precision):
                self.gan = build_gan(**gan_settings)
            if rematerialize:
                self.gan.rematerialize()
            self.steps = Steps(
                self.gan,
                settings,
                self.strategy,
                SEED,
                jit_compile,
                scales_loss=precision == "float16",
            )
        self._num_parts = settings.accumulation_steps * self.strategy.num_replicas_in_sync
        self._initial = self.state()
        self.restart()

    def variables(self):
        return self.steps.state()

    def restart(self, images=IMAGES, state=None, step=0):
        """Back to step 0 or a `state`, to spare the time of tracing and compiling once more."""
        for name, variable in self.variables().items():
            variable.assign((state or self._initial)[name])
        images = images.reshape(-1, BATCH_SIZE // self._num_parts, *SHAPE)
        labels = np.zeros(images.shape[:2], np.int32)
        self._iterator = iter(
            self.strategy.distribute_datasets_from_function(
                lambda _: tf.data.Dataset.from_tensor_slices((images, labels))
            )
        )
        self.step = step
        return self

    def advance(self, num_steps=1):
        self.steps.run(self._iterator, self.step, num_steps)
        self.step += num_steps
        return self

    def state(self, replica=0):
        return {
            name: self.strategy.experimental_local_results(variable)[replica].numpy()
            for name, variable in self.variables().items()
        }

    def snapshot(self):
        """What tests look into after a step."""
        generator, discriminator = self.gan.generator, self.gan.discriminator
        return types.SimpleNamespace(
            state=self.state(),
            generator_masks=masks_of(generator),
            discriminator_masks=masks_of(discriminator),
            generator_kernels=kernels_of(generator),
            discriminator_kernels=kernels_of(discriminator),
            averaged_masks=masks_of(self.gan.averaged.model),
            averaged_kernels=kernels_of(self.gan.averaged.model),
        )


def masks_of(model):
    return [layer.kernel_mask.numpy() for layer in masked_layers(model)]


def kernels_of(model):
    return [layer.kernel.numpy() for layer in masked_layers(model)]


def assert_close(state, expected, tolerance=1e-4):
    assert state.keys() == expected.keys()
    for name, value in expected.items():
        if value.dtype.kind == "f":
            np.testing.assert_allclose(
                state[name], value, rtol=tolerance, atol=tolerance, err_msg=name
            )
        else:
            np.testing.assert_array_equal(state[name], value, err_msg=name)


def assert_same_masks(snapshot, expected):
    for mask, expected_mask in zip(
        snapshot.generator_masks + snapshot.discriminator_masks,
        expected.generator_masks + expected.discriminator_masks,
        strict=True,
    ):
        np.testing.assert_array_equal(mask, expected_mask)


def assert_replicas_agree(run):
    first, second = run.state(0), run.state(1)
    for name, value in first.items():
        np.testing.assert_array_equal(value, second[name], err_msg=name)


def small_generator(image_shape, between=layers.ReLU):
    latents = keras.Input((6,))
    outputs = layers.Reshape(image_shape)(layers.Dense(64, name="first")(latents))
    outputs = layers.Conv2D(1, 3, padding="same", name="last")(between()(outputs))
    return keras.Model(latents, outputs, name="generator")


def small_discriminator(image_shape):
    images = keras.Input(image_shape)
    outputs = layers.Flatten()(layers.Conv2D(2, 3)(images))
    return keras.Model(images, layers.Dense(1)(outputs), name="discriminator")


def smooth_generator(image_shape):
    latents = keras.Input((6,))
    outputs = layers.Reshape(image_shape)(layers.Dense(64, activation="tanh")(latents))
    return keras.Model(latents, layers.Conv2D(1, 3, padding="same", activation="tanh")(outputs))


def smooth_discriminator(image_shape):
    images = keras.Input(image_shape)
    outputs = layers.Flatten()(layers.Conv2D(2, 3, strides=2, activation="tanh")(images))
    return keras.Model(images, layers.Dense(1)(outputs))


SMOOTH = {"generator": smooth_generator, "discriminator": smooth_discriminator}
