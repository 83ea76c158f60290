import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from stugan_tf.errors import InputError
from stugan_tf.layers.spectral import SpectralDense
from stugan_tf.training.losses import Loss
from stugan_tf.training.orthogonality import OrthogonalRegularization, orthogonal_gradient
from tests.helpers.params import first_by_default
from tests.helpers.stepping import (
    ADAM,
    Run,
    algorithm,
    kernels_of,
    masks_of,
    small_discriminator,
    small_generator,
)


def reference_gradient(weight):
    """The reference code's, for a weight of PyTorch's layout: [rows, ...]."""
    rows = weight.reshape(weight.shape[0], -1).astype(np.float64)
    others = 1 - np.eye(len(rows))
    return (2 * ((rows @ rows.T) * others) @ rows).reshape(weight.shape)


@pytest.mark.parametrize("shape", [(3, 3, 2, 5), (4, 6), (7, 1)])
def test_it_is_that_of_the_reference_code(shape):
    weight = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    gradient = orthogonal_gradient(tf.constant(weight))
    expected = np.moveaxis(reference_gradient(np.moveaxis(weight, -1, 0)), 0, -1)
    np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-4)
    gradient = orthogonal_gradient(tf.constant(weight.reshape(-1, shape[-1])), is_embedding=True)
    expected = reference_gradient(weight.reshape(-1, shape[-1]))
    np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-4)


def test_it_is_the_slope_of_half_the_squared_products_of_different_filters():
    weight = tf.constant(np.random.default_rng(1).normal(size=(5, 3)))
    with tf.GradientTape() as tape:
        tape.watch(weight)
        gram = tf.matmul(weight, weight, transpose_a=True)
        penalty = tf.reduce_sum((gram * (1 - tf.eye(3, dtype=gram.dtype))) ** 2) / 2
    np.testing.assert_allclose(orthogonal_gradient(weight), tape.gradient(penalty, weight))


def test_orthogonal_filters_of_any_length_are_left_alone():
    weight = tf.constant(np.diag([1.0, 2.0, 3.0]))
    np.testing.assert_array_equal(orthogonal_gradient(weight), np.zeros([3, 3]))


def test_weights_with_two_axes_are_regularised_but_those_excluded():
    labels = keras.Input([], dtype="int32")
    outputs = layers.Embedding(5, 3, name="shared")(labels)
    outputs = layers.BatchNormalization()(SpectralDense(4, name="dense")(outputs))
    model = keras.Model(labels, layers.Multiply()([outputs, layers.Embedding(5, 4)(labels)]))
    gradients = OrthogonalRegularization(0.5, exclude=["shared"]).gradients(model)
    by_path = {
        variable.path: (variable, gradient)
        for variable, gradient in zip(model.trainable_variables, gradients, strict=True)
    }
    kept = {path for path, (_, gradient) in by_path.items() if gradient is not None}
    other = next(path for path in kept if path.endswith("embeddings"))
    assert kept == {"dense/kernel", other}
    assert other != "shared/embeddings"
    variable, gradient = by_path[other]
    expected = 0.5 * reference_gradient(variable.numpy())
    np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-8)


@pytest.mark.usefixtures("tracing")
@pytest.mark.parametrize("num_parts", first_by_default(1, 2))
def test_a_step_adds_it_once_and_masked_weights_stay_zero(num_parts):
    """Where the loss has no slope, Adam's first second moment is that of the regularisation."""
    still = Loss(
        discriminator=lambda real, fake: 0 * tf.reduce_mean(real + fake),
        generator=lambda fake: 0 * tf.reduce_mean(fake),
    )
    run = Run(
        algorithm(
            loss=still,
            accumulation_steps=num_parts,
            discriminator_steps=1,
            generator_exploration=None,
            generator_regularization=OrthogonalRegularization(0.1),
        ),
        generator=small_generator,
        discriminator=small_discriminator,
    )
    generator, discriminator = run.gan.generator, run.gan.discriminator
    before = [variable.numpy() for variable in generator.trainable_variables]
    unregularised = [variable.numpy() for variable in discriminator.trainable_variables]
    run.advance()
    moments = [
        variable.numpy()
        for variable in run.gan.generator_optimizer.variables
        if variable.path.endswith("second_moment")
    ]
    for weight, moment in zip(before, moments, strict=True):
        expected = np.zeros_like(weight)
        if weight.ndim > 1:
            expected = np.moveaxis(reference_gradient(np.moveaxis(weight, -1, 0)), 0, -1)
        np.testing.assert_allclose(
            np.sqrt(moment / (1 - ADAM["beta_2"])), np.abs(0.1 * expected), rtol=1e-3, atol=1e-6
        )
    assert any(np.any(moment > 0) for moment in moments)
    for kernel, mask in zip(kernels_of(generator), masks_of(generator), strict=True):
        assert np.all(kernel[mask == 0] == 0)
    for variable, value in zip(discriminator.trainable_variables, unregularised, strict=True):
        np.testing.assert_array_equal(variable, value)


def test_impossible_settings_are_refused():
    with pytest.raises(InputError, match="strength must be a number above 0, got 0"):
        OrthogonalRegularization(0)
    with pytest.raises(InputError, match=r"exclude must be a list .* Write \['shared'\]"):
        OrthogonalRegularization(exclude="shared")
    model = small_generator((8, 8, 1))
    with pytest.raises(InputError, match=r"\['shared'\], but 'generator' has no such layer"):
        OrthogonalRegularization(exclude=["shared"]).check(model)
    with pytest.raises(InputError, match="generator_regularization must be of type Orthogonal"):
        algorithm(generator_regularization=0.1)
