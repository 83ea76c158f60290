import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stugan_tf.errors import InputError
from stugan_tf.evaluation.moments import Moments


def moments_of(*chunks, num_features):
    moments = Moments(num_features)
    for chunk in chunks:
        moments.update(chunk)
    return moments


def assert_moments(moments, features):
    assert moments.count == len(features)
    np.testing.assert_allclose(moments.mean, features.mean(axis=0), rtol=1e-12, atol=1e-14)
    covariance = np.cov(features, rowvar=False).reshape(moments.covariance.shape)
    np.testing.assert_allclose(
        moments.covariance, covariance, rtol=1e-12, atol=1e-13 * abs(covariance).max()
    )


chunks = st.lists(st.sampled_from([0, 1, 1, 2, 7, 1500]), min_size=1, max_size=6).filter(
    lambda sizes: sum(sizes) >= 2
)


@given(chunks, st.integers(1, 5), st.integers(0, 2**16), st.sampled_from([np.float32, np.float64]))
def test_chunks_give_the_mean_and_covariance_of_the_whole(sizes, num_features, seed, dtype):
    features = np.random.default_rng(seed).normal(3, 2, [sum(sizes), num_features]).astype(dtype)
    parts = np.split(features, np.cumsum(sizes)[:-1])
    moments = moments_of(*parts, num_features=num_features)
    assert moments.mean.dtype == moments.covariance.dtype == np.float64
    assert_moments(moments, features.astype(np.float64))
    assert np.array_equal(moments.covariance, moments.covariance.T)


@given(st.lists(st.integers(0, 5), min_size=3, max_size=3).filter(lambda n: sum(n) >= 2))
def test_merging_is_associative_and_equals_updating(sizes):
    features = np.random.default_rng(0).normal(size=[sum(sizes), 3])
    parts = np.split(features, np.cumsum(sizes)[:-1])
    first, second, third = (moments_of(part, num_features=3) for part in parts)
    first.merge(second)
    first.merge(third)
    assert_moments(first, features)
    left, second = (moments_of(part, num_features=3) for part in parts[:2])
    second.merge(third)
    left.merge(second)
    assert_moments(left, features)
    assert_moments(moments_of(*parts, num_features=3), features)


def test_merging_leaves_the_other_as_it_was():
    features = np.random.default_rng(0).normal(size=[6, 3])
    first, second = (moments_of(part, num_features=3) for part in (features[:2], features[2:]))
    first.merge(second)
    first.update(features)
    assert_moments(second, features[2:])


@pytest.mark.parametrize("batch_size", [1, 100, 5000])
def test_a_small_deviation_survives_a_large_mean(batch_size):
    deviations = np.random.default_rng(0).normal(0, 1e-2, [5000, 3]) * [1, 2, 3]
    parts = np.split(1e4 + deviations, range(batch_size, 5000, batch_size))
    moments = moments_of(*parts, num_features=3)
    np.testing.assert_allclose(moments.mean - 1e4, deviations.mean(axis=0), atol=1e-10)
    np.testing.assert_allclose(
        moments.covariance, np.cov(deviations, rowvar=False), rtol=1e-8, atol=1e-11
    )


def test_shift_moves_the_mean_only_and_a_linear_map_maps_the_covariance():
    rng = np.random.default_rng(0)
    features, matrix = rng.normal(size=[50, 4]), rng.normal(size=[4, 4])
    plain = moments_of(features, num_features=4)
    mapped = moments_of(features @ matrix.T + 7, num_features=4)
    np.testing.assert_allclose(mapped.mean, matrix @ plain.mean + 7, rtol=1e-12)
    np.testing.assert_allclose(
        mapped.covariance, matrix @ plain.covariance @ matrix.T, rtol=1e-11, atol=1e-12
    )


def test_moments_by_hand():
    moments = moments_of([[0.0, 0.0]], [[2.0, 4.0]], num_features=2)
    assert moments.mean.tolist() == [1, 2]
    assert moments.covariance == pytest.approx(np.array([[2, 4], [4, 8]]))


def test_resumed_from_a_file_equals_uninterrupted(tmp_path):
    features = np.random.default_rng(0).normal(size=[20, 3])
    moments = moments_of(features[:9], num_features=3)
    np.savez(tmp_path / "moments.npz", **moments.state())
    resumed = Moments.from_state(np.load(tmp_path / "moments.npz"))
    for each in (moments, resumed):
        each.update(features[9:])
    assert resumed.count == moments.count
    assert np.array_equal(resumed.mean, moments.mean)
    assert np.array_equal(resumed.covariance, moments.covariance)


def test_a_state_is_a_snapshot():
    features = np.random.default_rng(0).normal(size=[20, 3])
    moments = moments_of(features[:9], num_features=3)
    state = moments.state()
    restored = Moments.from_state(state)
    for each in (moments, restored):
        each.update(features)
    assert_moments(Moments.from_state(state), features[:9])


def bad(*, rows=3, columns=2, value=0.0):
    features = np.zeros([rows, columns])
    features[1, 0] = value
    return features


@pytest.mark.parametrize(
    ("features", "message"),
    [
        (bad(columns=3), "must have 2 features each, got 3. Use one extractor for all images."),
        (bad(value=np.nan), "1 of 3 vectors are not, the first is number 1."),
        (bad(value=-np.inf), "must be finite"),
        (np.zeros(2), "must be [n, D], one feature vector per image, got shape [2]."),
        (np.zeros([3, 2, 1]), "Flatten or average what the extractor returns."),
    ],
)
def test_what_cannot_be_summed_is_refused_and_changes_nothing(features, message):
    moments = moments_of(np.eye(2), num_features=2)
    with pytest.raises(InputError, match=re.escape(message)):
        moments.update(features)
    assert_moments(moments, np.eye(2))


@pytest.mark.parametrize("count", [0, 1])
def test_a_covariance_needs_two_vectors(count):
    moments = moments_of(np.ones([count, 2]), num_features=2)
    with pytest.raises(InputError, match=f"at least 2 feature vectors, got {count}"):
        _ = moments.covariance


def test_moments_of_different_features_do_not_mix():
    with pytest.raises(
        InputError, match="Moments of 3 features cannot be merged into moments of 2"
    ):
        Moments(2).merge(Moments(3))
    state = Moments(2).state() | {"mean": np.zeros(3)}
    with pytest.raises(InputError, match=re.escape("got [3] and [2, 2]. Delete the file")):
        Moments.from_state(state)
    with pytest.raises(InputError, match="num_features must be a positive integer, got 0"):
        Moments(0)
