"""Methods on trainings of a few steps, without gin, and ways to kill them."""

import contextlib
import functools
import json
import weakref

import keras
import numpy as np
import tensorflow as tf

from stugan_tf.data import digits
from stugan_tf.layers.spectral import SpectralConv2D
from stugan_tf.methods.phases import BuiltTraining
from stugan_tf.runs.checkpoints import Checkpoints
from stugan_tf.runs.events import is_of_machine
from stugan_tf.runs.loop import Training
from stugan_tf.training.algorithm import Algorithm
from stugan_tf.training.gan import GAN
from stugan_tf.training.masked_adam import MaskedAdam

STEPS = 4


def generator(image_shape):
    latents = keras.Input([4])
    outputs = keras.layers.Reshape([8, 8, 1])(keras.layers.Dense(64)(latents))
    outputs = keras.layers.Conv2D(8, 3, padding="same")(outputs)
    outputs = keras.layers.ReLU()(keras.layers.BatchNormalization(momentum=0.9)(outputs))
    outputs = keras.layers.Conv2D(image_shape[-1], 3, padding="same", activation="tanh")(outputs)
    return keras.Model(latents, outputs, name="small_generator")


def discriminator(image_shape):
    images = keras.Input(image_shape)
    outputs = SpectralConv2D(8, 3, strides=2, activation="relu")(images)
    outputs = SpectralConv2D(4, 3, activation="relu")(outputs)
    outputs = keras.layers.GlobalAveragePooling2D()(outputs)
    return keras.Model(images, keras.layers.Dense(1)(outputs), name="small_discriminator")


def small_training(strategy=None, sparsities=(0.0, 0.0), algorithm=None, **settings):
    gan = functools.partial(
        GAN,
        generator=generator,
        discriminator=discriminator,
        generator_sparsity=sparsities[0],
        discriminator_sparsity=sparsities[1],
        generator_optimizer=functools.partial(MaskedAdam, beta_1=0.5),
        discriminator_optimizer=functools.partial(MaskedAdam, beta_1=0.5),
    )
    algorithm = {"total_steps": STEPS, "batch_size": 4, "generator_batch_size": 4} | (
        algorithm or {}
    )
    every = {"log_every": 2, "sample_every": STEPS, "checkpoint_every": 2, "keep_checkpoints": 9}
    return Training(
        digits(),
        strategy or tf.distribute.OneDeviceStrategy("CPU:0"),
        gan,
        functools.partial(Algorithm, **algorithm),
        **{**every, **settings},
    )


def opening(method, config="", fails_at=(), **settings):
    """`opened` of trainings whose configuration is the text `config`.

    A phase named in `fails_at` is killed when it is opened. Nothing may hold the networks of a
    former phase by then: memory is scarce.
    """
    former = []

    @contextlib.contextmanager
    def opened(phase):
        if phase.name in fails_at:
            raise KilledError(f"when {phase.name} was opened")
        assert [network for network in former if network() is not None] == []
        sparsities = [phase.settings[f"GAN.{n}_sparsity"] for n in ("generator", "discriminator")]
        of_phase = {
            name.removeprefix("Algorithm."): value
            for name, value in phase.settings.items()
            if name.startswith("Algorithm.")
        }
        algorithm = {**settings.get("algorithm", {}), **of_phase}
        training = small_training(sparsities=sparsities, **{**settings, "algorithm": algorithm})
        former.extend(map(weakref.ref, training.gan.networks.values()))
        method.check(training)
        yield BuiltTraining(training, config, f"{method.name}\n{config}")

    return opened


def run_through(method, tmp_path_factory, **settings):
    """The workdir of a method that was never killed."""
    workdir = tmp_path_factory.mktemp("uninterrupted") / "run"
    method.run(workdir, opening(method, **settings))
    return workdir


class KilledError(BaseException):
    """What ends a process at a moment that a test chooses."""


@contextlib.contextmanager
def killed(monkeypatch, owner, name, when=lambda *arguments: True):
    """Kills once `owner.name` has been called with arguments that fit; fails if it never is."""
    original = getattr(owner, name)

    def call(*arguments, **named):
        result = original(*arguments, **named)
        if when(*arguments):
            raise KilledError(f"after {name}")
        return result

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, call)
        try:
            yield
        except KilledError:
            return
    raise AssertionError(f"{name} was never called so")


def states(folder):
    """{step: {name: array}} of all checkpoints of a run."""
    found = {}
    for step in Checkpoints(folder / "checkpoints", {}).steps():
        path = folder / "checkpoints" / f"step_{step:08d}" / "state"
        reader = tf.train.load_checkpoint(str(path))
        suffix = "/.ATTRIBUTES/VARIABLE_VALUE"
        found[step] = {
            name.removesuffix(suffix).replace(".S", "/"): reader.get_tensor(name)
            for name in reader.get_variable_to_shape_map()
            if name.endswith(suffix)
        }
    return found


def metrics(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if not is_of_machine(k)} for line in lines]


def manifest(folder):
    return json.loads((folder / "run.json").read_text())


def assert_same_state(one, other, but_for=()):
    assert one.keys() == other.keys()
    for name, value in one.items():
        if name not in but_for:
            np.testing.assert_array_equal(value, other[name], err_msg=name)


def assert_same_phase(one, other):
    """Same checkpoints, log and beginning."""
    ours, theirs = states(one), states(other)
    assert ours.keys() == theirs.keys()
    for step, state in ours.items():
        assert_same_state(state, theirs[step])
    assert metrics(one) == metrics(other)
    beginnings = [manifest(folder)["phase"] for folder in (one, other)]
    assert beginnings[0] == beginnings[1]


def variable_names(training, of):
    """What a checkpoint calls the variables `of(training)`."""
    wanted = {id(variable) for variable in of(training)}
    names = [n for n, variable in training.state().items() if id(variable) in wanted]
    assert len(names) == len(wanted)
    return names
