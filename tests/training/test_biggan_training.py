"""A tiny BigGAN with all that ImageNet's has, trained in every way that the step offers."""

import functools
import json
import shutil

import numpy as np
import pytest
import tensorflow as tf

from stugan_tf.data import digits
from stugan_tf.layers.masked import masked_layers
from stugan_tf.models.biggan import biggan_discriminator, biggan_generator
from stugan_tf.runs.checkpoints import Checkpoints
from stugan_tf.runs.events import is_of_machine
from stugan_tf.runs.loop import Training
from stugan_tf.sparsity.exploration import Exploration
from stugan_tf.training.masked_adam import MaskedAdam
from tests.helpers.tiny_training import tiny_algorithm, tiny_gan

pytestmark = pytest.mark.slow

NUM_STEPS = 3
GAN = tiny_gan(
    generator=functools.partial(
        biggan_generator,
        width=4,
        latent_dim=8,
        shared_dim=4,
        hierarchical=True,
        attention_sizes=(16,),
        cross_replica_batch_norm=True,
    ),
    discriminator=functools.partial(biggan_discriminator, width=4, attention_sizes=(16,)),
    # Large against rounding errors of gradients about 0, of which Adam makes whole steps.
    generator_optimizer=functools.partial(MaskedAdam, learning_rate=1e-3, epsilon=1e-2),
    discriminator_optimizer=functools.partial(MaskedAdam, learning_rate=1e-3, epsilon=1e-2),
    conditional=True,
)
ALGORITHM = tiny_algorithm(
    total_steps=NUM_STEPS,
    batch_size=8,
    generator_batch_size=8,
    joint_discrimination=True,
    generator_exploration=Exploration(update_interval=2),
)


def untrained(strategy=None, algorithm=ALGORITHM, **settings):
    return Training(
        digits(image_size=32),
        strategy or tf.distribute.OneDeviceStrategy("CPU:0"),
        GAN,
        algorithm,
        log_every=1,
        checkpoint_every=1,
        keep_checkpoints=NUM_STEPS + 1,
        num_samples=10,
        **settings,
    )


def trained(workdir, strategy=None, algorithm=ALGORITHM, **settings):
    """Trains to the end; returns the training."""
    training = untrained(strategy, algorithm, **settings)
    training.run(workdir, "")
    return training


def restored(training, workdir, step):
    """The training as it was after `step`."""
    Checkpoints(workdir / "checkpoints", training.state()).restore(step)
    return training


def state(training, replica=0):
    local = training.strategy.experimental_local_results
    return {name: local(variable)[replica].numpy() for name, variable in training.state().items()}


def metrics(workdir):
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if not is_of_machine(k)} for line in lines]


def masks(training):
    return [layer.kernel_mask.numpy() for layer in masked_layers(training.gan.generator)]


def close(values, expected, tolerance):
    """Equal but for rounding; masks and all that counts are equal."""
    assert values.keys() == expected.keys()
    for name, value in expected.items():
        exact = value.dtype.kind != "f" or set(np.unique(value)) <= {0, 1}
        allowed = 0 if exact else tolerance
        np.testing.assert_allclose(values[name], value, rtol=allowed, atol=allowed, err_msg=name)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """Workdir and training: float32, one replica, not compiled by XLA."""
    workdir = tmp_path_factory.mktemp("plain") / "run"
    return workdir, trained(workdir)


def test_the_topology_changes_and_keeps_its_counts(plain):
    workdir, training = plain
    after = [layer.kernel_mask.numpy() for layer in masked_layers(training.gan.generator)]
    restored(training, workdir, 1)
    before = [layer.kernel_mask.numpy() for layer in masked_layers(training.gan.generator)]
    restored(training, workdir, NUM_STEPS)
    assert [mask.sum() for mask in after] == [mask.sum() for mask in before]
    assert any(np.any(a != b) for a, b in zip(after, before, strict=True))


def test_xla_takes_the_same_steps(plain, tmp_path):
    compiled = trained(tmp_path, jit_compile=True)
    close(state(compiled), state(plain[1]), tolerance=2e-3)


def test_two_replicas_take_the_same_steps(plain, tmp_path, mirrored):
    distributed = trained(tmp_path, mirrored)
    close(state(distributed), state(plain[1]), tolerance=2e-3)


def test_bfloat16_starts_closely_and_keeps_the_counts(plain, tmp_path):
    """Of one step: errors add up to some roundings of 2**-8."""
    half = trained(tmp_path, precision="bfloat16")
    first, expected = metrics(tmp_path)[0], metrics(plain[0])[0]
    assert first == pytest.approx(expected, rel=0.05, abs=0.05)
    assert first != expected
    ours, theirs = state(half), state(plain[1])
    for name, value in theirs.items():
        assert ours[name].dtype == value.dtype
    assert half.counts() == plain[1].counts()


def test_a_run_goes_on_under_another_number_of_replicas(plain, tmp_path, mirrored):
    workdir, training = plain
    shutil.copytree(workdir, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / f"step_{NUM_STEPS:08d}")
    before = state(restored(training, workdir, NUM_STEPS - 1))
    end = state(restored(training, workdir, NUM_STEPS))

    second = restored(untrained(mirrored), tmp_path / "run", NUM_STEPS - 1)
    for replica in range(2):
        close(state(second, replica), before, tolerance=0)

    second.run(tmp_path / "run", "")
    assert [line["step"] for line in metrics(tmp_path / "run")] == [1, 2, 3]
    close(state(second), end, tolerance=2e-3)
