import keras
import numpy as np
import pytest

from stugan_tf.layers.initializers import (
    Orthogonal,
    normal_weights,
    orthogonal_weights,
    torch_bias,
    torch_kernel,
)

SHAPES = [(3, 3, 16, 8), (3, 3, 2, 40), (1, 1, 24, 24), (20, 160), (160, 20), (7, 7), (5, 1)]


def matrix(initializer, shape):
    return keras.ops.convert_to_numpy(initializer(shape)).reshape(-1, shape[-1])


@pytest.mark.parametrize("shape", SHAPES)
def test_orthogonal_weights_have_orthonormal_columns_or_rows(shape):
    weights = matrix(orthogonal_weights(), shape)
    short = weights if weights.shape[0] >= weights.shape[1] else weights.T
    np.testing.assert_allclose(short.T @ short, np.eye(short.shape[1]), atol=1e-5)


@pytest.mark.parametrize("shape", [(3, 3, 8, 4), (12, 12)])
def test_they_are_the_q_of_a_gaussian_matrix_whose_r_has_a_positive_diagonal(shape):
    initializer = Orthogonal(seed=3)
    weights = matrix(initializer, shape)
    gaussian = keras.ops.convert_to_numpy(keras.random.normal(weights.shape, seed=3))
    r = weights.T @ gaussian
    np.testing.assert_allclose(weights @ r, gaussian, atol=1e-4)
    np.testing.assert_allclose(np.tril(r, -1), 0, atol=1e-4)
    assert np.all(np.diag(r) > 0)


def test_the_gain_scales_and_the_configuration_keeps_all():
    initializer = Orthogonal(gain=3.0, seed=1)
    np.testing.assert_allclose(initializer((6, 4)), 3 * Orthogonal(seed=1)((6, 4)), rtol=1e-5)
    copy = Orthogonal.from_config(initializer.get_config())
    np.testing.assert_array_equal(copy((6, 4)), initializer((6, 4)))


def test_normal_weights_are_normal():
    weights = np.asarray(normal_weights()((100, 200)))
    assert weights.mean() == pytest.approx(0, abs=1e-3)
    assert weights.std() == pytest.approx(0.02, rel=0.02)


@pytest.mark.parametrize("make", [normal_weights, orthogonal_weights])
def test_each_call_makes_an_initializer_of_other_numbers(make):
    assert np.all(np.asarray(make()((4, 5))) != np.asarray(make()((4, 5))))


@pytest.mark.parametrize("initializer", [torch_bias(25), torch_kernel()])
def test_pytorchs_defaults_are_uniform_between_the_inverse_roots_of_fan_in(initializer):
    values = np.asarray(initializer((25, 400)))
    assert 0.198 < np.max(np.abs(values)) <= 0.2
    assert values.std() == pytest.approx(0.2 / np.sqrt(3), rel=0.03)
