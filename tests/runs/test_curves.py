"""Curves of runs: which numbers are drawn, and how they are told apart."""

import importlib.util
import json

import numpy as np
import pytest
from PIL import Image

from stugan_tf.errors import InputError
from stugan_tf.files import json_line
from stugan_tf.runs import curves

RATE = "Exploration rate $R_s$"


def write_logs(folder, steps, protocol="p", fid=8.0, **numbers):
    """The logs of a run with records at these steps; its FID falls by 1 from record to record."""
    folder.mkdir(parents=True)
    (folder / "config.gin").write_text("")
    known = {"g_loss": 1.0, "d_loss": 2.0, "generator_sparsity": 0.9, "discriminator_sparsity": 0.5}
    lines = [json_line({"step": step, **known, **numbers}) for step in steps]
    (folder / "metrics.jsonl").write_text("".join(lines))
    scores = [
        {"step": step, "fid": fid - number, "protocol": {"id": protocol}}
        for number, step in enumerate(steps)
    ]
    (folder / "evaluations.jsonl").write_text("".join(map(json_line, scores)))
    return folder


def panels(*workdirs):
    """{title of a panel: its axes} of the picture of these runs."""
    figure = curves.drawn(curves.read(workdirs))
    return {axes.get_title(): axes for axes in figure.axes}


def test_a_picture_shows_losses_scores_densities_and_what_was_explored(tmp_path):
    folder = write_logs(tmp_path / "mine", [10, 20], generator_exploration_rate=0.25)
    drawn = panels(folder)
    assert list(drawn) == [
        "Losses",
        "FID: best 7 at step 20",
        "Density of the networks",
        "Exploration rate $R_s$",
    ]
    generator, discriminator = drawn["Density of the networks"].lines
    np.testing.assert_allclose(generator.get_xydata(), [[10, 10], [20, 10]], atol=1e-9)
    np.testing.assert_allclose(discriminator.get_ydata(), 50)
    (rate,) = drawn[RATE].lines
    np.testing.assert_allclose(rate.get_ydata(), 25)
    for axes in drawn.values():
        assert axes.get_ylabel()
        assert len({line.get_color() for line in axes.lines}) == len(axes.lines)


def test_the_picture_is_wide_enough_to_read(tmp_path):
    folder = write_logs(tmp_path / "mine", [10, 20])
    curves.write(tmp_path / "curves.png", curves.read([folder]))
    assert Image.open(tmp_path / "curves.png").width == 1600


def test_runs_in_one_picture_have_a_colour_and_a_marker_each(tmp_path):
    workdirs = [write_logs(tmp_path / str(n) / "run", [10, 20]) for n in range(curves.MOST)]
    for axes in panels(*workdirs).values():
        of_run = {(line.get_color(), line.get_marker()) for line in axes.lines}
        assert len(of_run) == len({colour for colour, _ in of_run}) == curves.MOST
    with pytest.raises(InputError, match=f"up to {curves.MOST} runs, got {curves.MOST + 1}"):
        curves.read([*workdirs, tmp_path])
    with pytest.raises(InputError, match="names a folder twice"):
        curves.read([workdirs[0], workdirs[0].parent / "run"])


def test_phases_follow_each_other(tmp_path):
    records = []
    for name in ("dense", "finetune"):
        write_logs(tmp_path / name, [10, 20])
        records.append({"name": name, "state": "finished", "folder": name})
    records.append({"name": "last", "state": "waiting"})
    (tmp_path / "phases.json").write_text(json.dumps({"phases": records}))
    (history,) = curves.read([tmp_path])
    assert [step for step, _ in history.points("g_loss")] == [10, 20, 30, 40]
    assert history.borders == [20]
    assert history.best("fid") == (20, 7.0)


def test_scores_are_of_a_protocol_that_all_runs_have(tmp_path):
    first, second = (write_logs(tmp_path / name, [10, 20]) for name in ("first", "second"))
    newer = {"step": 20, "fid": 1.0, "protocol": {"id": "q"}}
    with open(first / "evaluations.jsonl", "a") as file:
        file.write(json_line(newer))
    assert [one.protocol for one in curves.read([first, second])] == ["p", "p"]
    assert "FID" in panels(first, second)
    assert curves.read([first])[0].points("fid") == [(20, 1.0)]


def test_scores_of_different_protocols_are_marked(tmp_path):
    workdirs = [write_logs(tmp_path / name, [10], protocol=name) for name in ("first", "second")]
    assert "FID, of different protocols" in panels(*workdirs)


def test_what_is_not_a_number_is_not_drawn(tmp_path):
    folder = write_logs(tmp_path / "mine", [10, 20], d_loss=float("nan"), g_loss="many")
    assert "Losses" not in panels(folder)


def test_a_run_without_numbers_has_no_picture(tmp_path):
    with pytest.raises(InputError, match=r"Nothing was logged yet in .*mine"):
        panels(write_logs(tmp_path / "mine", []))


def test_several_runs_are_reported_in_a_table_and_a_picture(use, tmp_path):
    first = write_logs(tmp_path / "first", [10, 20], generator_exploration_rate=0.25)
    second = write_logs(tmp_path / "second", [10], fid=12.3456)
    picture = tmp_path / "both.png"
    flags = [f"--workdir={first}", f"--workdir={second}", f"--output={picture}"]
    code, told, errors = use("report", flags)
    assert code == 0, errors
    header, of_first, of_second, *_ = (line.split() for line in told.splitlines())
    assert header[:2] == ["run", "state"]
    assert (of_first[0], of_second[0]) == ("first", "second")
    assert of_first[-2:] == ["7", "p"]
    assert of_second[-2:] == ["12.35", "p"]
    assert told.endswith(f"curves: {picture}\n")
    assert Image.open(picture).width == 1600


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--workdir=a", "--workdir=b"], "--output is missing"),
        (["--gin_file=f", "--output=c.png"], "--output is for the curves of runs"),
        (["--workdir=a", "--output=c.jpg"], "--output=c.jpg must end in .png"),
        (["--workdir=a", "--workdir=b", "--output=c.png"], "a is not the folder of a run"),
    ],
)
def test_flags_that_make_no_picture_are_refused(use, tmp_path, monkeypatch, flags, message):
    monkeypatch.chdir(tmp_path)
    code, _, errors = use("report", flags)
    assert code == 1
    assert errors.startswith(f"error: {message}")


def test_without_matplotlib_a_picture_that_was_asked_for_is_refused(use, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "matplotlib" else found(name)
    )
    code, _, errors = use("report", ["--workdir=a", "--output=c.png"])
    assert code == 1
    assert "pip install 'stugan_tf[plots]'" in errors
