import itertools
import pathlib
import re
import resource

import numpy as np
import pytest
import scipy.linalg
import scipy.special
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from stugan_tf.errors import InputError
from stugan_tf.evaluation.metrics import (
    InceptionScore,
    check_enough,
    density_coverage,
    frechet_distance,
    kernel_distance,
    neighborhood_scores,
    precision_recall,
)
from stugan_tf.evaluation.moments import Moments


def rng(seed=0):
    return np.random.default_rng(seed)


def moments_of(features):
    moments = Moments(features.shape[1])
    moments.update(features)
    return moments.mean, moments.covariance


def random_moments(seed, num_features, rank=None, condition=1e4):
    """Moments of a Gaussian whose deviations fall off geometrically, in random directions."""
    matrix = rng(seed).normal(size=[num_features, num_features])
    rotation = np.linalg.qr(matrix)[0]
    variances = np.geomspace(1, 1 / condition, num_features)
    variances[rank or num_features :] = 0
    covariance = (rotation * variances) @ rotation.T
    return rng(seed + 1).normal(size=num_features), (covariance + covariance.T) / 2


def frechet_by_sqrtm(mean, covariance, other_mean, other_covariance):
    root = scipy.linalg.sqrtm(covariance @ other_covariance).real
    return np.sum((mean - other_mean) ** 2) + np.trace(covariance + other_covariance - 2 * root)


# Frechet distance


@pytest.mark.parametrize("condition", [1.0, 1e4, 1e12])
@pytest.mark.parametrize("ranks", [(60, 60), (60, 20), (20, 30)])
def test_frechet_distance_equals_the_root_of_the_product(condition, ranks):
    moments = [random_moments(7 * i, 60, rank, condition) for i, rank in enumerate(ranks)]
    expected = frechet_by_sqrtm(*moments[0], *moments[1])
    assert frechet_distance(*moments[0], *moments[1]) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("num_images", "num_features"),
    [
        (60, 120),
        (960, 120),
        *(
            pytest.param(num_images, num_features, marks=pytest.mark.slow)
            for num_images, num_features in itertools.product((250, 4000), (500, 2048))
        ),
    ],
)
def test_frechet_distance_equals_it_for_features_like_those_of_networks(num_images, num_features):
    """Not negative, correlated, with variances over 12 orders of magnitude."""
    mixing = rng().normal(size=2 * [num_features])
    scales = np.geomspace(1, 1e-6, num_features)
    moments = [
        moments_of(
            scales
            * np.maximum(0, rng(seed).normal(seed / 10, 1, [num_images, num_features]) @ mixing.T)
        )
        for seed in (1, 2)
    ]
    expected = frechet_by_sqrtm(*moments[0], *moments[1])
    assert frechet_distance(*moments[0], *moments[1]) == pytest.approx(expected, rel=1e-3)


@given(
    arrays.arrays(np.float64, [4, 3], elements=st.floats(0, 100)),
)
def test_frechet_distance_of_diagonal_gaussians_in_closed_form(rows):
    mean, other_mean, deviations, other_deviations = rows
    distance = frechet_distance(
        mean, np.diag(deviations**2), other_mean, np.diag(other_deviations**2)
    )
    expected = np.sum((mean - other_mean) ** 2 + (deviations - other_deviations) ** 2)
    scale = np.sum(deviations**2 + other_deviations**2)
    # What is below the numerical rank of one covariance is lost to both.
    assert distance == pytest.approx(expected, rel=1e-12, abs=1e-7 * scale + 1e-300)


@given(
    arrays.arrays(np.float64, [4, 3], elements=st.floats(0.01, 100)),
    st.integers(-60, 60),
)
def test_frechet_distance_is_as_exact_at_any_scale(rows, exponent):
    """Features of deviations near 1e8 or 1e-8, say: the error is relative to the variances."""
    mean, other_mean, deviations, other_deviations = rows * 10.0**exponent
    rotation = np.linalg.qr(rng().normal(size=[3, 3]))[0]
    covariances = [
        rotation @ np.diag(one**2) @ rotation.T for one in (deviations, other_deviations)
    ]
    distance = frechet_distance(mean, covariances[0], other_mean, covariances[1])
    expected = np.sum((mean - other_mean) ** 2 + (deviations - other_deviations) ** 2)
    scale = np.sum(deviations**2 + other_deviations**2)
    assert distance == pytest.approx(expected, rel=1e-12, abs=1e-12 * scale)
    same = frechet_distance(mean, covariances[0], mean, covariances[0])
    assert 0 <= same <= 1e-13 * scale


def test_frechet_distance_of_commuting_gaussians_in_closed_form():
    rotation = np.linalg.qr(rng().normal(size=[5, 5]))[0]
    deviations, other_deviations = rng(1).uniform(0, 2, [2, 5])
    distance = frechet_distance(
        np.zeros(5),
        rotation @ np.diag(deviations**2) @ rotation.T,
        np.ones(5),
        rotation @ np.diag(other_deviations**2) @ rotation.T,
    )
    assert distance == pytest.approx(5 + np.sum((deviations - other_deviations) ** 2), rel=1e-12)


def test_frechet_distance_of_scaled_identities_by_hand():
    identity = np.eye(4)
    distance = frechet_distance(np.zeros(4), 9 * identity, np.full(4, 3.0), 4 * identity)
    assert distance == pytest.approx(4 * 3**2 + 4 * (3 - 2) ** 2)
    assert frechet_distance(np.zeros(4), 0 * identity, np.ones(4), 4 * identity) == 4 + 4 * 4


@pytest.mark.parametrize("rank", [None, 7, 1])
def test_frechet_distance_is_symmetric_zero_for_identical_and_blind_to_rotation(rank):
    first, second = random_moments(0, 30, rank), random_moments(5, 30)
    distance = frechet_distance(*first, *second)
    assert frechet_distance(*second, *first) == pytest.approx(distance, rel=1e-7)
    for moments in (first, second):
        assert frechet_distance(*moments, *moments) == pytest.approx(0, abs=1e-11)
    rotation = np.linalg.qr(rng(9).normal(size=[30, 30]))[0]
    rotated = [(rotation @ m, rotation @ c @ rotation.T) for m, c in (first, second)]
    assert frechet_distance(*rotated[0], *rotated[1]) == pytest.approx(distance, rel=1e-7)


@given(st.floats(1e-3, 1e3), st.integers(0, 100))
def test_frechet_distance_grows_with_the_square_of_the_scale(scale, seed):
    features = rng(seed).normal(size=[2, 20, 3])
    plain = frechet_distance(*moments_of(features[0]), *moments_of(features[1]))
    scaled = frechet_distance(*moments_of(scale * features[0]), *moments_of(scale * features[1]))
    assert scaled == pytest.approx(scale**2 * plain, rel=1e-9)


@pytest.mark.parametrize("num_images", [40, 500])
def test_frechet_distance_equals_tf_gan(num_images, tfgan):
    real = rng(1).normal(size=[num_images, 64])
    generated = rng(2).normal(0.3, 1.2, [num_images, 64])
    expected = tfgan.eval.frechet_classifier_distance_from_activations(
        tf.constant(real), tf.constant(generated)
    )
    distance = frechet_distance(*moments_of(real), *moments_of(generated))
    assert distance == pytest.approx(float(expected), rel=1e-6)


def test_float32_covariances_of_few_images_are_covariances():
    features = rng().normal(size=[300, 512]) * np.geomspace(1, 1e-4, 512)
    mean, covariance = moments_of(features)
    rounded = covariance.astype(np.float32)
    assert frechet_distance(mean, rounded, mean, covariance) < 1e-3 * np.trace(covariance)


def changed(array, index, value):
    array = array.copy()
    array[index] = value
    return array


@pytest.mark.parametrize(
    ("mean", "covariance", "message"),
    [
        (np.zeros(3), np.eye(2), "The second mean and covariance must be [D] and [D, D], got [3]"),
        (np.zeros(0), np.zeros([0, 0]), "got [0] and [0, 0]"),
        (np.zeros(3), np.eye(3), "got 2 and 3 features. Use one extractor for both."),
        (np.full(2, np.nan), np.eye(2), "The second mean and covariance must be finite."),
        (np.zeros(2), changed(np.eye(2), (0, 0), np.inf), "delete damaged statistics"),
        (np.zeros(2), changed(np.eye(2), (0, 1), 0.5), "The second covariance must be symmetric."),
        (np.zeros(2), np.diag([1.0, -1.0]), "not have negative eigenvalues beyond rounding"),
        (np.zeros(2), -np.eye(2), "Compute it as `Moments` does"),
    ],
)
def test_frechet_distance_refuses_what_no_gaussian_has(mean, covariance, message):
    with pytest.raises(InputError, match=re.escape(message)):
        frechet_distance(np.zeros(2), np.eye(2), mean, covariance)


def test_fewer_images_than_features_are_refused():
    check_enough(2049, 2048, "fid of generated images")
    with pytest.raises(InputError, match="fid of generated images: 2048 images are too few") as e:
        check_enough(2048, 2048, "fid of generated images")
    assert "at least 2049 are needed" in str(e.value)
    assert "choose metrics without 'fid', e.g. 'kid'" in str(e.value)


# Kernel distance


def kernel_distance_by_loops(x, y):
    def kernel(a, b):
        return (np.dot(a, b) / len(a) + 1) ** 3

    n, m = len(x), len(y)
    within_x = sum(kernel(x[i], x[j]) for i in range(n) for j in range(n) if i != j)
    within_y = sum(kernel(y[i], y[j]) for i in range(m) for j in range(m) if i != j)
    between = sum(kernel(a, b) for a in x for b in y)
    return within_x / (n * (n - 1)) + within_y / (m * (m - 1)) - 2 * between / (n * m)


@given(st.integers(2, 8), st.integers(2, 8), st.integers(1, 4), st.integers(0, 2**16))
def test_kernel_distance_of_one_block_equals_the_double_loop(n, m, num_features, seed):
    x, y = (rng(seed + i).normal(i, 1, [k, num_features]) for i, k in enumerate([n, m]))
    kid, kid_std = kernel_distance(x, y)
    assert kid == pytest.approx(kernel_distance_by_loops(x, y), rel=1e-10, abs=1e-12)
    assert kid_std is None


def test_kernel_distance_is_the_mean_over_blocks_with_its_standard_error():
    x, y = rng(1).normal(size=[12, 3]), rng(2).normal(0.5, 1, [9, 3])
    blocks = [
        kernel_distance_by_loops(a, b) for a, b in zip(np.split(x, 3), np.split(y, 3), strict=True)
    ]
    kid, kid_std = kernel_distance(x, y, block_size=4)
    assert kid == pytest.approx(np.mean(blocks), rel=1e-10)
    assert kid_std == pytest.approx(np.std(blocks, ddof=1) / np.sqrt(3), rel=1e-10)


@pytest.mark.ci
def test_kernel_distance_of_one_distribution_is_zero_in_the_mean():
    """Also where few images make a Frechet distance large."""
    distances = np.array(
        [kernel_distance(*rng(seed).normal(size=[2, 20, 8]))[0] for seed in range(200)]
    )
    assert abs(distances.mean()) < 3 * distances.std() / np.sqrt(len(distances))
    assert (distances < 0).any()


def test_kernel_distance_is_symmetric_and_sees_a_shift():
    x, y = rng(1).normal(size=[40, 5]), rng(2).normal(1, 1, [40, 5])
    assert kernel_distance(x, y)[0] == pytest.approx(kernel_distance(y, x)[0], rel=1e-10)
    assert kernel_distance(x, y)[0] > 0.5


def test_float32_features_are_scored_in_float64():
    x, y = rng(1).normal(10, 1, [2, 50, 20]).astype(np.float32)
    expected = kernel_distance(x.astype(np.float64), y.astype(np.float64), 25)
    assert kernel_distance(x, y, 25) == expected


def test_kernel_distance_refuses_blocks_of_fewer_than_two():
    with pytest.raises(InputError, match="10 and 3 vectors cannot be cut into 2 blocks") as e:
        kernel_distance(np.ones([10, 2]), np.ones([3, 2]), block_size=5)
    assert "increase `block_size` of `kernel_distance`, 5 now" in str(e.value)


# Inception Score


def inception_score(logits, num_splits=10, batch_size=None):
    score = InceptionScore(len(logits), num_splits)
    for start in range(0, len(logits), batch_size or len(logits)):
        score.update(logits[start : start + (batch_size or len(logits))])
    return score.result()


def inception_score_by_openai(logits, num_splits):
    """The formula of the reference on probabilities."""
    probabilities = scipy.special.softmax(logits.astype(np.float64), axis=1)
    n = len(logits)
    scores = []
    for i in range(num_splits):
        part = probabilities[i * n // num_splits : (i + 1) * n // num_splits]
        divergences = part * (np.log(part) - np.log(part.mean(axis=0, keepdims=True)))
        scores.append(np.exp(divergences.sum(axis=1).mean()))
    return np.mean(scores), np.std(scores)


@given(st.integers(1, 7), st.integers(0, 40), st.integers(1, 20), st.integers(0, 2**16))
def test_inception_score_equals_the_reference(num_splits, extra, batch_size, seed):
    logits = rng(seed).normal(0, 3, [num_splits + extra, 6]).astype(np.float32)
    result = inception_score(logits, num_splits, batch_size)
    assert result == pytest.approx(inception_score_by_openai(logits, num_splits), rel=1e-9)


def test_logits_that_are_equal_score_one():
    assert inception_score(np.full([50, 7], 3.0)) == pytest.approx((1, 0))


@pytest.mark.parametrize("certainty", [50.0, 1e5])
def test_certain_and_balanced_classes_score_their_number(certainty):
    logits = np.tile(certainty * np.eye(7), [20, 1])
    assert inception_score(logits) == pytest.approx((7, 0), rel=1e-9)


def test_a_class_that_never_occurs_costs_nothing():
    logits = np.tile(1e5 * np.eye(7)[:3], [20, 1])
    assert inception_score(logits, num_splits=1) == pytest.approx((3, 0), rel=1e-9)


def test_inception_score_takes_exactly_its_images():
    score = InceptionScore(20, num_splits=2)
    score.update(np.ones([15, 3]))
    with pytest.raises(InputError, match="of 20 images got only 15"):
        score.result()
    with pytest.raises(InputError, match="of 20 images got 21"):
        score.update(np.ones([6, 3]))
    with pytest.raises(InputError, match="must have 3 features each, got 4"):
        score.update(np.ones([5, 4]))
    with pytest.raises(InputError, match="must be finite"):
        score.update(np.full([5, 3], np.nan))
    score.update(np.ones([5, 3]))
    assert score.result() == pytest.approx((1, 0))


def test_inception_score_needs_an_image_per_part():
    with pytest.raises(InputError, match="over 10 parts needs at least as many images, got 9"):
        InceptionScore(9)


# Precision and recall, density and coverage


def neighborhood_scores_by_loops(real, generated, num_neighbors):
    """By the definitions, from differences of vectors."""

    def distance(a, b):
        return np.sum((a - b) ** 2)

    def radius(vectors, i):
        others = [distance(vectors[i], b) for j, b in enumerate(vectors) if j != i]
        return sorted(others)[num_neighbors - 1]

    def inside(points, centers):
        radii = [radius(centers, i) for i in range(len(centers))]
        return [[distance(p, c) <= r for c, r in zip(centers, radii, strict=True)] for p in points]

    in_real, in_generated = inside(generated, real), inside(real, generated)
    return {
        "precision": np.mean(np.any(in_real, axis=1)),
        "recall": np.mean(np.any(in_generated, axis=1)),
        "density": np.sum(in_real) / (num_neighbors * len(generated)),
        "coverage": np.mean(np.any(in_real, axis=0)),
    }


def sets(elements):
    """Pairs of small sets [n, D], [m, D]."""
    return st.integers(1, 3).flatmap(
        lambda num_features: st.tuples(
            *(
                arrays.arrays(
                    np.float64,
                    st.tuples(st.integers(4, 12), st.just(num_features)),
                    elements=elements,
                )
                for _ in range(2)
            )
        )
    )


@given(sets(st.integers(-2, 2).map(float)), st.integers(1, 3))
def test_neighborhood_scores_equal_the_definition_with_many_ties(pair, num_neighbors):
    scores = neighborhood_scores(*pair, num_neighbors, num_neighbors)
    assert scores == pytest.approx(neighborhood_scores_by_loops(*pair, num_neighbors), rel=1e-12)


@given(st.integers(0, 2**16), st.integers(1, 3), st.floats(-1, 1))
def test_neighborhood_scores_equal_the_definition_in_general(seed, num_neighbors, shift):
    real, generated = rng(seed).normal(size=[2, 30, 5])
    generated = generated[:20] + shift
    assert neighborhood_scores(real, generated, num_neighbors, num_neighbors) == pytest.approx(
        neighborhood_scores_by_loops(real, generated, num_neighbors), rel=1e-12
    )


def test_neighborhood_scores_do_not_depend_on_blocks(monkeypatch):
    real, generated = rng().normal(size=[2, 40, 3])
    whole = neighborhood_scores(real, generated)
    for elements in (1, 130, 1000):
        monkeypatch.setattr("stugan_tf.evaluation.metrics._BLOCK_ELEMENTS", elements)
        assert neighborhood_scores(real, generated) == whole


def test_pairs_of_scores_are_those_computed_together():
    real, generated = rng().normal(size=[2, 40, 3])
    scores = neighborhood_scores(real, generated)
    assert precision_recall(real, generated) == (scores["precision"], scores["recall"])
    assert density_coverage(real, generated) == (scores["density"], scores["coverage"])


def test_neighborhood_scores_by_hand():
    # Radii of real 1, 1, 2; of generated 0.5, 0.5, 9.5.
    real = np.array([[0.0], [1.0], [3.0]])
    generated = np.array([[0.0], [0.5], [10.0]])
    # 0 and 0.5 are in the balls around 0 and 1, 10 is in none; the ball around 10 has 1 and 3.
    assert precision_recall(real, generated, num_neighbors=1) == (2 / 3, 1)
    # The ball around 3 ends at 1.
    assert density_coverage(real, generated, num_neighbors=1) == (4 / 3, 2 / 3)


def test_a_far_set_scores_zero():
    real, generated = rng().normal(size=[2, 20, 3])
    assert neighborhood_scores(real, generated + 100) == {
        "precision": 0,
        "recall": 0,
        "density": 0,
        "coverage": 0,
    }


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("center", [0.0, 1e4])
def test_a_set_against_itself_has_all_of_it(dtype, center):
    """Also where it repeats itself, and in any order."""
    vectors = rng().normal(center, 1e-2, [300, 64]).astype(dtype)
    vectors = np.concatenate([vectors, np.repeat(vectors[:20], 8, axis=0)])
    shuffled = rng(1).permutation(vectors)
    assert precision_recall(vectors, shuffled) == (1, 1)
    assert density_coverage(vectors, shuffled)[1] == 1


def test_one_image_over_and_over_is_found_precise_and_covers_little():
    real = rng().normal(size=[100, 16])
    scores = neighborhood_scores(real, np.repeat(real[:1], 50, axis=0))
    assert scores["precision"] == 1
    assert scores["recall"] == 1 / 100
    assert scores["coverage"] < 0.2
    constant = np.ones([10, 3])
    assert precision_recall(constant, constant) == (1, 1)


def test_density_of_the_same_distribution_is_one_in_the_mean():
    densities = [density_coverage(*rng(seed).normal(size=[2, 200, 4]))[0] for seed in range(30)]
    assert np.mean(densities) == pytest.approx(1, abs=3 * np.std(densities) / np.sqrt(30))


def test_distances_survive_a_large_common_mean():
    real, generated = rng().normal(size=[2, 100, 8])
    assert neighborhood_scores(real + 2**20, generated + 2**20) == neighborhood_scores(
        real, generated
    )


@pytest.mark.parametrize("count", [2, 3])
def test_there_must_be_more_vectors_than_neighbors(count):
    few, many = np.eye(3)[:count], np.eye(9, 3)
    message = f"below the number of generated vectors, got 3 for {count}"
    with pytest.raises(InputError, match=message):
        precision_recall(many, few)
    with pytest.raises(InputError, match="below the number of real vectors, got 3"):
        precision_recall(few, many)
    with pytest.raises(InputError, match="below the number of real vectors, got 5"):
        density_coverage(few, many)
    with pytest.raises(InputError, match="num_neighbors must be a positive integer, got 0"):
        density_coverage(many, few, num_neighbors=0)


# All of them


@pytest.mark.parametrize("score", [kernel_distance, precision_recall, density_coverage])
@pytest.mark.parametrize(
    ("other", "message"),
    [
        (np.ones([9, 2]), "The second features must have 3 features each, got 2."),
        (np.full([9, 3], np.nan), "9 of 9 vectors are not, the first is number 0."),
        (np.ones([1, 3]), "must hold at least 2 feature vectors, got 1. Evaluate more images."),
        (np.ones([0, 3]), "must hold at least 2 feature vectors, got 0."),
        (np.ones(3), "must be [n, D], one feature vector per image, got shape [3]."),
    ],
)
def test_features_that_cannot_be_compared_are_refused(score, other, message):
    with pytest.raises(InputError, match=re.escape(message)):
        score(np.ones([9, 3]), other)


def test_nothing_is_logged(caplog):
    kernel_distance(np.ones([4, 2]), np.ones([4, 2]), block_size=2)
    inception_score(np.ones([20, 3]))
    assert not caplog.records


def resident():
    """Bytes of this process in memory now."""
    try:
        return int(pathlib.Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    except OSError:
        pytest.skip("/proc/self/statm cannot be read here")


@pytest.mark.slow
def test_scoring_again_and_again_needs_no_more_memory():
    def score():
        features, other = rng().normal(size=[2, 120, 32])
        frechet_distance(*moments_of(features), *moments_of(other))
        kernel_distance(features, other, block_size=60)
        inception_score(features)
        neighborhood_scores(features, other)

    for _ in range(10):
        score()
    before = resident()
    for _ in range(100):
        score()
    assert resident() - before < 4 * 2**20
