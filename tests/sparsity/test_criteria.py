import tensorflow as tf

from stugan_tf.sparsity.criteria import gradient_magnitude, magnitude, random_scores

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
