"""`python -m stugan_tf.experiments` as a shell sees it."""

import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _in_the_checkout(monkeypatch):
    monkeypatch.chdir(ROOT)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--name is missing: table2, table1"),
        (["--name=table5"], "--name=table5 is not one of table2, table1"),
        (["--name=table1"], "--output is missing"),
        (["--name=table1", "--processes=0"], "--processes must be a positive integer, got 0"),
        (["--name=table1", "--output=x", "--preset=tiny"], "--preset=tiny is not one of paper"),
        (["--name=table1", "--output=x", "--seeds=a"], "--seeds=a: give integers such as 0,1,2"),
        (
            ["--name=time_to_quality", "--output=x"],
            "--name=time_to_quality has no runs at --preset=paper. Choose --preset=cpu or "
            "--preset=smoke.",
        ),
        (
            ["--name=table1", "--output=x", "--line=Sparse"],
            "--line: nothing here begins with 'Sparse'. There are: Dense; PF (global)",
        ),
        (
            ["--name=table1", "--output=x", "--preset=cpu", "--classifier=no/such"],
            "--classifier=no/such: there is no such folder",
        ),
    ],
)
def test_what_cannot_work_is_told_before_anything_runs(use, arguments, message):
    code, _, errors = use("experiments", arguments)
    assert code == 1
    assert f"error: {message}" in errors
    assert not (ROOT / "x").exists()


def test_a_dry_run_lists_runs_and_their_commands(use, tmp_path):
    arguments = ["--name=figure5", "--preset=smoke", f"--output={tmp_path}", "--dry_run"]
    code, output, _ = use("experiments", [*arguments, "--gin_param=train.log_every = 1"])
    assert code == 0
    names = [line.split(":")[0] for line in output.splitlines() if "not started" in line]
    assert len(names) == len(set(names)) == 1 + 4
    command = next(line for line in output.splitlines() if "explore_gd.gin" in line)
    assert "-m stugan_tf.train --gin_file=gin/experiments/sngan_smoke.gin" in command
    assert "'--gin_param=GAN.generator_sparsity = 0.9'" in command
    # What is given for all runs comes last, so that it wins.
    assert command.index("train.log_every = 1") > command.index("train.seed = 0")
    assert not list(tmp_path.iterdir())


def test_what_is_not_there_is_collected_as_missing(use, tmp_path):
    arguments = ["--name=table1,figure4", "--preset=smoke", f"--output={tmp_path}"]
    code, output, _ = use("experiments", [*arguments, "--collect_only"])
    assert code == 0
    assert "0 of 16 runs are done" in output
    assert "## sngan\n\nNo run is done yet." in output
    assert "--collect_only" not in output
    names = sorted(path.name for path in (tmp_path / "figure4").iterdir())
    assert names == ["evaluations.csv", "results.csv", "table.md"]
    assert (tmp_path / "table1/table.md").read_text() in output


@pytest.mark.slow
def test_a_smoke_run_is_trained_scored_and_collected_and_not_run_again(tmp_path):
    command = [sys.executable, "-m", "stugan_tf.experiments", "--name=figure5", "--preset=smoke"]
    command += ["--models=sngan", "--line=Dense", "--line=STU", "--processes=2"]
    command += [f"--output={tmp_path}"]
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache")}

    def run():
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)

    first = run()
    assert first.returncode == 0, first.stderr
    assert "2 of 5 runs are done" in first.stdout
    (dense,) = (tmp_path / "cells").glob("*-dense-*")
    again = run()
    assert again.stdout == first.stdout
    assert "2 of 2 runs done, 0 failed, 0 running, 0 left" in again.stderr
    assert (dense / "log.txt").read_text().count("step 0: started") == 1


@pytest.mark.ci
def test_table_2_is_computed_beside_the_papers(use, tmp_path):
    """Ratios of fidelity.md, section 6; the first table, of SNGAN, is kept."""
    code, output, _ = use("experiments", ["--name=table2", f"--output={tmp_path}"])
    assert code == 0
    cells = [[text.strip() for text in line.split("|")[1:-1]] for line in output.splitlines()]
    rows = {tuple(row[:2]): row[2:] for row in reversed(cells) if row}
    static = rows["Static Sparse, s_D 50 %", "s_G 95 %"]
    assert static == ["0.23", "0.230", "0.209", "", "0.0525", "0.05"]
    assert rows["PF (uniform)", "s_G 95 %"][:4] == ["1.05", "1.423", "1.379", "1.050"]
    tickets = {column: rows["GAN Tickets", f"s_G {column} %"] for column in (90, 80)}
    assert [row[3] for row in tickets.values()] == ["4.463", "4.161"]
    assert "5.32e+16 (`paper`, generator's share 0.607), 1.81e+17 (`full`, 0.654)" in output
    assert "2.25e+17 (`paper`, generator's share 0.280), 5.12e+17 (`full`, 0.287)" in output
    assert (tmp_path / "table2/results.csv").read_text().count("\n") == 1 + 2 * 20
