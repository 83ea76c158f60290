"""Steps whose gradients come of several micro-batches."""

import numpy as np
import pytest
import tensorflow as tf

from stugan_tf.errors import InputError
from stugan_tf.randomness import Purpose, draw_latents, fold
from tests.helpers.stepping import (
    BATCH_SIZE,
    IMAGES,
    NUM_STEPS,
    SEED,
    Run,
    algorithm,
    assert_close,
    assert_replicas_agree,
    assert_same_masks,
    build_gan,
    small_discriminator,
    small_generator,
)
from tests.helpers.tiny_training import tiny_algorithm, tiny_training

TRACED = pytest.mark.parametrize("tracing", ["traced"], indirect=True)
PLAIN = {"generator": small_generator, "discriminator": small_discriminator}


def record(run):
    return [run.snapshot(), *(run.advance().snapshot() for _ in range(NUM_STEPS))]


@pytest.fixture(scope="module")
def in_halves(tracing):
    """Two micro-batches, by one device, not compiled by XLA."""
    del tracing
    return Run(algorithm(accumulation_steps=2))


@pytest.fixture(scope="module")
def history(in_halves):
    """Snapshots after steps 0 to 4."""
    return record(in_halves)


@pytest.mark.ci
@pytest.mark.usefixtures("tracing")
def test_without_batch_statistics_they_are_the_steps_of_whole_batches():
    """Topology updates too: growth sees the gradient of the whole batch."""
    whole = record(Run(algorithm(), **PLAIN))
    parts = record(Run(algorithm(accumulation_steps=4), **PLAIN))
    for snapshot, expected in zip(parts, whole, strict=True):
        assert_close(snapshot.state, expected.state)
        assert_same_masks(snapshot, expected)
    changed = [
        np.any(last != first)
        for last, first in zip(parts[-1].generator_masks, parts[0].generator_masks, strict=True)
    ]
    assert any(changed)


@pytest.mark.ci
@pytest.mark.usefixtures("untraced")
def test_batch_norm_sees_one_micro_batch_at_a_time():
    settings = algorithm(accumulation_steps=2, discriminator_steps=1)
    run = Run(settings).advance()
    generator = build_gan().generator
    for purpose, step in ((Purpose.DISCRIMINATOR_UPDATE, 0), (Purpose.GENERATOR_UPDATE, 1)):
        latents, _ = draw_latents(BATCH_SIZE, 6, 10, fold((SEED, 0), 0, purpose, step))
        for part in tf.split(latents, 2):
            generator(part, training=True)
    compared = [
        np.testing.assert_allclose(variable, expected, rtol=1e-4, atol=1e-5)
        for variable, expected in zip(run.gan.generator.variables, generator.variables, strict=True)
        if "moving" in variable.path
    ]
    assert len(compared) == 2 * 3


@pytest.mark.slow
@TRACED
def test_two_replicas_take_the_steps_of_one(mirrored, history):
    """A micro-batch is spread over the replicas: batch norm over both sees the same images."""
    run = Run(algorithm(accumulation_steps=2), mirrored)
    for step in range(1, NUM_STEPS + 1):
        run.advance()
        assert_replicas_agree(run)
        assert_same_masks(run.snapshot(), history[step])
        assert_close(run.state(), history[step].state, tolerance=1e-3)


@pytest.mark.slow
@TRACED
def test_xla_takes_the_same_steps(history):
    run = Run(algorithm(accumulation_steps=2), jit_compile=True)
    for step in range(1, NUM_STEPS + 1):
        run.advance()
        assert_same_masks(run.snapshot(), history[step])
        assert_close(run.state(), history[step].state, tolerance=1e-3)


@pytest.mark.ci
def test_nothing_that_a_checkpoint_does_not_hold_outlives_a_step(in_halves, history):
    """So a resumed run equals an uninterrupted one, bit for bit."""
    # What is left of later steps must not matter. Step 3 begins with the fifth batch.
    in_halves.restart(IMAGES[4:], state=history[2].state, step=2).advance(2)
    for name, value in in_halves.state().items():
        np.testing.assert_array_equal(value, history[4].state[name], err_msg=name)


@pytest.mark.ci
def test_a_micro_batch_of_images_does_not_depend_on_the_number_of_replicas(mirrored):
    def images(**settings):
        training = tiny_training(
            algorithm=tiny_algorithm(batch_size=8, accumulation_steps=2), **settings
        )
        batches = iter(training.distributed_batches(3))
        local = training.strategy.experimental_local_results
        return [np.concatenate(local(next(batches)[0])) for _ in range(6)]

    one, two = images(), images(strategy=mirrored)
    np.testing.assert_array_equal(one, two)
    assert one[0].shape[0] == 4


@pytest.mark.parametrize(
    ("settings", "num_replicas", "message"),
    [
        ({"accumulation_steps": 3}, 1, r"batch_size = 8 .* by Algorithm.accumulation_steps = 3\."),
        ({"accumulation_steps": 8}, 2, r"= 8 times 2 replicas\. Choose a multiple of 16"),
        ({"accumulation_steps": 0}, 1, "accumulation_steps must be a positive integer, got 0"),
    ],
)
def test_batches_must_divide_into_micro_batches(settings, num_replicas, message):
    with pytest.raises(InputError, match=message):
        algorithm(**settings).check_replicas(num_replicas)
