"""Quality against time: what a run measured of its speed, and what the table says of it."""

import json

import numpy as np
import pytest

from stugan_tf.errors import InputError
from stugan_tf.experiments import runs, timing
from stugan_tf.experiments.collecting import Result
from stugan_tf.experiments.grid import Cell, Grid, Line

DENSE, SPARSE = "Dense", "STU-GAN"
GRID = Grid("by_time", "By time", ("sngan",), (Line(DENSE), Line(SPARSE)), (), reference=DENSE)
CONFIG = "Algorithm.batch_size = 8\nAlgorithm.discriminator_steps = 2\n"


def result(folder, line, seed, speeds, fids, config=CONFIG):
    """A finished run with a log point every 10 steps, each with a score."""
    cell = Cell("by_time", "sngan", line, None, None, seed, (), ())
    name = f"{line}-{seed}"
    workdir = folder / name / "run"
    workdir.mkdir(parents=True)
    lines = [{"step": 10 * (i + 1)} for i in range(len(speeds))]
    for record, speed in zip(lines, speeds, strict=True):
        if speed is not None:
            record["steps_per_second"] = speed
    (workdir / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (workdir / "config.gin").write_text(config)
    protocol = {"id": "p"}
    scores = [
        {"step": 10 * (i + 1), "fid": fid, "protocol": protocol} for i, fid in enumerate(fids)
    ]
    return Result(cell, name, "done", scores)


def two_lines(tmp_path):
    return [
        result(tmp_path, DENSE, 0, [None, 2.0, 1.0, 2.0], [40.0, 30.0, 24.0, 20.0]),
        result(tmp_path, DENSE, 1, [2.0, 2.0, 2.0, 2.0], [44.0, 32.0, 24.0, 22.0]),
        result(tmp_path, SPARSE, 0, [4.0, 4.0, 4.0, 4.0], [50.0, 25.0, 17.0, 15.0]),
        result(tmp_path, SPARSE, 1, [4.0, 4.0, 4.0, 4.0], [50.0, 40.0, 30.0, 25.0]),
    ]


@pytest.fixture
def found(tmp_path):
    return timing.curves(two_lines(tmp_path), "p", tmp_path)


def test_seconds_add_up_what_each_stretch_took(found):
    # Where the speed is not known, seconds a step are the mean of the others: (0.5 + 1 + 0.5) / 3.
    np.testing.assert_allclose(found[0].seconds, np.cumsum([20 / 3, 5, 10, 5]))
    np.testing.assert_allclose(found[1].seconds, [5, 10, 15, 20])
    assert found[0].images.tolist() == [160, 320, 480, 640]


def test_when_a_score_is_reached_is_interpolated(found):
    assert found[2].seconds_until(21.0) == pytest.approx(5 + 2.5 * (25 - 21) / (25 - 17))
    assert found[2].seconds_until(60.0) == 2.5
    assert found[3].seconds_until(24.9) is None


def test_steps_that_were_measured_in_turn_count_instead(tmp_path):
    folder = tmp_path / "by_time"
    cells = {DENSE: "dense-s0", SPARSE: "sparse-s0"}
    assert timing.step_times(folder, cells) == {}
    folder.mkdir()
    record = {
        DENSE: {"cell": "dense-s0", "machine": "any", "seconds": [0.1, 0.9, 0.2]},
        SPARSE: {"cell": "of-another-preset", "machine": "other", "seconds": [0.1]},
    }
    (folder / timing.STEP_TIMES).write_text(json.dumps(record))
    measured = timing.step_times(folder, cells)
    with pytest.raises(InputError, match="several machines"):
        timing.step_times(folder, {**cells, SPARSE: "of-another-preset"})
    found = timing.curves(two_lines(tmp_path), "p", tmp_path, measured)
    assert [curve.line for curve in found] == [DENSE, DENSE]  # The other line was not measured.
    for curve in found:
        np.testing.assert_allclose(curve.seconds, [2, 4, 6, 8])
    assert "measured in turn" in timing.as_markdown(DENSE, found, in_turn=True)
    assert "measured in turn" not in timing.as_markdown(DENSE, found)


def test_the_table_by_hand(found):
    table = timing.as_markdown(DENSE, found)
    dense, sparse = (line for line in table.splitlines() if line.startswith(("| Dense", "| STU")))
    assert dense == (
        "| Dense | 40 | 583.33 ± 117.85 | 23.33 ± 4.71 | 21.00 ± 1.41 (2) | 25.42 (1 of 2 seeds) "
        "| 1.09 of its seconds |"
    )
    assert sparse == (
        "| STU-GAN | 40 | 250.00 ± 0.00 | 10.00 ± 0.00 | 20.00 ± 7.07 (2) | 6.25 (1 of 2 seeds) "
        "| 0.27 of its seconds |"
    )


def test_without_the_reference_there_is_no_table(found):
    assert "No run of the reference (Dense)" in timing.as_markdown(DENSE, found[2:])


def test_every_evaluation_is_in_the_csv(found):
    lines = timing.as_csv(found).splitlines()
    assert lines[:2] == ["line,seed,step,seconds,images,fid", "Dense,0,10,6.667,160,40.0"]
    assert len(lines) == 1 + 4 * 4


def test_a_run_that_did_not_measure_its_speed_is_left_out(tmp_path):
    old = result(tmp_path, DENSE, 0, [None, None], [3.0, 2.0])
    vague = result(tmp_path, DENSE, 1, [1.0, 1.0], [3.0, 2.0], config="")
    assert timing.curves([old, vague], "p", tmp_path) == []
    assert runs.clock_of(tmp_path / "nothing") is None


def test_the_figure_is_always_alike(found, tmp_path):
    for name in ("a", "b"):
        timing.write_figure(tmp_path / name, GRID, found)
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
    assert b"seconds of training" in (tmp_path / "a.svg").read_bytes() or (
        (tmp_path / "a.png").stat().st_size > 10_000
    )
    timing.write_figure(tmp_path / "none", GRID, [])
    assert not (tmp_path / "none.png").exists()
