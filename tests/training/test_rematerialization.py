"""Steps of a GAN that rematerialises are those of one that does not."""

import numpy as np
import pytest
from test_loop import tiny_algorithm, tiny_training
from test_steps import (
    NUM_STEPS,
    Run,
    algorithm,
    assert_close,
    assert_replicas_agree,
    assert_same_masks,
)

from stugan_tf.layers.graph import activation_size
from stugan_tf.training.plan import flops_of_step, memory_estimate


@pytest.fixture(scope="module")
def history():
    """Snapshots after steps 0 to 4 of the usual run."""
    run = Run()
    return [run.snapshot(), *(run.advance().snapshot() for _ in range(NUM_STEPS))]


def check(run, history, tolerance=1e-4):
    for step in range(1, NUM_STEPS + 1):
        run.advance()
        if run.strategy.num_replicas_in_sync > 1:
            assert_replicas_agree(run)
        assert_same_masks(run.snapshot(), history[step])
        assert_close(run.state(), history[step].state, tolerance)


def test_steps_are_the_usual_ones(history):
    """Moving statistics, singular vectors and the masks that the generator explores, too."""
    check(Run(rematerialize=True), history)


def test_two_replicas_normalise_by_both_again(mirrored, history):
    """Batch norm over both replicas meets in the backward pass, too."""
    check(Run(strategy=mirrored, rematerialize=True), history, tolerance=1e-3)


def test_xla_takes_the_same_steps(history):
    check(Run(jit_compile=True, rematerialize=True), history, tolerance=1e-3)


def test_it_goes_with_accumulation_in_half_precision():
    """The same roundings are made in the second run, as are the scale's decisions."""
    settings = algorithm(accumulation_steps=2, discriminator_steps=1)
    runs = [Run(settings, precision="float16", rematerialize=r) for r in (False, True)]
    for run in runs:
        for name in run.gan.networks:
            run.variables()[f"loss_scale/{name}/factor"].assign(2.0**6)
        run.advance()
    expected, state = (run.state() for run in runs)
    for name, value in expected.items():
        tolerance = {"rtol": 2.0**-8, "atol": 2.0**-8} if value.dtype.kind == "f" else {}
        np.testing.assert_allclose(state[name], value, err_msg=name, **tolerance)


@pytest.mark.usefixtures("operations")
def test_a_training_with_it_is_the_training_without(tmp_path):
    """Here on the non-zeros, by fused layers."""
    found = []
    for rematerialize in (False, True):
        training = tiny_training(execution="sparse", rematerialize=rematerialize)
        assert training.gan.rematerializes == rematerialize
        training.run(tmp_path / str(rematerialize), "")
        found.append({name: variable.numpy() for name, variable in training.state().items()})
    assert_close(found[1], found[0], tolerance=1e-3)


def test_the_plan_knows_of_it():
    plain, rematerializing = (tiny_training(rematerialize=r).gan for r in (False, True))
    assert not plain.rematerializes
    settings = tiny_algorithm()()
    parts, fewer = (memory_estimate(gan, settings) for gan in (plain, rematerializing))
    activations = "activations of one micro-batch"
    assert fewer.pop(activations) < parts.pop(activations)
    assert fewer == parts
    assert activation_size(plain.generator) == activation_size(rematerializing.generator)
    forward, batch = (100.0, 10.0), settings.batch_size
    usual, more = (flops_of_step(*forward, settings, r) for r in (False, True))
    assert more.paper == usual.paper
    assert more.full - usual.full == (
        settings.discriminator_steps * batch * 2 * 10 + settings.generator_batch_size * (100 + 10)
    )
