"""Steps of a GAN that rematerialises are those of one that does not."""

import functools

import numpy as np
import pytest

from stugan_tf.layers.graph import activation_size
from stugan_tf.models.sngan import sngan_generator
from stugan_tf.runs.plan import describe, memory_estimate
from stugan_tf.sparsity.exploration import Exploration
from stugan_tf.sparsity.training_flops import CONVENTIONS, Cost, constant_stretch, training_flops
from tests.helpers.small_networks import residual_discriminator
from tests.helpers.stepping import Run, algorithm, assert_close, assert_replicas_agree
from tests.helpers.tiny_training import tiny_algorithm, tiny_gan, tiny_training

NUM_STEPS = 3
TRACED = pytest.mark.parametrize("tracing", ["traced"], indirect=True)
OF_BLOCKS = tiny_gan(
    generator=functools.partial(sngan_generator, width=4, latent_dim=4),
    discriminator=residual_discriminator,
)
# To trace and compile topology updates takes longer than all else; the training below has them.
SETTINGS = {"generator_exploration": None}


@pytest.fixture(scope="module")
def history(tracing):
    """States after steps 1 to 3 of the usual run."""
    del tracing
    run = Run(algorithm(**SETTINGS))
    return [run.advance().state() for _ in range(NUM_STEPS)]


def check(history, tolerance=1e-3, **how):
    run = Run(algorithm(**SETTINGS), rematerialize=True, **how)
    for expected in history:
        assert_close(run.advance().state(), expected, tolerance)
    return run


@pytest.mark.ci
def test_steps_are_the_usual_ones(history):
    """Moving statistics and singular vectors move once."""
    check(history, tolerance=1e-4)


@pytest.mark.slow
@TRACED
def test_two_replicas_normalise_by_both_again(mirrored, history):
    """Batch norm over both replicas meets in the backward pass, too."""
    assert_replicas_agree(check(history, strategy=mirrored))


@pytest.mark.slow
@TRACED
def test_xla_takes_the_same_steps(history):
    check(history, jit_compile=True)


@pytest.mark.slow
def test_it_goes_with_accumulation_in_half_precision():
    """The same roundings are made in the second run, as are the scale's decisions."""
    settings = algorithm(accumulation_steps=2, discriminator_steps=1, **SETTINGS)
    runs = [Run(settings, precision="float16", rematerialize=r) for r in (False, True)]
    for run in runs:
        for name in run.gan.networks:
            run.variables()[f"loss_scale/{name}/factor"].assign(2.0**6)
        run.advance()
    expected, state = (run.state() for run in runs)
    for name, value in expected.items():
        tolerance = {"rtol": 2.0**-8, "atol": 2.0**-8} if value.dtype.kind == "f" else {}
        np.testing.assert_allclose(state[name], value, err_msg=name, **tolerance)


@pytest.mark.ci
@pytest.mark.usefixtures("operations")
def test_a_training_with_it_is_the_training_without(tmp_path):
    """Here on the non-zeros, by fused layers, with a topology update by the gradient."""
    found = []
    exploration = Exploration(update_interval=2)
    for rematerialize in (False, True):
        training = tiny_training(
            OF_BLOCKS,
            tiny_algorithm(generator_exploration=exploration),
            execution="sparse",
            rematerialize=rematerialize,
        )
        assert training.gan.rematerializes == rematerialize
        training.run(tmp_path / str(rematerialize), "")
        found.append({name: variable.numpy() for name, variable in training.state().items()})
    assert_close(found[1], found[0], tolerance=1e-3)


@pytest.mark.ci
def test_the_plan_knows_of_it():
    trainings = [tiny_training(OF_BLOCKS, rematerialize=r) for r in (False, True)]
    plain, rematerializing = (training.gan for training in trainings)
    says = ["rematerialisation: backward passes" in describe(training) for training in trainings]
    assert says == [False, True]
    settings = tiny_algorithm()()
    parts, fewer = (memory_estimate(gan, settings) for gan in (plain, rematerializing))
    activations = "activations of one micro-batch"
    assert fewer.pop(activations) < parts.pop(activations)
    assert fewer == parts
    assert activation_size(plain.generator) == activation_size(rematerializing.generator)
    stretches = [constant_stretch(Cost(100.0, 100.0), Cost(10.0, 10.0), settings)]
    usual, more = (
        {c: training_flops(stretches, settings, c, r).total for c in CONVENTIONS}
        for r in (False, True)
    )
    assert more["updates"] == usual["updates"]
    assert more["full"] - usual["full"] == settings.total_steps * (
        settings.discriminator_steps * settings.batch_size * 2 * 10
        + settings.generator_batch_size * (100 + 10)
    )
