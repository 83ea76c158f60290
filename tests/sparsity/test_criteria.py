import numpy as np
import pytest
import tensorflow as tf

from stugan_tf import config
from stugan_tf.sparsity import criteria
from stugan_tf.sparsity.criteria import Criterion, gradient_magnitude, magnitude, random_scores
from stugan_tf.sparsity.exploration import Exploration

WEIGHT = tf.constant([[-2.0, 0.0], [1.0, -0.5]])
GRADIENT = tf.constant([[0.25, -4.0], [0.0, 1.0]])


def test_magnitudes_by_hand():
    assert magnitude(WEIGHT, GRADIENT, (0, 1)).numpy().tolist() == [[2, 0], [1, 0.5]]
    assert gradient_magnitude(WEIGHT, GRADIENT, (0, 1)).numpy().tolist() == [[0.25, 4], [0, 1]]


def test_random_scores_depend_on_the_seed_alone():
    scores = random_scores(WEIGHT, GRADIENT, (0, 1))
    assert scores.shape == WEIGHT.shape
    assert scores.dtype == tf.float32
    assert tf.reduce_all(scores == random_scores(-WEIGHT, 2 * GRADIENT, (0, 1)))
    assert tf.reduce_all(scores != random_scores(WEIGHT, GRADIENT, (0, 2)))


def test_gradient_based_criteria_by_hand():
    scores = {
        name: getattr(criteria, name)(WEIGHT, GRADIENT, (0, 1)).numpy().tolist()
        for name in ("connection_sensitivity", "taylor_expansion", "gradient_flow")
    }
    assert scores == {
        "connection_sensitivity": [[0.5, 0], [0, 0.5]],
        "taylor_expansion": [[0.25, 0], [0, 0.25]],
        "gradient_flow": [[-0.5, 0], [0, -0.5]],
    }


def test_the_expansion_and_the_sensitivity_are_the_loss_without_a_weight():
    """To first order, of a quadratic loss; the gate of SNIP is c in L(c w)."""
    rng = np.random.default_rng(0)
    weight, step = rng.normal(size=5), 1e-4
    square, line = rng.normal(size=(5, 5)), rng.normal(size=5)

    def loss(weight):
        return weight @ square @ weight + line @ weight

    gradient = (square + square.T) @ weight + line
    gates = np.eye(5) * step
    by_gate = [(loss(weight * (1 + g)) - loss(weight * (1 - g))) / (2 * step) for g in gates]
    arguments = tf.constant(weight, tf.float32), tf.constant(gradient, tf.float32), (0, 1)
    sensitivity = criteria.connection_sensitivity(*arguments)
    np.testing.assert_allclose(sensitivity, np.abs(by_gate), rtol=1e-4)
    expansion = criteria.taylor_expansion(*arguments)
    np.testing.assert_allclose(expansion, np.square(by_gate), rtol=1e-4)


def test_gradient_flow_is_what_the_squared_gradient_loses_with_a_weight():
    """Of a cubic loss, where H depends on the weights: -2 w H g to first order in the weight."""
    rng = np.random.default_rng(1)
    weight, cube = rng.normal(size=4), rng.normal(size=4)

    def gradient(weight):
        return cube * weight**2 + weight.sum()

    def flow(weight):
        return np.sum(gradient(weight) ** 2)

    hessian = np.diag(2 * cube * weight) + 1
    scores = criteria.gradient_flow(
        tf.constant(weight, tf.float32),
        tf.constant(hessian @ gradient(weight), tf.float32),
        (0, 1),
    )
    shrunk = [(flow(weight * (1 - 1e-5 * gate)) - flow(weight)) / 1e-5 for gate in np.eye(4)]
    np.testing.assert_allclose(-2 * scores.numpy(), shrunk, rtol=1e-3)


@pytest.mark.parametrize("scope", ["", "generator/"])
def test_what_a_criterion_wants_is_known_through_a_gin_reference(scope):
    config.parse_gin(bindings=[f"Exploration.drop_scores = @{scope}gradient_flow"])
    assert Criterion.of(Exploration().drop_scores).gradient == "hessian"
    assert Criterion.of(Exploration().grow_scores).gradient == "loss"
    config.parse_gin()
