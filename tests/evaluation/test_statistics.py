import io
import json

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from stugan_tf.data import digits
from stugan_tf.errors import InputError
from stugan_tf.evaluation import statistics
from stugan_tf.evaluation.extraction import Extraction
from stugan_tf.evaluation.statistics import (
    CacheEntry,
    Collector,
    real_statistics,
    ttur_statistics,
)
from tests.helpers.params import first_by_default
from tests.helpers.stand_ins import Projection

NUM_DIGITS = 1797


class Counting(Projection):
    """Counts the batches it sees and breaks off after some of them."""

    def __init__(self, breaks_after=None):
        super().__init__()
        self.calls, self.breaks_after = 0, breaks_after

    def __call__(self, images):
        tf.py_function(self.count, [], [])
        return super().__call__(images)

    def count(self):
        if self.calls == self.breaks_after:
            raise KeyboardInterrupt
        self.calls += 1


def extraction(extractor=None, strategy=None, batch_size=100):
    strategy = strategy or tf.distribute.OneDeviceStrategy("CPU:0")
    return Extraction(extractor or Projection(), strategy, batch_size)


def all_features():
    return Projection()(next(iter(digits().in_order(NUM_DIGITS)))[0])[0].numpy()


def assert_equal(one, other):
    np.testing.assert_array_equal(one.mean, other.mean)
    np.testing.assert_array_equal(one.covariance, other.covariance)
    np.testing.assert_array_equal(one.features, other.features)


@given(
    sizes=st.lists(st.integers(1, 9), min_size=2, max_size=8),
    num_kept=st.integers(0, 70),
    break_at=st.integers(0, 8),
)
def test_a_collector_has_the_moments_of_all_and_keeps_some_features(sizes, num_kept, break_at):
    features = np.random.default_rng(0).normal(size=(sum(sizes), 3)).astype(np.float32)
    collector = Collector(len(features), 3, num_kept)
    for number, batch in enumerate(np.split(features, np.cumsum(sizes)[:-1])):
        if number == break_at:
            state = {name: value.copy() for name, value in collector.state().items()}
            collector = Collector(len(features), 3, num_kept)
            collector.restore(state)
        collector.update(batch)
    found = collector.statistics({})
    np.testing.assert_allclose(found.mean, features.mean(axis=0), rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(found.covariance, np.cov(features, rowvar=False), rtol=1e-5)
    kept = {tuple(row) for row in found.features}
    assert len(kept) == min(num_kept, len(features))
    assert kept <= {tuple(row) for row in features}


def test_kept_features_are_in_random_order():
    collector = Collector(1000, 1, 500)
    collector.update(np.arange(1000, dtype=np.float32)[:, None])
    kept = collector.statistics({}).features[:, 0]
    assert abs(np.corrcoef(kept, np.arange(500))[0, 1]) < 0.15
    assert abs(kept.mean() - 499.5) < 40


def test_a_collector_wants_all_images():
    collector = Collector(5, 2, 0)
    collector.update(np.ones([2, 2]))
    with pytest.raises(InputError, match="Only 2 of 5 images came"):
        collector.statistics({})


@pytest.mark.ci
def test_real_statistics_are_those_of_every_image(tmp_path):
    found = real_statistics(digits(), extraction(), 300, tmp_path)
    features = all_features()
    np.testing.assert_allclose(found.mean, features.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(found.covariance, np.cov(features, rowvar=False), rtol=1e-5)
    assert found.num_images == NUM_DIGITS
    assert found.features.shape == (300, Projection.num_features)
    assert found.protocol["source"] == "digits"


@pytest.mark.ci
def test_replicas_find_what_one_device_does(tmp_path, mirrored):
    with mirrored.scope():
        several = extraction(strategy=mirrored, batch_size=30)
    assert_equal(
        real_statistics(digits(), several, 300, tmp_path / "several"),
        real_statistics(digits(), extraction(batch_size=60), 300, tmp_path / "one"),
    )


def test_the_second_time_they_are_read_and_people_can_see_of_what(tmp_path):
    first = Counting()
    computed = real_statistics(digits(), extraction(first), 300, tmp_path)
    assert first.calls == 18
    second = Counting()
    assert_equal(real_statistics(digits(), extraction(second), 300, tmp_path), computed)
    assert second.calls == 0
    (description,) = tmp_path.glob("*.json")
    stored = json.loads(description.read_text())
    assert stored["source"] == "digits"
    assert stored["extractor"]["name"] == "projection"
    assert stored["num_images"] == NUM_DIGITS
    with np.load(description.with_suffix(".npz")) as arrays:
        assert json.loads(str(arrays["description"])) == stored


@pytest.mark.ci
def test_other_weights_or_data_are_other_statistics(tmp_path):
    real_statistics(digits(), extraction(), 300, tmp_path)
    other = Counting()
    other.sha256 = "1" * 64
    real_statistics(digits(), extraction(other), 300, tmp_path)
    assert other.calls == 18
    cut = digits()
    cut.num_images = 1000
    assert real_statistics(cut, extraction(), 300, tmp_path).num_images == 1000
    assert len(list(tmp_path.glob("*.npz"))) == 3


@pytest.mark.ci
def test_evaluators_that_keep_fewer_features_share_what_is_stored(tmp_path, monkeypatch):
    monkeypatch.setattr(statistics, "STORED", 250)
    no_features = real_statistics(digits(), extraction(), 0, tmp_path)
    assert len(no_features.features) == 0
    fewer = Counting()
    some = real_statistics(digits(), extraction(fewer), 200, tmp_path)
    assert fewer.calls == 0
    more = Counting()
    many = real_statistics(digits(), extraction(more), 300, tmp_path)
    assert more.calls == 18
    np.testing.assert_array_equal(many.features[:200], some.features)
    assert len(list(tmp_path.glob("*.npz"))) == 1


@pytest.mark.ci
def test_broken_off_they_go_on_and_become_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(statistics, "SECONDS", -1)
    whole = real_statistics(digits(), extraction(), 300, tmp_path / "whole")
    with pytest.raises(BaseException):  # noqa: B017, PT011 - as TensorFlow passes it on
        real_statistics(digits(), extraction(Counting(breaks_after=7)), 300, tmp_path / "parts")
    rest = Counting()
    assert_equal(real_statistics(digits(), extraction(rest), 300, tmp_path / "parts"), whole)
    assert rest.calls == 18 - 7
    assert not list((tmp_path / "parts").glob("*.partial.npz"))


def bits(**arrays):
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def one_array():
    buffer = io.BytesIO()
    np.save(buffer, np.eye(3))
    return buffer.getvalue()


def with_nan(array):
    return np.where(np.arange(array.size).reshape(array.shape) == 7, np.nan, array)


# What a file may hold in place of what was written, given the arrays that were.
DAMAGE = {
    "nothing": lambda whole: b"",
    "torn": lambda whole: bits(**whole)[:1000],
    "another file": lambda whole: b"<html>404</html>",
    "one array": lambda whole: one_array(),
    "no arrays": lambda whole: bits(),
    "objects": lambda whole: bits(**{**whole, "mean": np.array([{}])}),
    "a missing array": lambda whole: bits(**{k: whole[k] for k in whole if k != "features"}),
    "another mean": lambda whole: bits(**{**whole, "mean": whole["mean"][:-1]}),
    "other features": lambda whole: bits(**{**whole, "features": whole["features"][:, :-1]}),
    "other images": lambda whole: bits(
        **{**whole, "description": np.array(str(whole["description"]).replace("1797", "1798"))}
    ),
    "no description": lambda whole: bits(**{**whole, "description": np.array("[1]")}),
    "text": lambda whole: bits(**{**whole, "mean": whole["mean"].astype(str)}),
    "nan": lambda whole: bits(**{**whole, "covariance": with_nan(whole["covariance"])}),
    "no symmetry": lambda whole: bits(**{**whole, "covariance": np.tri(5) @ whole["covariance"]}),
    "no covariance": lambda whole: bits(**{**whole, "covariance": -whole["covariance"]}),
}


@pytest.fixture(scope="module")
def computed():
    """The statistics of digits, and a function that puts them into the cache in a folder."""
    collector = Collector(NUM_DIGITS, 5, NUM_DIGITS)
    collector.update(all_features())

    def put(folder):
        entry = CacheEntry(digits(), Projection(), 300, folder)
        entry.write(collector)
        return entry

    return put


@pytest.mark.parametrize("damage", first_by_default(*DAMAGE, in_ci=5))
def test_a_damaged_cache_is_as_none_and_a_line_says_so(computed, tmp_path, damage, capsys):
    entry = computed(tmp_path)
    whole = entry.find()
    assert capsys.readouterr().err == ""
    with np.load(entry.path) as arrays:
        entry.path.write_bytes(DAMAGE[damage](dict(arrays)))
    assert entry.find() is None
    assert f"{entry.path} is damaged: it" in capsys.readouterr().err
    assert_equal(computed(tmp_path).find(), whole)


@pytest.mark.ci
def test_damaged_statistics_are_computed_again(computed, tmp_path, capsys):
    entry = computed(tmp_path)
    entry.path.write_bytes(b"")
    partial = entry.path.with_name(f"{entry.path.stem}.partial.npz")
    partial.write_bytes(bits(kept=np.zeros([NUM_DIGITS, 5]), count=np.array(10**9)))
    counting = Counting()
    found = real_statistics(digits(), extraction(counting), 300, tmp_path)
    assert counting.calls == 18
    np.testing.assert_allclose(found.mean, all_features().mean(axis=0), rtol=1e-5)
    errors = capsys.readouterr().err
    assert f"{entry.path} is damaged" in errors
    assert f"{partial} is damaged" in errors
    assert list(tmp_path.glob("*.npz")) == [entry.path]


@pytest.mark.parametrize(
    "damage", first_by_default(b"", b"PK", one_array(), bits(), bits(kept=np.zeros([300, 5])))
)
def test_a_state_that_is_none_begins_at_the_first_image(tmp_path, monkeypatch, damage):
    monkeypatch.setattr(statistics, "STORED", 300)
    path = CacheEntry(digits(), Projection(), 300, tmp_path).path
    path.with_name(f"{path.stem}.partial.npz").write_bytes(damage)
    counting = Counting()
    real_statistics(digits(), extraction(counting), 300, tmp_path)
    assert counting.calls == 18


def test_a_folder_that_cannot_be_written_to_is_named(tmp_path):
    (tmp_path / "file").touch()
    counting = Counting()
    with pytest.raises(InputError, match=r"cannot be kept in .*Set Evaluator.cache_dir"):
        real_statistics(digits(), extraction(counting), 300, tmp_path / "file")
    assert counting.calls == 0


def test_published_moments_are_read(tmp_path):
    covariance = np.cov(all_features(), rowvar=False)
    np.savez(tmp_path / "stats.npz", mu=all_features().mean(axis=0), sigma=covariance)
    found = ttur_statistics(tmp_path / "stats.npz")
    np.testing.assert_array_equal(found.covariance, covariance)
    assert found.features is None
    assert found.protocol["file"] == "stats.npz"


@pytest.mark.parametrize(
    ("arrays", "told"),
    [
        (None, "No such file"),
        ({"mu": np.zeros(3)}, "no array `sigma`; there are: mu"),
        ({"mu": np.zeros(3), "sigma": np.eye(4)}, r"`sigma` is float64 \[4, 4\].* \[3, 3\]"),
        ({"mu": np.zeros([3, 1]), "sigma": np.eye(3)}, r"`mu` is float64 \[3, 1\].* shape \[n\]"),
        ({"mu": np.zeros(0), "sigma": np.zeros([0, 0])}, r"must be \[D\] and \[D, D\]"),
        (
            {"mu": np.zeros(3), "sigma": np.diag([1, np.nan, 1])},
            "`sigma` has values that are not finite",
        ),
        ({"mu": np.zeros(3), "sigma": np.tri(3)}, "its covariance must be symmetric"),
        ({"mu": np.zeros(3), "sigma": -np.eye(3)}, "must not have negative eigenvalues"),
        ({"mu": np.array(["a"]), "sigma": np.eye(1)}, "`mu` is <U1"),
    ],
)
def test_files_without_moments_are_refused(tmp_path, arrays, told):
    if arrays is not None:
        np.savez(tmp_path / "stats.npz", **arrays)
    with pytest.raises(InputError, match=told):
        ttur_statistics(tmp_path / "stats.npz")


@pytest.mark.parametrize(
    "data", [b"", b"PK", b"text", one_array(), bits(), bits(mu=np.eye(3))[:99]]
)
def test_what_is_no_file_of_moments_is_refused(tmp_path, data):
    (tmp_path / "stats.npz").write_bytes(data)
    with pytest.raises(InputError, match=r"stats.npz cannot be read as .*`mu` \[D\] and `sigma`"):
        ttur_statistics(tmp_path / "stats.npz")
