"""The balance ratio: by hand, over a window, and as the steps measure it."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st
from keras import layers

from stugan_tf.errors import InputError
from stugan_tf.layers.masked import Masked
from stugan_tf.layers.spectral import SpectralConv2D
from stugan_tf.randomness import Purpose, draw_latents, fold
from stugan_tf.sparsity.density_adjustment import DensityAdjustment
from stugan_tf.training.augmentation import Augmentation
from stugan_tf.training.balance import BalanceMeter, BalanceRatio, balance_ratio
from tests.helpers.params import examples
from tests.helpers.stepping import (
    BATCH_SIZE,
    IMAGES,
    SEED,
    SHAPE,
    SMOOTH,
    Run,
    algorithm,
)


def test_the_ratio_by_hand():
    assert balance_ratio(tf.constant(-1.0), tf.constant(1.0), tf.constant(4.0)) == tf.constant(0.4)
    assert balance_ratio(tf.constant(1.0), tf.constant(3.0), tf.constant(1.0)) == 0


@examples(30)
@given(
    size=st.integers(1, 5), values=st.lists(st.integers(-9, 9).map(float), min_size=1, max_size=14)
)
def test_the_mean_is_of_the_last_measurements(size, values):
    meter = BalanceMeter(BalanceRatio(window=size))

    def read(variable):
        return variable.numpy()

    assert meter.mean(read) is None
    for number, value in enumerate(values, start=1):
        meter.append(tf.constant(value))
        expected = np.mean(values[max(0, number - size) : number])
        assert meter.mean(read) == pytest.approx(expected)
        full = meter.mean(read, of_full_window=True)
        assert full == (pytest.approx(expected) if number >= size else None)


class Dimmed(Augmentation):
    """Shows the discriminator all images at half their contrast."""

    def apply(self, images, drawn):
        assert drawn == []
        return 0.5 * images


@pytest.mark.ci
@pytest.mark.usefixtures("tracing")
def test_it_is_measured_after_the_update_with_the_updated_discriminator():
    """At steps 2 and 4; the generator moves after the second of two discriminator updates."""
    chosen = algorithm(
        generator_exploration=None,
        balance_ratio=BalanceRatio(every=2, window=3),
        augmentation=Dimmed(()),
        generator_position=2,
    )
    run = Run(chosen, **SMOOTH)
    expected = []
    for step in (1, 2, 3, 4):
        before = run.gan.generator.get_weights()
        run.advance()
        if step % 2 == 0:
            latents, _ = draw_latents(
                BATCH_SIZE, 6, 10, fold((SEED, 0), 0, Purpose.GENERATOR_UPDATE, step)
            )
            after = run.gan.generator.get_weights()
            moved = mean_logit(run.gan, 0.5 * run.gan.generator(latents))
            run.gan.generator.set_weights(before)
            former = mean_logit(run.gan, 0.5 * run.gan.generator(latents))
            run.gan.generator.set_weights(after)
            real = mean_logit(run.gan, 0.5 * IMAGES[2 * step - 1])
            expected.append((moved - former) / (real - former))
        metrics = run.steps.pop_metrics()
        if step == 1:
            assert "balance_ratio" not in metrics
        else:
            assert metrics["balance_ratio"] == pytest.approx(np.mean(expected), rel=1e-3)
    assert abs(expected[0] - expected[1]) > 1e-3 * abs(expected[0])


def mean_logit(gan, images):
    return float(tf.reduce_mean(gan.discriminator(images)))


def moving_generator(image_shape):
    latents = keras.Input((6,))
    outputs = layers.BatchNormalization()(layers.Reshape(image_shape)(layers.Dense(64)(latents)))
    return keras.Model(latents, layers.Conv2D(1, 3, padding="same", activation="tanh")(outputs))


def moving_discriminator(image_shape):
    images = keras.Input(image_shape)
    outputs = Masked(SpectralConv2D(2, 3, strides=2))(images)
    return keras.Model(images, layers.Dense(1)(layers.Flatten()(outputs)))


@pytest.mark.ci
@pytest.mark.usefixtures("tracing")
def test_measuring_changes_nothing_else():
    """Batch norm and power iterations of the networks stay where training left them."""
    networks = {"generator": moving_generator, "discriminator": moving_discriminator}
    static = {"generator_exploration": None}
    plain = Run(algorithm(**static), **networks).advance(2).state()
    ratio = BalanceRatio(every=1)
    measured = Run(algorithm(balance_ratio=ratio, **static), **networks).advance(2).state()
    assert int(measured["balance/count"]) == 2
    for name, value in plain.items():
        np.testing.assert_array_equal(measured[name], value, err_msg=name)


@pytest.mark.ci
@pytest.mark.usefixtures("tracing")
def test_micro_batches_measure_on_the_last_of_them():
    chosen = algorithm(
        generator_exploration=None,
        balance_ratio=BalanceRatio(every=1, window=2),
        accumulation_steps=2,
        generator_position=2,
    )
    run = Run(chosen, **SMOOTH)
    before = run.gan.generator.get_weights()
    run.advance()
    latents, _ = draw_latents(BATCH_SIZE, 6, 10, fold((SEED, 0), 0, Purpose.GENERATOR_UPDATE, 1))
    half = BATCH_SIZE // 2
    after = mean_logit(run.gan, run.gan.generator(latents[half:]))
    run.gan.generator.set_weights(before)
    former = mean_logit(run.gan, run.gan.generator(latents[half:]))
    real = mean_logit(run.gan, IMAGES[1].reshape(-1, *SHAPE)[half:])
    expected = (after - former) / (real - former)
    assert run.steps.pop_metrics()["balance_ratio"] == pytest.approx(expected, rel=1e-3)


def test_a_rule_that_goes_by_it_needs_it_measured():
    with pytest.raises(InputError, match=r"set Algorithm.balance_ratio = @BalanceRatio\(\)"):
        algorithm(discriminator_exploration=DensityAdjustment())


@pytest.mark.parametrize("name", ["every", "window"])
def test_impossible_settings_are_refused(name):
    with pytest.raises(InputError, match=rf"BalanceRatio\.{name} must be a positive integer"):
        BalanceRatio(**{name: 0})
