"""Every tensor function gives the same eagerly, in a graph and compiled by XLA."""

import pytest
import tensorflow as tf

from stugan_tf.sparsity import averaging, criteria, distributions, exploration_rate, topology
from tests.helpers.params import first_by_default

SHAPE = (3, 3, 4, 8)
SEED = tf.constant([3, 4])
WEIGHT = tf.random.stateless_normal(SHAPE, (0, 0))
GRADIENT = tf.random.stateless_normal(SHAPE, (0, 1))
MASK = distributions.exact_mask(SHAPE, 0.3, (0, 2))
OTHER_MASK = distributions.exact_mask(SHAPE, 0.3, (0, 3))
EXPLORATION = (MASK, tf.abs(WEIGHT), tf.abs(GRADIENT))
MASKS, *SCORES = ([x, x[0]] for x in EXPLORATION)
SCORES = topology.Scores(*SCORES)


@pytest.mark.ci
@pytest.mark.parametrize(
    "jit_compile", first_by_default(True, False, in_ci=0), ids=["xla", "graph"]
)
@pytest.mark.parametrize(
    ("function", "arguments"),
    [
        (topology.prune_and_regrow, (*EXPLORATION, 0.3)),
        (topology.prune_and_regrow_per_layer, (MASKS, SCORES, 0.3)),
        (topology.prune_and_regrow_from_zero, (MASKS, SCORES, 0.3)),
        (topology.prune_and_regrow_globally, (MASKS, SCORES, 0.3)),
        (topology.prune_and_regrow_globally, (MASKS, SCORES, tf.constant([0.0, 0.4], tf.float64))),
        (topology.prune_per_layer, (MASKS, SCORES, 0.8)),
        (topology.prune_globally, (MASKS, SCORES, 0.8)),
        (criteria.connection_sensitivity, (WEIGHT, GRADIENT, SEED)),
        (criteria.taylor_expansion, (WEIGHT, GRADIENT, SEED)),
        (criteria.gradient_flow, (WEIGHT, GRADIENT, SEED)),
        (lambda seed: distributions.exact_mask(SHAPE, 0.3, seed), (SEED,)),
        (lambda seed: distributions.bernoulli_mask(SHAPE, 0.3, seed), (SEED,)),
        (criteria.magnitude, (WEIGHT, GRADIENT, SEED)),
        (criteria.gradient_magnitude, (WEIGHT, GRADIENT, SEED)),
        (criteria.random_scores, (WEIGHT, GRADIENT, SEED)),
        (averaging.sema, (GRADIENT, WEIGHT * MASK, MASK, OTHER_MASK > 0, 0.999)),
        (averaging.literal_sema, (GRADIENT, WEIGHT * MASK, MASK, OTHER_MASK > 0, 0.999)),
        (averaging.masked_ema, (GRADIENT, WEIGHT * MASK, MASK, OTHER_MASK > 0, 0.999)),
        (averaging.ema, (GRADIENT, WEIGHT * MASK, MASK, OTHER_MASK > 0, 0.999)),
        (exploration_rate.exploration_rate, ([MASK, OTHER_MASK[0]],)),
        (exploration_rate.churn, (MASK, OTHER_MASK)),
    ],
)
def test_compiled_is_eager(function, arguments, jit_compile):
    expected = tf.nest.flatten(function(*arguments))
    compiled = tf.nest.flatten(tf.function(function, jit_compile=jit_compile)(*arguments))
    for eager_tensor, compiled_tensor in zip(expected, compiled, strict=True):
        tf.debugging.assert_near(
            tf.cast(eager_tensor, tf.float64), tf.cast(compiled_tensor, tf.float64), rtol=1e-6
        )
        assert eager_tensor.dtype == compiled_tensor.dtype
