import math

import gin
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from stugan_tf.errors import InputError
from stugan_tf.sparsity.distributions import bernoulli_mask, er, erk, exact_mask, uniform
from tests.helpers.params import examples, first_by_default

SNGAN_G = [(3, 3, 256, 256)] * 6 + [(1, 1, 256, 256)] * 3 + [(3, 3, 256, 3)]
SNGAN_D = [(3, 3, 3, 128), (1, 1, 3, 128)] + [(3, 3, 128, 128)] * 7 + [(1, 1, 128, 128)]
BIGGAN_D = [(3, 3, 3, 256), (1, 1, 3, 256)] + [(3, 3, 256, 256)] * 7 + [(1, 1, 256, 256)]

kernel_shapes = st.lists(
    st.one_of(st.tuples(*[st.integers(1, 9)] * 4), st.tuples(*[st.integers(1, 99)] * 2)),
    min_size=1,
    max_size=9,
)
densities = st.floats(0.01, 1)


@pytest.mark.parametrize(
    ("density", "body", "shortcut", "last"),
    [
        (0.05, 0.0340358, 0.3039569, 1),
        (0.1, 0.0693771, 0.6195721, 1),
        (0.2, 0.1539931, 1, 1),
        (0.3, 0.2597, 1, 1),
        (0.5, 0.4712, 1, 1),
    ],
)
def test_erk_of_the_generator_is_that_of_the_authors(density, body, shortcut, last):
    expected = [body] * 6 + [shortcut] * 3 + [last]
    np.testing.assert_allclose(erk(SNGAN_G, density), expected, atol=5e-5)
    if density <= 0.2:
        np.testing.assert_allclose(erk(SNGAN_G, density), expected, atol=5e-8)


@pytest.mark.parametrize(
    ("shapes", "density", "first", "first_shortcut", "body", "shortcut"),
    [
        (SNGAN_D, 0.5, 1, 1, 0.4902, 1),
        (SNGAN_D, 0.3, 1, 1, 0.2863, 1),
        (SNGAN_D, 0.1, 1, 1, 0.0861, 0.7633),
        (SNGAN_D, 0.05, 0.929, 1, 0.0416, 0.369),
        (BIGGAN_D, 0.5, 1, 1, 0.4911, 1),
        (BIGGAN_D, 0.3, 1, 1, 0.2876, 1),
        (BIGGAN_D, 0.1, 1, 1, 0.0875, 0.7815),
        (BIGGAN_D, 0.05, 1, 1, 0.0429, 0.3835),
    ],
)
def test_erk_of_the_discriminators_is_that_of_the_authors(
    shapes, density, first, first_shortcut, body, shortcut
):
    expected = [first, first_shortcut] + [body] * 7 + [shortcut]
    np.testing.assert_allclose(erk(shapes, density), expected, atol=5.1e-5)


def test_erk_of_the_discriminator_to_seven_digits():
    assert erk(SNGAN_D, 0.5)[2] == pytest.approx(0.4902034, abs=5e-8)


def test_erk_and_er_by_hand():
    # ERK scores 8/16 and 4/4 of 16 and 4 weights: 10 = scale * (8 + 4), no layer above 1.
    assert erk([(2, 2, 2, 2), (2, 2)], 0.5) == pytest.approx([5 / 12, 10 / 12])
    # At 0.75 the second would be 1.25: it is dense, and 11 weights remain for the first.
    assert erk([(2, 2, 2, 2), (2, 2)], 0.75) == pytest.approx([11 / 16, 1])
    # ER scores 4/4 and 8/16, whatever the size of the kernel: 16 = scale * (16 + 8).
    assert er([(2, 2, 2, 2), (4, 4)], 0.5) == pytest.approx([2 / 3, 1 / 3])
    assert uniform([(2, 2, 2, 2), (4, 4)], 0.1) == [0.1, 0.1]


@pytest.mark.parametrize("distribution", [erk, er, uniform])
@given(shapes=kernel_shapes, density=densities)
def test_densities_meet_the_budget(distribution, shapes, density):
    sizes = [math.prod(shape) for shape in shapes]
    layer_densities = distribution(shapes, density)
    assert all(0 < layer_density <= 1 for layer_density in layer_densities)
    assert np.dot(layer_densities, sizes) == pytest.approx(density * sum(sizes))


@given(shapes=kernel_shapes, density=densities)
def test_erk_densities_are_proportional_to_the_scores_unless_dense(shapes, density):
    scores = [sum(shape) / math.prod(shape) for shape in shapes]
    ratios = [(d / s, s) for d, s in zip(erk(shapes, density), scores, strict=True) if d < 1]
    np.testing.assert_allclose([ratio for ratio, _ in ratios], ratios[0][0] if ratios else 1)
    lowest_dense = min(
        (s for d, s in zip(erk(shapes, density), scores, strict=True) if d == 1), default=math.inf
    )
    assert all(score < lowest_dense for _, score in ratios)


@pytest.mark.parametrize("distribution", [erk, er, uniform])
def test_density_one_is_dense(distribution):
    assert distribution(SNGAN_D, 1) == [1.0] * len(SNGAN_D)


@pytest.mark.parametrize("distribution", [erk, er, uniform])
@pytest.mark.parametrize("density", [0, -0.1, 1.01, 90, math.nan])
def test_an_impossible_density_is_refused(distribution, density):
    with pytest.raises(InputError, match=rf"must be in \(0, 1\], got {density}\. It is"):
        distribution(SNGAN_D, density)


@pytest.mark.parametrize("distribution", [erk, er, uniform])
@pytest.mark.parametrize("shapes", [[], [(256,)], [(3, 3, 0, 8)]])
def test_impossible_shapes_are_refused(distribution, shapes):
    with pytest.raises(InputError, match="`shapes` must list kernels"):
        distribution(shapes, 0.5)


@examples(30)
@given(density=st.floats(0, 1), seed=st.tuples(*[st.integers(0, 2**31 - 1)] * 2))
def test_exact_mask_has_exactly_its_share_of_ones(density, seed):
    mask = exact_mask((3, 3, 2, 4), density, seed).numpy()
    assert mask.dtype == np.float32
    assert set(np.unique(mask)) <= {0, 1}
    assert mask.sum() == round(density * 72)


@pytest.mark.parametrize("draw", [exact_mask, bernoulli_mask])
def test_masks_are_functions_of_the_seed(draw):
    shape = (3, 3, 16, 16)
    assert tf.reduce_all(draw(shape, 0.3, (1, 2)) == draw(shape, 0.3, (1, 2)))
    assert tf.reduce_any(draw(shape, 0.3, (1, 2)) != draw(shape, 0.3, (1, 3)))
    assert tf.reduce_all(draw(shape, 1.0, (1, 2)) == 1)


@pytest.mark.parametrize("draw", first_by_default(bernoulli_mask, exact_mask))
def test_every_position_is_equally_likely(draw):
    compiled = tf.function(lambda seed: draw((4, 5), 0.3, seed))
    frequencies = np.mean([compiled(tf.constant([0, i])) for i in range(200)], axis=0)
    standard_error = math.sqrt(0.3 * 0.7 / 200)
    np.testing.assert_allclose(frequencies, 0.3, atol=4 * standard_error)


def test_gin_binds_no_runtime_argument():
    with gin.unlock_config(), pytest.raises(ValueError, match="denylist"):
        gin.bind_parameter("erk.density", 0.5)
