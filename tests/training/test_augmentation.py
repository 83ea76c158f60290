import functools

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from stugan_tf.errors import InputError
from stugan_tf.training.augmentation import diff_augment
from stugan_tf.training.losses import Loss
from tests.helpers.stepping import (
    NUM_STEPS,
    Run,
    algorithm,
    assert_close,
    assert_replicas_agree,
    small_discriminator,
    small_generator,
)

NAMES = ("color", "translation", "cutout")


def images_of(shape, seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, shape).astype(np.float32)


def color(image, numbers):
    brightness, saturation, contrast = numbers
    image = image + brightness - 0.5
    gray = image.mean(axis=2, keepdims=True)
    image = gray + (image - gray) * 2 * saturation
    return image.mean() + (image - image.mean()) * (contrast + 0.5)


def translation(image, shift):
    down, right = shift
    height, width, _ = image.shape
    margin = max(height, width)
    padded = np.pad(image, [(margin, margin), (margin, margin), (0, 0)])
    top, left = margin - down, margin - right
    return padded[top : top + height, left : left + width]


def cutout(image, center):
    image = image.copy()
    sides = [int(size / 2 + 0.5) for size in image.shape[:2]]
    top, left = (c - side // 2 for c, side in zip(center, sides, strict=True))
    image[max(0, top) : max(0, top + sides[0]), max(0, left) : max(0, left + sides[1])] = 0
    return image


SLOW = {"color": color, "translation": translation, "cutout": cutout}


@pytest.mark.ci
@given(
    shape=st.tuples(st.integers(2, 12), st.integers(2, 12), st.sampled_from([1, 3])),
    name=st.sampled_from(NAMES),
    seed=st.integers(0, 2**31),
)
def test_each_alteration_is_that_of_a_slow_implementation(shape, name, seed):
    augmentation = diff_augment([name])
    drawn = augmentation.draw(5, shape, (seed, 0))
    images = images_of((5, *shape))
    expected = [SLOW[name](*pair) for pair in zip(images, drawn[0].numpy(), strict=True)]
    np.testing.assert_allclose(augmentation.apply(images, drawn), expected, atol=1e-5)


def test_alterations_follow_one_another_with_numbers_of_their_own():
    augmentation = diff_augment()
    assert augmentation.policy == NAMES
    drawn = augmentation.draw(4, (8, 8, 3), (1, 0))
    images = expected = images_of((4, 8, 8, 3))
    for name, numbers in zip(NAMES, drawn, strict=True):
        expected = [SLOW[name](*pair) for pair in zip(expected, numbers.numpy(), strict=True)]
    np.testing.assert_allclose(augmentation.apply(images, drawn), expected, atol=1e-5)
    twice = diff_augment(["translation", "translation"]).draw(100, (32, 32, 3), (1, 0))
    assert np.any(twice[0] != twice[1])


def test_numbers_have_the_range_of_the_paper():
    shifts, centers = diff_augment(["translation", "cutout"]).draw(5000, (32, 32, 3), (0, 0))
    for column in range(2):
        assert set(shifts.numpy()[:, column]) == set(range(-4, 5))
        assert set(centers.numpy()[:, column]) == set(range(33))
    assert abs(np.corrcoef(shifts.numpy().T)[0, 1]) < 0.05


def test_gradients_flow_to_what_is_still_seen():
    images = tf.constant(images_of((6, 8, 8, 2)))
    augmentation = diff_augment(["translation", "cutout"])
    drawn = augmentation.draw(6, (8, 8, 2), (3, 0))
    with tf.GradientTape() as tape:
        tape.watch(images)
        altered = augmentation.apply(images, drawn)
        total = tf.reduce_sum(altered)
    gradient = tape.gradient(total, images).numpy()
    assert set(np.unique(gradient)) == {0, 1}
    assert gradient.sum() == np.count_nonzero(altered)


@pytest.mark.ci
def test_it_is_the_same_compiled_by_xla():
    augmentation = diff_augment()

    def alter(images):
        return augmentation.apply(images, augmentation.draw(4, (8, 8, 3), (5, 0)))

    images = tf.constant(images_of((4, 8, 8, 3)))
    compiled = tf.function(alter, jit_compile=True)
    np.testing.assert_allclose(compiled(images), alter(images), atol=1e-5)


@pytest.mark.usefixtures("tracing")
def test_real_and_generated_images_are_altered_differently_and_in_both_updates():
    """The logit is an image's sum: what the metrics say of it shows what D has seen."""
    loss = Loss(
        discriminator=lambda real, fake: tf.reduce_mean(real) - tf.reduce_mean(fake),
        generator=tf.reduce_mean,
    )
    plain, altered = (
        Run(
            algorithm(loss=loss, discriminator_steps=1, augmentation=augmentation),
            generator=small_generator,
            discriminator=small_discriminator,
        )
        .advance()
        .steps.pop_metrics()
        for augmentation in (None, diff_augment(["cutout"]))
    )
    for name in ("d_real", "d_fake", "g_loss"):
        assert altered[name] != plain[name]


@pytest.mark.slow
def test_two_replicas_and_micro_batches_take_the_steps_of_one(mirrored):
    """Each takes its part of the numbers of the whole batch."""
    build = functools.partial(Run, generator=small_generator, discriminator=small_discriminator)
    settings = {"augmentation": diff_augment()}
    one = build(algorithm(**settings)).advance(NUM_STEPS)
    # Micro-batches of one replica are consecutive images, as those of the whole batch are.
    parts = build(algorithm(**settings, accumulation_steps=2)).advance(NUM_STEPS)
    two = build(algorithm(**settings), strategy=mirrored).advance(NUM_STEPS)
    assert_replicas_agree(two)
    for run in (parts, two):
        assert_close(run.state(), one.state(), tolerance=1e-3)


@pytest.mark.parametrize("policy", ["color", [], ["colour"], ["color", "flip"]])
def test_unknown_policies_are_refused(policy):
    with pytest.raises(InputError, match=r"diff_augment.policy must be a list of some of \['color"):
        diff_augment(policy)


def test_the_function_itself_is_no_augmentation():
    with pytest.raises(InputError, match=r"augmentation = @diff_augment\(\)"):
        algorithm(augmentation=diff_augment)
