"""Steps of a small residual GAN (8x8) that computes in 16 bits, beside those in 32."""

import functools
import types

import keras
import numpy as np
import pytest
import tensorflow as tf

from stugan_tf.errors import InputError
from stugan_tf.layers import execution
from stugan_tf.layers.masked import all_layers, masked_layers
from stugan_tf.layers.spectral import SpectralConv2D, SpectralDense
from stugan_tf.training.precision import LossScale, computing_in
from stugan_tf.training.samples import Samples
from tests.helpers.small_networks import residual_discriminator
from tests.helpers.stepping import (
    ADAM,
    IMAGES,
    NUM_STEPS,
    Run,
    algorithm,
    kernels_of,
    masks_of,
    small_discriminator,
    small_generator,
)
from tests.helpers.tiny_training import tiny_training

# One rounding errs by at most this, relatively: half of 2**-7 and of 2**-10.
ROUNDING = {"bfloat16": 2.0**-8, "float16": 2.0**-11}
# Of fewer feature maps single roundings would weigh more.
RESIDUAL = {"discriminator": functools.partial(residual_discriminator, width=8)}
TRACED = pytest.mark.parametrize("tracing", ["traced"], indirect=True)
PLAIN = {"generator": small_generator, "discriminator": small_discriminator}


def gradients_of_first_update(run, name):
    """The second moments after one update are those of the gradients: (1 - beta_2) g^2."""
    return np.concatenate(
        [
            np.ravel(np.sqrt(variable.numpy() / (1 - ADAM["beta_2"])))
            for variable in run.gan.optimizers[name].variables
            if variable.path.endswith("second_moment")
        ]
    )


def set_scales(run, factor):
    for name in run.gan.networks:
        run.variables()[f"loss_scale/{name}/factor"].assign(factor)


def first_step(run):
    run.advance()
    return types.SimpleNamespace(
        metrics=run.steps.pop_metrics(),
        gradients={name: gradients_of_first_update(run, name) for name in run.gan.networks},
    )


def first_step_in(precision, **settings):
    """A run, and what its first step was like."""
    accumulation_steps = settings.pop("accumulation_steps", 1)
    run = Run(
        algorithm(discriminator_steps=1, accumulation_steps=accumulation_steps),
        precision=precision,
        **{**RESIDUAL, **settings},
    )
    if precision == "float16":  # At the usual scale the first updates overflow.
        set_scales(run, 2.0**6)
    return run, first_step(run)


def distance(step, expected, rounding):
    """The larger of both networks' errors of all gradients, relatively; metrics must be close."""
    for name, value in expected.metrics.items():
        assert step.metrics[name] == pytest.approx(value, rel=8 * rounding, abs=8 * rounding)
    return max(
        np.linalg.norm(step.gradients[name] - gradients) / np.linalg.norm(gradients)
        for name, gradients in expected.gradients.items()
    )


@pytest.fixture(scope="module", params=[pytest.param("bfloat16", marks=pytest.mark.ci), "float16"])
def half(request, tracing):
    """A run in half precision after its four steps, and what its first was like."""
    del tracing
    run, first = first_step_in(request.param)
    before = masks_of(run.gan.generator)
    return types.SimpleNamespace(
        run=run.advance().advance().advance(),
        precision=request.param,
        first=first,
        masks_before=before,
    )


@pytest.fixture(scope="module")
def first_in_float32(tracing):
    del tracing
    return first_step(Run(algorithm(discriminator_steps=1), **RESIDUAL))


def test_losses_and_gradients_are_close_to_those_in_float32(half, first_in_float32):
    """About 30 operations lie between latents and gradients, so errors add up to some roundings.

    Where terms cancel they are larger than that relative to single values, not to the largest.
    """
    rounding = ROUNDING[half.precision]
    assert 0 < distance(half.first, first_in_float32, rounding) < 16 * rounding


@pytest.mark.slow
@TRACED
@pytest.mark.parametrize("half", ["float16", "bfloat16"], indirect=True)
def test_xla_takes_about_the_same_step(half):
    """It rounds elsewhere: what it fuses it computes without rounding in between."""
    run, first = first_step_in(half.precision, jit_compile=True)
    rounding = ROUNDING[half.precision]
    assert distance(first, half.first, rounding) < 16 * rounding
    assert run.steps.first_bad() is None


@pytest.mark.slow
@pytest.mark.parametrize("precision", ROUNDING)
def test_micro_batches_under_xla_make_about_the_step_of_the_whole_batch(precision):
    """Gradients of micro-batches are added in float32, so these err no more."""
    _, whole = first_step_in(precision, **PLAIN)
    _, parts = first_step_in(precision, accumulation_steps=2, jit_compile=True, **PLAIN)
    rounding = ROUNDING[precision]
    assert distance(parts, whole, rounding) < 16 * rounding


def test_layers_compute_in_it_and_variables_are_float32(half):
    for model in (half.run.gan.generator, half.run.gan.discriminator):
        dtypes = {layer.layer.compute_dtype for layer in masked_layers(model)}
        assert dtypes == {half.precision}
        assert {str(variable.dtype) for variable in model.variables} <= {"float32", "int32"}
    for optimizer in half.run.gan.optimizers.values():
        assert all(v.dtype == "float32" for v in optimizer.variables if len(v.shape))
    assert half.run.gan.generate(tf.zeros([2, 6]), None, training=False).dtype == tf.float32
    assert half.run.gan.discriminate(tf.zeros([2, 8, 8, 1]), None).dtype == tf.float32


def test_masks_keep_their_counts_and_weights_their_zeros(half):
    gan = half.run.gan
    masks = masks_of(gan.generator)
    assert [mask.sum() for mask in masks] == [mask.sum() for mask in half.masks_before]
    pairs = zip(masks, half.masks_before, strict=True)
    assert any(np.any(mask != before) for mask, before in pairs)
    for model in (gan.generator, gan.discriminator, gan.averaged.model):
        for kernel, mask in zip(kernels_of(model), masks_of(model), strict=True):
            assert np.all(kernel[mask == 0] == 0)
            assert set(np.unique(mask)) <= {0, 1}
    assert half.run.steps.first_bad() is None


@pytest.mark.parametrize(
    "layer", [SpectralConv2D(4, 3, padding="same"), SpectralDense(4)], ids=["conv", "dense"]
)
@pytest.mark.parametrize("precision", ROUNDING)
def test_sigma_is_that_of_the_weights_in_float32(layer, precision):
    inputs = np.random.default_rng(0).normal(size=(2, 4, 4, 3)).astype(np.float32)
    with computing_in(precision):
        low = type(layer).from_config({**layer.get_config(), "dtype": None})
    low.build(inputs.shape)
    high = type(layer).from_config(layer.get_config())
    high.build(inputs.shape)
    for variable, other in zip(low.variables, high.variables, strict=True):
        variable.assign(other)
    outputs, expected = low(inputs, training=True), high(inputs, training=True)
    assert outputs.dtype == precision
    np.testing.assert_array_equal(low.u, high.u)
    np.testing.assert_array_equal(low.v, high.v)
    scale = np.max(np.abs(expected))
    # Inputs, weights, bias and result are rounded.
    np.testing.assert_allclose(
        tf.cast(outputs, tf.float32), expected, rtol=0, atol=8 * ROUNDING[precision] * scale
    )


@pytest.fixture(scope="module")
def scaled():
    """A plain GAN in float16; two steps trace all that later ones need."""
    run = Run(algorithm(discriminator_steps=1), precision="float16", **PLAIN)
    return run.advance(2)


def test_updates_that_overflow_are_left_out_and_halve_the_scale(scaled):
    scaled.restart()
    before = scaled.state()
    set_scales(scaled, 2.0**100)
    scaled.advance().advance()  # Step 2 explores: there is no gradient yet to go by.
    assert scaled.steps.first_bad() is None
    metrics = scaled.steps.pop_metrics()
    assert metrics["g_loss_scale"] == metrics["d_loss_scale"] == 2.0**98
    after = scaled.state()
    unchanged = [name for name in after if name.startswith(("discriminator", "metrics"))]
    for name in unchanged:
        np.testing.assert_array_equal(after[name], before[name], err_msg=name)
    set_scales(scaled, 2.0**10)
    scaled.advance()
    assert scaled.steps.pop_metrics()["d_gradient_norm"] > 0


def test_the_scale_leaves_no_trace_in_the_update(scaled):
    gradients = []
    for factor in (2.0**10, 2.0**13):
        scaled.restart()
        set_scales(scaled, factor)
        gradients.append(first_step(scaled).gradients)
    for name, values in gradients[0].items():
        np.testing.assert_allclose(gradients[1][name], values, rtol=1e-2, atol=1e-6)


def test_a_loss_that_is_not_finite_is_no_overflow(scaled):
    images = IMAGES.copy()
    images[1, 0, 0, 0, 0] = np.nan
    scaled.restart(images).advance().advance()
    assert scaled.steps.first_bad() == (2, "the discriminator's loss")


@pytest.mark.ci
def test_a_resumed_run_has_the_scale_of_the_uninterrupted_one(scaled):
    scaled.restart()
    set_scales(scaled, 2.0**12)
    middle = scaled.advance(2).state()
    end = scaled.advance(2).state()
    scaled.restart(IMAGES[2:], state=middle, step=2).advance(2)
    for name, value in scaled.state().items():
        np.testing.assert_array_equal(value, end[name], err_msg=name)
    assert end["loss_scale/generator/num_good"] == NUM_STEPS
    assert end["generator_optimizer/iteration"] == NUM_STEPS


def test_the_scale_doubles_after_good_updates_and_halves_after_bad_ones():
    scale = LossScale(initial=4, growth_interval=2)
    good, bad = [tf.ones(3)], [tf.ones(2), tf.constant([1, np.inf])]
    factors, made = [], []
    for gradients in (good, good, good, bad, good, bad, bad, bad, bad):
        made.append(bool(scale.update(tf.constant(1.0), gradients)))
        factors.append(float(scale.factor))
    assert factors == [4, 8, 8, 4, 4, 2, 1, 1, 1]
    # At 1 an overflow is no fault of the scale: the update is made, and the guard will see it.
    assert made == [True, True, True, False, True, False, False, True, True]
    assert bool(scale.update(tf.constant(np.nan), bad))


@pytest.mark.ci
def test_a_training_sets_the_policy_for_its_networks_only(caplog):
    execution.warn_unused.cache_clear()
    training = tiny_training(precision="bfloat16", execution="sparse")
    assert keras.config.dtype_policy().name == "float32"
    assert "sparse kernels are not used: they are for float32, and layers" in caplog.text
    layers = [layer for model in training.gan.networks.values() for layer in all_layers(model)]
    assert "bfloat16" in {layer.compute_dtype for layer in layers}
    assert {layer.execution for layer in masked_layers(training.gan.generator)} == {"dense"}
    assert Samples(training.gan, 4, 0).images().dtype == np.float32
    with pytest.raises(InputError, match="precision must be one of float32, bfloat16, float16"):
        tiny_training(precision="half")
    with pytest.raises(ZeroDivisionError), computing_in("float16"):
        raise ZeroDivisionError
    assert keras.config.dtype_policy().name == "float32"


def test_impossible_scales_are_refused():
    with pytest.raises(InputError, match="initial must be at least 1, got 0"):
        LossScale(0.5 * 0)
    with pytest.raises(InputError, match="growth_interval must be a positive integer, got 0"):
        LossScale(growth_interval=0)
