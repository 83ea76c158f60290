import contextlib

import numpy as np
import pytest
import tensorflow as tf

from stugan_tf.choices import BATCH_NORMS
from stugan_tf.errors import InputError
from stugan_tf.evaluation.sampling import NUM_STANDING, Sampler
from stugan_tf.images import to_uint8
from stugan_tf.randomness import draw_latents, fold
from tests.helpers import tracing
from tests.helpers.params import first_by_default
from tests.helpers.stand_ins import SmallGAN

SEED = (5, 0)


@pytest.fixture(autouse=True)
def _untraced(request):
    """What is drawn is looked at; test_evaluator.py has it compiled. Replicas need functions."""
    traced = "mirrored" in request.fixturenames
    with contextlib.nullcontext() if traced else tracing.untraced():
        yield


def one_device():
    return tf.distribute.OneDeviceStrategy("CPU:0")


def images(gan, num_images=20, strategy=None, **settings):
    sampler = Sampler(gan, strategy or one_device(), batch_size=4, **settings)
    return np.concatenate(list(sampler.batches(num_images, SEED)))


def latents_of_block(block, salt=0):
    latents, _ = draw_latents(4, 6, 1, fold(SEED, salt, block))
    return latents.numpy().astype(np.float64)


def through_batch_norm(model, latents, mean, variance):
    """The image of latents whose statistics are `mean` and `variance`, in NumPy."""
    norm, pixels = model.get_layer("norm"), model.get_layer("pixels")
    outputs = (latents - mean) / np.sqrt(variance + norm.epsilon) * norm.gamma.numpy()
    outputs = (outputs + norm.beta.numpy()) @ pixels.kernel.numpy() + pixels.bias.numpy()
    return to_uint8(np.tanh(outputs)).reshape(-1, 8, 8, 1)


def assert_same_pixels(one, other):
    """But for truncation of what rounding moved over a whole number."""
    difference = np.abs(one.astype(int) - other.astype(int))
    assert difference.max() <= 1
    assert np.mean(difference) < 0.01


def test_inference_normalises_by_moving_statistics():
    gan = SmallGAN()
    norm = gan.averaged.model.get_layer("norm")
    expected = through_batch_norm(
        gan.averaged.model,
        np.concatenate([latents_of_block(block) for block in range(5)]),
        norm.moving_mean.numpy(),
        norm.moving_variance.numpy(),
    )
    assert_same_pixels(images(gan), expected)


def test_batch_normalises_each_batch_by_its_own_statistics():
    gan = SmallGAN()
    blocks = [latents_of_block(block) for block in range(5)]
    expected = [
        through_batch_norm(gan.averaged.model, block, block.mean(0), block.var(0))
        for block in blocks
    ]
    assert_same_pixels(images(gan, batch_norm="batch"), np.concatenate(expected))


@pytest.mark.parametrize("momentum", first_by_default(0.0, 0.9, 0.99))
def test_standing_statistics_are_the_mean_over_batches(momentum):
    gan = SmallGAN(momentum=momentum)
    blocks = [latents_of_block(block, salt=1) for block in range(NUM_STANDING)]
    expected = through_batch_norm(
        gan.averaged.model,
        np.concatenate([latents_of_block(block) for block in range(5)]),
        np.mean([block.mean(0) for block in blocks], axis=0),
        np.mean([block.var(0) for block in blocks], axis=0),
    )
    assert_same_pixels(images(gan, batch_norm="standing"), expected)


@pytest.mark.parametrize("batch_norm", first_by_default(*BATCH_NORMS))
def test_sampling_changes_no_variable_even_if_it_is_broken_off(batch_norm):
    gan = SmallGAN()
    before = gan.averaged.model.get_weights()
    images(gan, batch_norm=batch_norm)
    half = Sampler(gan, one_device(), 4, batch_norm=batch_norm).batches(20, SEED)
    next(half)
    half.close()
    for former, now in zip(before, gan.averaged.model.get_weights(), strict=True):
        np.testing.assert_array_equal(former, now)


@pytest.mark.parametrize("batch_norm", first_by_default(*BATCH_NORMS))
def test_replicas_draw_what_one_device_does(batch_norm, mirrored):
    with mirrored.scope():
        gan = SmallGAN()
    several = images(gan, 19, mirrored, batch_norm=batch_norm)
    np.testing.assert_array_equal(several, images(SmallGAN(), 19, batch_norm=batch_norm))


def test_more_images_begin_with_the_same():
    gan = SmallGAN()
    np.testing.assert_array_equal(images(gan, 7), images(gan, 20)[:7])
    assert len(images(gan, 7)) == 7


@pytest.mark.parametrize("batch_size", first_by_default(1, 3, 4, 7, 8))
def test_the_batch_size_changes_no_image(batch_size):
    gan = SmallGAN()
    sampler = Sampler(gan, one_device(), batch_size, block=4)
    assert_same_pixels(np.concatenate(list(sampler.batches(20, SEED))), images(gan))
    given = sampler.inputs(20, SEED)
    for ours, theirs in zip(given, Sampler(gan, one_device(), 4).inputs(20, SEED), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_the_live_generator_is_another_and_truncation_narrows_latents():
    gan = SmallGAN()
    for variable in gan.generator.trainable_variables:
        variable.assign(variable + 0.1)
    assert np.any(images(gan, averaged=False) != images(gan))
    assert images(gan, truncation=0.01).std(axis=0).max() < images(gan).std(axis=0).min()


@pytest.mark.parametrize(("scale", "found"), [(1.5, r"1\.\d"), (float("nan"), "inf")])
def test_images_out_of_range_are_refused(scale, found):
    with pytest.raises(InputError, match=rf"in \[.*, {found}.* scores need them in \[-1, 1\]"):
        images(SmallGAN(scale))


@pytest.mark.parametrize("batch_norm", first_by_default(*BATCH_NORMS))
@pytest.mark.parametrize("settings", first_by_default({}, {"truncation": 0.5}))
def test_images_of_what_batches_are_made_of_are_the_same(batch_norm, settings):
    sampler = Sampler(SmallGAN(), one_device(), 4, batch_norm=batch_norm, **settings)
    given = np.concatenate(list(sampler.images_of(*sampler.inputs(20, SEED), SEED)))
    assert_same_pixels(given, np.concatenate(list(sampler.batches(20, SEED))))


@pytest.mark.parametrize("batch_norm", BATCH_NORMS)
def test_replicas_make_the_same_images_of_what_is_given(batch_norm, mirrored):
    with mirrored.scope():
        several = Sampler(SmallGAN(), mirrored, 4, batch_norm=batch_norm)
    one = Sampler(SmallGAN(), one_device(), 4, batch_norm=batch_norm)
    latents, labels = one.inputs(12, SEED)  # A batch is left over for one of two replicas.
    made = [np.concatenate(list(s.images_of(latents, labels, SEED))) for s in (one, several)]
    np.testing.assert_array_equal(*made)


def test_a_batch_that_is_not_full_is_filled_up_with_the_first():
    gan = SmallGAN()
    latents, labels = Sampler(gan, one_device(), 4).inputs(6, SEED)
    sampler = Sampler(gan, one_device(), 4, batch_norm="batch")
    some = np.concatenate(list(sampler.images_of(latents, labels, SEED)))
    order = [0, 1, 2, 3, 4, 5, 0, 1]
    more = np.concatenate(list(sampler.images_of(latents[order], labels[order], SEED)))
    assert len(some) == 6
    np.testing.assert_array_equal(some, more[:6])
