"""Statistics by Beam are those that `evaluate` would compute, and it finds them."""

import itertools
import pathlib
import sys

import numpy as np
import pytest
import tensorflow as tf

from pipelines import beams, extraction
from pipelines.settings import Beam
from stugan_tf.data import digits
from stugan_tf.evaluation import statistics
from stugan_tf.evaluation.extraction import Extraction

sys.path.append(str(pathlib.Path(__file__).parents[1] / "evaluation"))
from stand_ins import Projection


class Scorer:
    """What a worker takes of an `Evaluator`."""

    def __init__(self):
        self.source = digits()
        self.extraction = Extraction(Projection(), tf.distribute.get_strategy(), 100)


def by_beam(scorer, folder, num_kept=50):
    beams.put("text", scorer)
    return extraction.real_statistics(
        scorer.source, scorer.extraction, num_kept, folder, text="text", runner=Beam()
    )


@pytest.fixture
def scorer(monkeypatch):
    monkeypatch.setattr(extraction, "RANGE", 500)  # four ranges, the last a short one
    return Scorer()


def test_statistics_by_beam_are_those_of_one_pass(tmp_path, scorer, monkeypatch):
    monkeypatch.setattr(statistics, "STORED", 60)
    ours = by_beam(scorer, tmp_path / "beam")
    plain = statistics.real_statistics(scorer.source, scorer.extraction, 50, tmp_path / "plain")
    np.testing.assert_allclose(ours.mean, plain.mean, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(ours.covariance, plain.covariance, rtol=1e-9, atol=1e-12)
    np.testing.assert_array_equal(ours.features, plain.features)
    assert ours.protocol == plain.protocol
    assert {path.name for path in (tmp_path / "beam").iterdir()} == {
        path.name for path in (tmp_path / "plain").iterdir()
    }


def test_the_evaluator_finds_them(tmp_path, scorer, monkeypatch):
    by_beam(scorer, tmp_path)

    def refuse(*arguments):
        raise AssertionError("computed again")

    monkeypatch.setattr(statistics, "_compute", refuse)
    statistics.real_statistics(scorer.source, scorer.extraction, 50, tmp_path)


def test_a_kill_leaves_finished_ranges_to_go_on_from(tmp_path, scorer, monkeypatch):
    whole = by_beam(scorer, tmp_path / "whole")
    write, done = extraction.write_part, []

    def write_or_die(*arguments):
        if len(done) == 2:
            raise RuntimeError("killed")
        done.append(arguments[3])
        write(*arguments)

    monkeypatch.setattr(extraction, "write_part", write_or_die)
    with pytest.raises(Exception, match="killed"):
        by_beam(scorer, tmp_path / "killed")

    def write_and_note(*arguments):
        done.append(arguments[3])
        write(*arguments)

    monkeypatch.setattr(extraction, "write_part", write_and_note)
    again = by_beam(scorer, tmp_path / "killed")
    assert sorted(done) == [0, 500, 1000, 1500]
    np.testing.assert_array_equal(again.covariance, whole.covariance)
    np.testing.assert_array_equal(again.features, whole.features)


@pytest.mark.parametrize("num_images", [1, 1023, 1024, 1025, 65536, 70000, 1281167])
def test_ranges_cover_all_images_once(num_images):
    ranges = extraction.ranges(num_images)
    assert ranges[0][0] == 0
    assert ranges[-1][1] == num_images
    assert all(a[1] == b[0] for a, b in itertools.pairwise(ranges))
    assert all(start < stop for start, stop in ranges)
    assert len(ranges) <= extraction.MOST_RANGES
