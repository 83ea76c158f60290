import itertools

import numpy as np
import pytest
import scipy.stats
import tensorflow as tf

from stugan_tf.randomness import Purpose, draw_latents, fold
from tests.helpers.params import first_by_default

SEED = tf.constant([3, 4], tf.int64)


@pytest.mark.parametrize("jit_compile", first_by_default(False, True), ids=["graph", "xla"])
def test_a_compiled_step_draws_what_an_eager_one_does(jit_compile):
    def draw(step):
        return draw_latents(64, 32, 10, fold(SEED, Purpose.GENERATOR_UPDATE, step))

    latents, labels = draw(tf.constant(7))
    compiled_latents, compiled_labels = tf.function(draw, jit_compile=jit_compile)(tf.constant(7))
    np.testing.assert_allclose(compiled_latents, latents, atol=1e-5)
    np.testing.assert_array_equal(compiled_labels, labels)


def test_latents_are_normal_and_labels_uniform():
    latents, labels = draw_latents(20_000, 8, 10, SEED)
    assert latents.dtype == tf.float32
    assert labels.dtype == tf.int32
    values = latents.numpy().ravel()  # 160,000
    for power, moment in ((1, 0), (2, 1), (3, 0), (4, 3)):
        assert np.mean(values**power) == pytest.approx(moment, abs=0.1 if power > 2 else 0.01)
    # One in 15,800 is beyond 4.
    assert 2 <= np.sum(np.abs(values) > 4) <= 25
    np.testing.assert_allclose(np.corrcoef(latents, rowvar=False), np.eye(8), atol=0.05)
    np.testing.assert_allclose(np.bincount(labels, minlength=10) / 20_000, 0.1, atol=0.01)


@pytest.mark.parametrize("truncation", [0.3, 1.0, 2.0, 9.0])
def test_truncated_latents_follow_the_truncated_normal_distribution(truncation):
    latents, labels = draw_latents(20_000, 8, 10, SEED, truncation)
    assert np.all(np.abs(latents) <= truncation)
    expected = scipy.stats.truncnorm(-truncation, truncation)
    assert scipy.stats.kstest(np.ravel(latents), expected.cdf).statistic < 0.005  # n = 160,000
    np.testing.assert_array_equal(labels, draw_latents(20_000, 8, 10, SEED)[1])


def test_every_purpose_step_and_attempt_has_its_own_numbers():
    seeds = [
        tuple(fold(seed, attempt, purpose, step).numpy())
        for seed, attempt, purpose, step in itertools.product(
            [(0, 0), (1, 0)], range(2), Purpose, range(3)
        )
    ]
    assert len(set(seeds)) == len(seeds) == 2 * 2 * len(Purpose) * 3
