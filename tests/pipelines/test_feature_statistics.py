"""Statistics by Beam are those that `evaluate` would compute, and it finds them."""

import itertools
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from stugan_tf.evaluation import statistics
from stugan_tf.evaluation.extraction import Extraction
from stugan_tf.files import locked
from stugan_tf.pipelines import beams, extraction
from stugan_tf.pipelines.settings import Beam
from tests.helpers.numbered_images import Numbers
from tests.helpers.stand_ins import SIZE, Projection


class Pictures(Numbers):
    """Grey images, each another."""

    image_shape = (SIZE, SIZE, 1)

    def load(self, record):
        pixels = tf.range(SIZE * SIZE, dtype=record.dtype) * (record + 1) % 251
        return tf.cast(tf.reshape(pixels, self.image_shape), tf.uint8), record % 3


class Scorer:
    """What a worker takes of an `Evaluator`."""

    def __init__(self):
        self.source = Pictures(190)
        self.extraction = Extraction(Projection(), tf.distribute.get_strategy(), 30)


def by_beam(scorer, folder, num_kept=50):
    with beams.kept("text", scorer):
        return extraction.real_statistics(
            scorer.source, scorer.extraction, num_kept, folder, text="text", runner=Beam()
        )


@pytest.fixture
def scorer(monkeypatch):
    monkeypatch.setattr(extraction, "RANGE", 50)  # four ranges, the last a short one
    return Scorer()


@pytest.mark.ci
def test_statistics_by_beam_are_those_of_one_pass(tmp_path, scorer, monkeypatch):
    monkeypatch.setattr(statistics, "STORED", 60)
    ours = by_beam(scorer, tmp_path / "beam")
    plain = statistics.real_statistics(scorer.source, scorer.extraction, 50, tmp_path / "plain")
    np.testing.assert_allclose(ours.mean, plain.mean, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(ours.covariance, plain.covariance, rtol=1e-9, atol=1e-12)
    np.testing.assert_array_equal(ours.features, plain.features)
    assert ours.protocol == plain.protocol
    assert names(tmp_path / "beam") == names(tmp_path / "plain")

    # So the evaluator finds them.

    def refuse(*arguments):
        raise AssertionError("computed again")

    monkeypatch.setattr(statistics, "_compute", refuse)
    statistics.real_statistics(scorer.source, scorer.extraction, 50, tmp_path / "beam")


@pytest.mark.ci
def test_a_worker_understands_the_whole_configuration_of_a_training():
    """It has imported no more than what it is to do."""
    text = (
        "GAN.generator = @sngan_generator\nGAN.average = @sema\nGAN.generator_sparsity = 0.9\n"
        "generator/Exploration.drop_scores = @magnitude\nmethod.phases = @tickets\n"
        "data.source = @digits()\nEvaluator.extractor = @digits_classifier\n"
    )
    imports = "from stugan_tf.pipelines.extraction import evaluator"
    program = f"{imports}; print(evaluator({text!r}).source.name)"
    assert subprocess.check_output([sys.executable, "-c", program], text=True) == "digits\n"


def names(folder):
    return {path.name for path in folder.iterdir() if not path.name.endswith(".lock")}


@pytest.mark.ci
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
    # Killed again, after all is kept.
    with monkeypatch.context() as patch:
        patch.setattr(extraction.shutil, "rmtree", stop)
        with pytest.raises(KeyboardInterrupt):
            by_beam(scorer, tmp_path / "killed")
    again = by_beam(scorer, tmp_path / "killed")
    assert names(tmp_path / "killed") == names(tmp_path / "whole")
    assert sorted(done) == [0, 50, 100, 150]
    np.testing.assert_array_equal(again.covariance, whole.covariance)
    np.testing.assert_array_equal(again.features, whole.features)


@pytest.mark.ci
def test_parts_are_of_so_many_features_as_are_kept(tmp_path, scorer, monkeypatch):
    """Of a computation that was stopped, and is wanted with more features then."""
    with monkeypatch.context() as patch:
        patch.setattr(statistics, "STORED", 10)
        patch.setattr(extraction, "Merged", stop)
        with pytest.raises(KeyboardInterrupt):
            by_beam(scorer, tmp_path, num_kept=10)
    assert by_beam(scorer, tmp_path, num_kept=50).features.shape[0] == 50


def test_two_at_once_do_not_take_each_other_s_parts(tmp_path, scorer, monkeypatch):
    path = statistics.CacheEntry(scorer.source, scorer.extraction.extractor, 50, tmp_path).path
    monkeypatch.setattr(extraction, "print", stop, raising=False)
    with (
        locked(path.with_name(f".{path.stem}.lock"), "the cache"),
        pytest.raises(KeyboardInterrupt),
    ):
        by_beam(scorer, tmp_path)


def stop(*_, **__):
    raise KeyboardInterrupt


@pytest.mark.parametrize("num_images", [1, 1023, 1024, 1025, 65536, 70000, 1281167])
def test_ranges_cover_all_images_once(num_images):
    ranges = extraction.ranges(num_images)
    assert ranges[0][0] == 0
    assert ranges[-1][1] == num_images
    assert all(a[1] == b[0] for a, b in itertools.pairwise(ranges))
    assert all(start < stop for start, stop in ranges)
    assert len(ranges) <= extraction.MOST_RANGES
