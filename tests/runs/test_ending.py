"""What a finished run tells: its picture, its scores, and commands that go on from there."""

import sys

import pytest

from stugan_tf import command
from stugan_tf.files import json_line
from stugan_tf.runs.ending import picture_and_scores


def write_scores(folder, *values, protocol="p"):
    lines = [
        json_line({"step": 10 * number, "fid": value, "protocol": {"id": protocol}})
        for number, value in enumerate(values, start=1)
    ]
    with open(folder / "evaluations.jsonl", "a") as file:
        file.writelines(lines)


def test_the_end_names_the_newest_picture_and_the_newest_scores(tmp_path):
    (tmp_path / "samples").mkdir()
    for step in (10, 9):
        (tmp_path / "samples" / f"step_{step:08d}.png").touch()
    write_scores(tmp_path, 9.0, 7.12345)
    assert picture_and_scores(tmp_path).splitlines() == [
        f"picture: {tmp_path}/samples/step_00000010.png",
        "scores at step 20: FID 7.123",
    ]


def test_a_better_score_of_an_earlier_step_is_told(tmp_path):
    write_scores(tmp_path, 9.0, 7.0, 8.0)
    assert picture_and_scores(tmp_path).splitlines()[-1] == "best FID: 7 at step 20"


def test_scores_of_another_protocol_are_not_better(tmp_path):
    write_scores(tmp_path, 1.0, protocol="q")
    write_scores(tmp_path, 9.0, 8.0)
    assert "best" not in picture_and_scores(tmp_path)


def test_a_run_without_pictures_and_scores_tells_nothing(tmp_path):
    assert picture_and_scores(tmp_path) == ""


@pytest.mark.parametrize(
    ("started", "expected"),
    [
        (["python3", "-m", "stugan_tf.train", "--x"], ["python3", "-m", "stugan_tf.sample"]),
        ([".venv/bin/python", "/v/bin/stugan", "train"], ["stugan", "sample"]),
        (["python", "-m", "stugan_tf", "train"], ["python", "-m", "stugan_tf.sample"]),
    ],
)
def test_the_next_command_is_started_as_this_one_was(monkeypatch, started, expected):
    monkeypatch.setattr(sys, "orig_argv", started)
    assert command.started_as("sample") == expected
