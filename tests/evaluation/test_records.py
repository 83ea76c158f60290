import json

import numpy as np
import pytest

from stugan_tf.errors import InputError
from stugan_tf.evaluation import records

FULL = {"images": 50000, "id": "aaaa"}
MONITOR = {"images": 1000, "id": "bbbb"}


def write(workdir, *rows):
    workdir.mkdir()
    for step, fid, protocol in rows:
        records.append(workdir, {"step": step, "time": 0.0, "fid": fid, "protocol": protocol})
    return workdir


def test_the_newest_of_one_step_and_protocol_counts(tmp_path):
    run = write(
        tmp_path / "run", (20, 3.0, FULL), (10, 5.0, FULL), (20, 2.0, FULL), (20, 9, MONITOR)
    )
    found = [(r["step"], r["fid"], r["protocol"]["id"]) for r in records.read(run)]
    assert found == [(10, 5.0, "aaaa"), (20, 2.0, "aaaa"), (20, 9, "bbbb")]


def test_a_line_that_was_torn_is_skipped(tmp_path):
    run = write(tmp_path / "run", (20, 3.0, FULL))
    with open(run / "evaluations.jsonl", "a") as file:
        file.write('{"step": 30, "fi')
    assert [r["step"] for r in records.read(run)] == [20]


def test_a_table_has_the_newest_and_the_best_of_the_common_protocol(tmp_path):
    one = write(tmp_path / "one", (10, 4.0, FULL), (20, 5.0, FULL), (30, 1.0, MONITOR))
    other = write(tmp_path / "other", (10, 7.0, FULL), (20, None, FULL))
    lines = [line.split() for line in records.compare([one, other]).splitlines()]
    assert lines[0] == ["run", "which", "step", "fid"]
    assert lines[1:5] == [
        [str(one), "newest", "20", "5"],
        [str(one), "best", "10", "4"],
        [str(other), "newest", "20", "-"],
        [str(other), "best", "10", "7"],
    ]
    assert ["images:", "50000"] in lines


def test_runs_without_a_common_protocol_are_not_compared(tmp_path):
    one = write(tmp_path / "one", (10, 4.0, FULL))
    other = write(tmp_path / "other", (10, 7.0, MONITOR))
    with pytest.raises(InputError, match=r"images: 50000 and 1000(.|\n)*Evaluate both"):
        records.compare([one, other])


def test_a_run_without_scores_is_told_how_to_get_them(tmp_path):
    with pytest.raises(InputError, match=r"has no scores. Make some by `python -m"):
        records.compare([tmp_path])


def test_records_are_lines_of_json(tmp_path):
    run = write(tmp_path / "run", (20, 3.0, FULL))
    (line,) = (run / "evaluations.jsonl").read_text().splitlines()
    assert json.loads(line)["protocol"] == FULL


def test_a_record_behind_a_torn_line_is_not_lost(tmp_path):
    run = write(tmp_path / "run", (20, 3.0, FULL))
    with open(run / "evaluations.jsonl", "a") as file:
        file.write('{"step": 30, "fi')
    records.append(run, {"step": 40, "fid": np.float32("nan"), "protocol": FULL})
    assert [(r["step"], r["fid"]) for r in records.read(run)] == [(20, 3.0), (40, None)]


def test_what_is_no_record_is_skipped_and_other_evaluators_records_are_compared(tmp_path):
    run = write(tmp_path / "run", (20, 3.0, {"mine": 1}), (30, 2.0, {"mine": 2}))
    records.append(run, {"step": 30, "note": "good", "protocol": {"mine": 2}})
    with open(run / "evaluations.jsonl", "a") as file:
        file.write('[1]\n{"fid": 1.0}\n{"step": 50, "fid": 1.0, "protocol": "mine"}\n')
    assert [(r["step"], r.get("fid")) for r in records.read(run)] == [(20, 3.0), (30, None)]
    assert "mine: 1" in records.compare([run])


def test_a_folder_that_is_not_there_is_told(tmp_path):
    with pytest.raises(InputError, match="there is no folder"):
        records.compare([tmp_path / "mien"])


def test_a_record_that_no_evaluator_wrote_is_skipped(tmp_path):
    run = write(tmp_path / "run", (20, 3.0, FULL))
    with open(run / "evaluations.jsonl", "a") as file:
        for record in (
            {"step": 30, "fid": "good", "protocol": FULL},
            {"step": 30, "fid": [1], "protocol": FULL},
            {"step": 30, "fid": 1.0, "protocol": "FULL"},
            {"step": 40, "fid": 1.0, "protocol": {"images": 7, "id": ["a"]}},
        ):
            file.write(json.dumps(record) + "\n")
    found = records.read(run)
    assert [record["step"] for record in found] == [20, 40]
    assert isinstance(found[1]["protocol"]["id"], str)
