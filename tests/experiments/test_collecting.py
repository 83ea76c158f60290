"""Collection, from folders of runs that were written by hand."""

import csv
import dataclasses
import io
import json
import math
import re
import shutil

import matplotlib.image
import numpy as np
import pytest

from stugan_tf.errors import InputError
from stugan_tf.evaluation import records
from stugan_tf.experiments import collecting, figures, runs
from stugan_tf.experiments.grid import S_G, Cell, Grid, Line, Point
from stugan_tf.experiments.paper_results import paper_results

PROTOCOL = {"extractor": {"name": "mine", "sha256": "ab"}, "generated": {"num_images": 10}}
OTHER = {"extractor": {"name": "mine", "sha256": "ab"}, "generated": {"num_images": 99}}
STU = "STU-GAN, s_D 50 %"
COLUMN = "s_G 95 %"
GRID = Grid(
    "figure0",
    "A figure",
    ("sngan",),
    lines=(Line("Dense", points=(), key="dense"), Line(STU, key="stu-D0.5")),
    points=(Point(COLUMN, 0.95), Point("s_G 90 %", 0.9)),
    axis=S_G,
)


def cell(line=STU, point=COLUMN, value=0.95, seed=0, model="sngan"):
    key = {"Dense": "dense", STU: "stu-D0.5"}.get(line, "")
    return Cell("figure0", model, line, point, value, seed, (), (), key=key)


def dense(seed=0):
    return cell("Dense", None, None, seed)


def name_of(found):
    return f"{found.line}-{found.point}-{found.seed}".replace(" ", "")


def write(folder, found, *scores, protocol=PROTOCOL, finished=True, **facts):
    """A run's folder with scores at steps 10, 20, ..."""
    workdir = runs.workdir_of(folder / name_of(found))
    workdir.mkdir(parents=True)
    for number, (fid, inception_score) in enumerate(scores, start=1):
        score = {"fid": fid, "inception_score": inception_score, "protocol": dict(protocol)}
        records.append(workdir, {"step": 10 * number, **score})
    end = {"finished": {"step": 10 * len(scores)}} if finished else {}
    (workdir / "run.json").write_text(json.dumps({**facts, **end}))
    return workdir


def collect(folder, cells):
    return collecting.collect(cells, name_of, folder)


def the_protocol(results):
    (found,) = collecting.protocols_of(results)
    return found


@pytest.fixture
def three_seeds(tmp_path):
    """Final FID 3, 4 and 8: mean 5, deviation sqrt((4 + 1 + 9) / 2). Best ones 3, 2 and 8."""
    cells = [cell(seed=seed) for seed in range(3)]
    write(tmp_path, cells[0], (9.0, 1.0), (3.0, 2.0))
    write(tmp_path, cells[1], (2.0, 5.0), (4.0, 3.0))
    write(tmp_path, cells[2], (9.0, 1.0), (8.0, 4.0))
    return collect(tmp_path, cells)


def test_means_and_deviations_by_hand(three_seeds):
    scores, wanted = collecting.means(three_seeds, the_protocol(three_seeds), "last")[STU, COLUMN]
    assert wanted == 3
    assert scores["fid"] == (5.0, pytest.approx(math.sqrt(7)), 3)
    assert scores["inception_score"] == (3.0, 1.0, 3)


def test_the_best_is_that_of_the_lowest_fid_with_its_own_inception_score(three_seeds):
    scores, _ = collecting.means(three_seeds, the_protocol(three_seeds), "best")[STU, COLUMN]
    assert scores["fid"].mean == pytest.approx((3 + 2 + 8) / 3)
    assert scores["inception_score"].mean == pytest.approx((2 + 5 + 4) / 3)


def test_unfinished_and_absent_runs_are_missing(tmp_path):
    cells = [cell(seed=seed) for seed in range(3)]
    write(tmp_path, cells[0], (3.0, 2.0))
    write(tmp_path, cells[1], (1.0, 9.0), finished=False)
    results = collect(tmp_path, cells)
    assert [r.state for r in results] == ["done", "unfinished", "missing"]
    table = collecting.as_markdown(GRID, results, {}, "last", [])
    assert "| STU-GAN, s_D 50 % | 3.00, 2.00 (1 of 3) |  |" in table
    assert "1 of 3 runs are done" in table
    other = cell(point="s_G 90 %", value=0.9)
    table = collecting.as_markdown(GRID, [*results, *collect(tmp_path, [other])], {}, "last", [])
    assert "missing (0 of 1)" in table
    nothing = collect(tmp_path / "elsewhere", cells)
    table = collecting.as_markdown(GRID, nothing, {}, "last", [])
    assert "## sngan\n\nNo run is done yet." in table


def test_the_papers_numbers_stand_beside_ours(tmp_path, three_seeds):
    write(tmp_path, dense(), (2.5, 9.0))
    results = [*three_seeds, *collect(tmp_path, [dense()])]
    table = collecting.as_markdown(GRID, results, paper_results(), "last", ["how it came about"])
    lines = [[text.strip() for text in line.split("|")[1:-1]] for line in table.splitlines()]
    assert ["", "s_G 95 % ours", "paper"] in lines
    assert [STU, "5.00 ± 2.65, 3.00 ± 1.00 (3)", "22.34, 7.71"] in lines
    assert ["Dense", "2.50, 9.00 (1)", "14.01, 8.26"] in lines
    assert "how it came about" in table
    assert "10 images" in table


def test_different_protocols_never_share_a_table(tmp_path):
    one, other = cell(seed=0), cell(seed=1)
    write(tmp_path, one, (3.0, 2.0))
    write(tmp_path, other, (1.0, 2.0), protocol=OTHER)
    results = collect(tmp_path, [one, other])
    with pytest.raises(InputError, match=r"generated.num_images: 10 and 99"):
        collecting.as_markdown(GRID, results, {}, "last", [])


def test_a_protocol_that_only_some_runs_have_beside_the_common_one_is_left_out(tmp_path):
    one, other = cell(seed=0), cell(seed=1)
    workdir = write(tmp_path, one, (3.0, 2.0))
    records.append(workdir, {"step": 10, "fid": 0.5, "protocol": OTHER})
    write(tmp_path, other, (1.0, 2.0))
    results = collect(tmp_path, [one, other])
    protocol = the_protocol(results)
    scores, _ = collecting.means(results, protocol, "best")[STU, COLUMN]
    assert scores["fid"].mean == 2.0


def test_models_have_tables_and_protocols_of_their_own(tmp_path):
    one, other = cell(seed=0), cell(seed=1, model="biggan")
    write(tmp_path, one, (3.0, 2.0))
    write(tmp_path, other, (1.0, 2.0), protocol=OTHER)
    table = collecting.as_markdown(GRID, collect(tmp_path, [one, other]), {}, "last", [])
    first, second = table.split("## biggan")
    assert "3.00, 2.00" in first
    assert "10 images" in first
    assert "1.00, 2.00" in second
    assert "99 images" in second


def test_a_finished_run_without_scores_is_told(tmp_path):
    write(tmp_path, cell())
    with pytest.raises(InputError, match="finished without a score"):
        collecting.protocols_of(collect(tmp_path, [cell()]))


def test_a_score_that_was_not_finite_is_none(tmp_path):
    write(tmp_path, cell(seed=0), (3.0, 2.0))
    write(tmp_path, cell(seed=1), (None, 1.0))
    results = collect(tmp_path, [cell(seed=0), cell(seed=1)])
    scores, wanted = collecting.means(results, the_protocol(results), "last")[STU, COLUMN]
    assert scores["fid"] == (3.0, None, 1)
    assert scores["inception_score"].count == wanted == 2


def test_csv_has_every_run(tmp_path, three_seeds):
    results = [*three_seeds, *collect(tmp_path, [dense()])]
    rows = list(csv.DictReader(io.StringIO(collecting.as_csv(results))))
    assert [row["state"] for row in rows] == ["done"] * 3 + ["missing"]
    assert [row["seed"] for row in rows] == ["0", "1", "2", "0"]
    assert rows[1]["last_fid"] == "4.0"
    assert rows[1]["best_fid"] == "2.0"
    assert rows[1]["best_step"] == "10"
    assert rows[1]["last_step"] == "20"
    assert rows[3]["last_fid"] == ""
    assert rows[0]["protocol"] == the_protocol(three_seeds)


def test_the_other_csv_has_every_evaluation(tmp_path, three_seeds):
    unfinished = cell(seed=7)
    write(tmp_path, unfinished, (8.0, 1.0), finished=False)
    results = [*three_seeds, *collect(tmp_path, [dense(), unfinished])]
    rows = list(csv.DictReader(io.StringIO(collecting.evaluations_as_csv(results))))
    found = [(row["seed"], row["step"], row["fid"]) for row in rows]
    assert found[2:4] == [("1", "10", "2.0"), ("1", "20", "4.0")]
    assert found[-1] == ("7", "10", "8.0")
    assert len(found) == sum(len(result.records) for result in results)
    assert {row["protocol"] for row in rows} == {the_protocol(three_seeds)}


def test_a_cell_whose_gin_file_is_missing_is_missing(tmp_path):
    (result,) = collecting.collect([cell()], lambda _: None, tmp_path)
    assert (result.state, result.name) == ("missing", "")


def phases(folder, **states):
    """A method of several phases, of which each is a run in a folder of its own."""
    workdir = runs.workdir_of(folder)
    workdir.mkdir(parents=True)
    listed = []
    for number, (name, state) in enumerate(states.items()):
        record = {"name": name, "state": state}
        if state != "waiting":
            (workdir / name).mkdir()
            records.append(workdir / name, {"step": 10, "fid": number, "protocol": PROTOCOL})
            record["folder"] = name
        listed.append(record)
    (workdir / "phases.json").write_text(json.dumps({"phases": listed}))
    return workdir


def test_of_several_phases_the_last_is_scored_and_all_must_be_finished(tmp_path):
    phases(tmp_path / "a", dense="finished", fine_tuning="finished")
    phases(tmp_path / "b", dense="finished", fine_tuning="started")
    phases(tmp_path / "c", dense="started", fine_tuning="waiting")
    assert [runs.is_done(tmp_path / name) for name in "abc"] == [True, False, False]
    assert [runs.scores_of(tmp_path / name)[0]["fid"] for name in "abc"] == [1, 1, 0]


def test_progress_is_read_from_metrics_and_the_configuration(tmp_path):
    assert runs.progress_of(tmp_path) is None
    workdir = runs.workdir_of(tmp_path)
    workdir.mkdir()
    lines = [{"step": 10, "time": 100.0}, {"step": 30, "time": 110.0}]
    (workdir / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert str(runs.progress_of(tmp_path)) == "step 30, 2 steps/s"
    (workdir / "config.gin").write_text("longer.factor = 5\nAlgorithm.total_steps = 2000\n")
    assert str(runs.progress_of(tmp_path)) == "step 30 of 10,000, 2 steps/s, 1:23:05 left"
    (workdir / "config.gin").write_text("longer.factor = 5\nAlgorithm.total_steps = %STEPS\n")
    assert str(runs.progress_of(tmp_path)) == "step 30, 2 steps/s"


@pytest.mark.parametrize("style", ["lines", "bars"])
def test_figures_are_drawn_of_what_is_there_and_always_alike(tmp_path, three_seeds, style):
    grid = Grid(**{**GRID.__dict__, "style": style})
    write(tmp_path, dense(), (2.5, 9.0))
    absent = cell(point="s_G 90 %", value=0.9)
    results = [*three_seeds, *collect(tmp_path, [dense(), absent])]
    protocols = {"sngan": the_protocol(results)}
    for name in ("one", "other"):
        figures.write_figure(tmp_path / name, grid, results, protocols, "last")
    for suffix in figures.SUFFIXES:
        assert (tmp_path / f"one.{suffix}").read_bytes() == (
            tmp_path / f"other.{suffix}"
        ).read_bytes()
    pixels = matplotlib.image.imread(tmp_path / "one.png")
    assert np.std(pixels[..., :3]) > 0.02
    drawing = (tmp_path / "one.svg").read_text()
    assert "<svg" in drawing


def test_a_figure_has_no_panel_of_a_model_without_runs(tmp_path, three_seeds):
    others = [
        result._replace(cell=dataclasses.replace(result.cell, model="biggan"))
        for result in three_seeds
    ]
    absent = [result._replace(state="missing", records=[]) for result in others]
    protocols = {"sngan": the_protocol(three_seeds), "biggan": None}
    figures.write_figure(tmp_path / "none", GRID, absent, protocols, "last")
    assert not (tmp_path / "none.png").exists()
    figures.write_figure(tmp_path / "one", GRID, [*three_seeds, *absent], protocols, "last")
    assert "biggan" not in (tmp_path / "one.svg").read_text()
    protocols["biggan"] = protocols["sngan"]
    figures.write_figure(tmp_path / "both", GRID, [*three_seeds, *others], protocols, "last")
    assert "biggan" in (tmp_path / "both.svg").read_text()


def test_curves_are_of_every_run_that_has_scores(tmp_path):
    unfinished, unscored = cell(seed=1), cell("SET", "s_G 90 %", 0.9)
    write(tmp_path, dense(), (9.0, 1.0), (2.5, 9.0))
    write(tmp_path, unfinished, (8.0, 1.0), (4.0, 2.0), finished=False)
    write(tmp_path, unscored, finished=False)
    results = collect(tmp_path, [dense(), cell(), unfinished, unscored])
    grid = Grid(**{**GRID.__dict__, "lines": (*GRID.lines, Line("SET"))})
    figures.write_curves(tmp_path / "curves", grid, results, {"sngan": the_protocol(results)})
    # The backend notes texts as comments.
    texts = re.findall("<!-- (.*) -->", (tmp_path / "curves.svg").read_text())
    assert {"sngan, s_G 95 %", "Dense", STU} <= set(texts)
    assert not {"sngan, s_G 90 %", "SET"} & set(texts)
    assert texts.count(STU) == 1


def test_without_scores_there_are_no_curves(tmp_path):
    results = collect(tmp_path, [dense(), cell()])
    figures.write_curves(tmp_path / "curves", GRID, results, {"sngan": None})
    assert not list(tmp_path.iterdir())


def test_a_table_says_in_what_its_runs_differ(tmp_path):
    cells = [cell(seed=seed) for seed in range(3)]
    for number, made in enumerate(cells):
        write(tmp_path, made, (3.0, 2.0), commit="c0ffee" if number else "beef")
    results = collect(tmp_path, cells)
    table = collecting.as_markdown(GRID, results, {}, "last", [])
    names = [name_of(made) for made in cells]
    assert "The runs of sngan were not all made in the same way:" in table
    assert f"- commit: beef ({names[0]}); c0ffee ({names[1]}, {names[2]})" in table
    rows = list(csv.DictReader(io.StringIO(collecting.as_csv(results))))
    assert [row["commit"] for row in rows] == ["beef", "c0ffee", "c0ffee"]
    alike = collecting.as_markdown(GRID, results[1:], {}, "last", [])
    assert "same way" not in alike


def test_runs_on_different_data_never_share_a_table(tmp_path):
    cells = [cell(seed=seed) for seed in range(2)]
    for fingerprint, made in zip("ab", cells, strict=True):
        write(tmp_path, made, (3.0, 2.0), data={"fingerprint": fingerprint})
    with pytest.raises(InputError, match="trained on different data"):
        collecting.as_markdown(GRID, collect(tmp_path, cells), {}, "last", [])


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("run.json", ""),
        ("run.json", '{"data": {'),
        ("run.json", '{"finished": true}'),
        ("phases.json", ""),
        ("phases.json", "[]"),
    ],
)
def test_damage_is_confined_to_its_cell_and_named(tmp_path, file, content):
    cells = [cell(seed=seed) for seed in range(2)]
    for made in cells:
        workdir = write(tmp_path, made, (3.0, 2.0))
    (workdir / file).write_text(content)
    results = collect(tmp_path, cells)
    assert [result.state for result in results] == ["done", "damaged"]
    table = collecting.as_markdown(GRID, results, {}, "last", [])
    assert "3.00, 2.00 (1 of 2)" in table
    assert f"- {workdir / file} is damaged: " in table
    assert "damaged" in collecting.as_csv(results)
    folder = tmp_path / name_of(cells[1])
    assert not runs.is_done(folder)
    assert runs.threads_of(folder) is None
    # The log is read without run.json, but phases.json says where the log is.
    progress = runs.progress_text(folder, "not started").partition(": ")[0]
    assert progress == ("not started" if file == "run.json" else "unknown")


def test_a_cell_whose_run_was_deleted_is_not_done(tmp_path):
    workdir = write(tmp_path, cell(), (3.0, 2.0))
    (workdir.parent / "status.json").write_text('{"exit_code": 0}')
    assert runs.is_done(workdir.parent)
    shutil.rmtree(workdir)
    assert not runs.is_done(workdir.parent)
    assert collect(tmp_path, [cell()])[0].state == "missing"


def test_progress_skips_what_is_no_record(tmp_path):
    workdir = runs.workdir_of(tmp_path)
    workdir.mkdir()
    lines = ['{"time": 1.0}', '{"step": 5, "time": "noon"}', '{"step": 10, "time": 100.0}', "{}"]
    (workdir / "metrics.jsonl").write_text("\n".join(lines))
    (workdir / "config.gin").write_bytes(b"\xff")
    assert runs.progress_text(tmp_path, "starting") == "step 10"


def test_a_run_keeps_the_threads_of_its_last_start(tmp_path):
    assert runs.threads_of(tmp_path) is None
    write(tmp_path, cell(), threads=2, resumes=[{"threads": 4}, {"step": 3}])
    assert runs.threads_of(tmp_path / name_of(cell())) == 4
