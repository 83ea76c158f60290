"""The tables of a race of runtimes, from measurements that are known."""

import json
import pathlib
import subprocess
import sys

import pytest

from benchmarks import race_tables
from benchmarks.race_tables import Entrant, Measurements

ROOT = pathlib.Path(__file__).parents[1]
ENTRANTS = {
    "ours": Entrant("ours", is_rival=False, skips_zeros=True),
    "ours_too": Entrant("ours elsewhere", is_rival=False, skips_zeros=True),
    "sparse": Entrant("a sparse rival", skips_zeros=True),
    "dense": Entrant("a dense rival"),
    "small": Entrant("an int8 rival", "int8"),
}


def calls(runner, sparsity, *milliseconds, threads=2, batch=16):
    same = {"model": "m", "runner": runner, "sparsity": sparsity, "threads": threads}
    return [same | {"batch": batch, "ms": ms, "processor_ms": 2 * ms} for ms in milliseconds]


def cells(table):
    """The cells of each line below the titles."""
    return [line[2:-2].split(" | ") for line in table.splitlines()[2:]]


def test_times_are_medians_with_the_least_and_the_greatest():
    rows = calls("dense", "0.95", 30, 10, 20) + calls("ours", "0.9", 2) + calls("ours", "0.95", 1.5)
    assert cells(race_tables.times(rows, ENTRANTS)) == [
        ["ours", "95%", "1.5 (1.5 to 1.5)"],
        ["ours", "90%", "2 (2 to 2)"],
        ["a dense rival", "any", "20 (10 to 30)"],
    ]
    assert cells(race_tables.times(rows, ENTRANTS, "processor_ms"))[2][2] == "40 (20 to 60)"


def test_a_cell_that_was_not_measured_is_empty():
    rows = calls("ours", "0.9", 2, batch=1) + calls("dense", "0.9", 8, threads=1)
    table = race_tables.times(rows, ENTRANTS)
    assert table.splitlines()[0] == "| runner | zeros | 2 threads, batch 1 | 1 thread, batch 16 |"
    assert cells(table) == [
        ["ours", "90%", "2 (2 to 2)", ""],
        ["a dense rival", "any", "", "8 (8 to 8)"],
    ]


def test_ratios_are_to_the_best_rival_at_the_same_sparsity():
    rows = [
        *calls("ours", "0.95", 1, 2, 9),
        *calls("ours", "0.8", 4),
        *calls("ours_too", "0.95", 0.1),  # Not a rival.
        *calls("sparse", "0.95", 3),
        *calls("sparse", "0.0", 0.2),  # Of another network.
        *calls("dense", "0.95", 10),
        *calls("small", "0.95", 2.4),
    ]
    assert cells(race_tables.ratios(rows, ENTRANTS, "ours")) == [
        ["95%", "2", "float32", "1.5 (a sparse rival)"],
        ["95%", "2", "any precision", "1.2 (an int8 rival)"],
        ["80%", "2", "float32", "2.5 (a dense rival)"],
        ["80%", "2", "any precision", "0.6 (an int8 rival)"],
    ]


def test_ratios_compare_the_same_threads_and_batch():
    rows = calls("ours", "0.9", 2) + calls("dense", "0.9", 1, threads=1) + calls("dense", "0.9", 6)
    rows += calls("dense", "0.9", 1, batch=1)
    table = race_tables.ratios(rows, ENTRANTS, "ours")
    assert ["90%", "2", "float32", "", "3 (a dense rival)"] in cells(table)
    assert ["90%", "1", "float32", "", ""] in cells(table)


def test_scaling_is_from_one_thread_to_two():
    rows = calls("ours", "0.9", 9, 10, 12, threads=1) + calls("ours", "0.9", 8)
    rows += calls("dense", "0.9", 8)  # Not measured with one thread.
    assert cells(race_tables.scaling(rows, ENTRANTS)) == [["ours", "90%", "1.25"]]


def test_memory_is_the_most_and_starts_are_medians():
    same = {"model": "m", "runner": "dense", "sparsity": "0.9", "threads": 2}
    rows = [same | {"first_ms": ms, "bytes": 2048} for ms in (100, 300, 200)]
    rows += [
        row | {"peak_mib": mib}
        for row, mib in zip(calls("dense", "0.9", 1, 1), (70, 50.4), strict=True)
    ]
    assert cells(race_tables.resources(rows, ENTRANTS)) == [
        ["a dense rival", "any", "200 (100 to 300)", "70", "2"]
    ]


def test_errors_are_those_of_the_last_comparison():
    same = {"model": "m", "runner": "small", "sparsity": "0.95", "threads": 2}
    rows = [same | {"rms": rms, "most_999": 0.0004, "most": 4} for rms in (9, 0.75)]
    assert cells(race_tables.errors(rows, ENTRANTS)) == [
        ["an int8 rival", "0.75", "under 0.001", "4"]
    ]


def test_measurements_outlive_a_process_that_was_killed(tmp_path):
    path = tmp_path / "new" / "measurements.jsonl"
    for row in calls("ours", "0.9", 1, 2):
        Measurements(path).keep(row)
    with path.open("a") as file:
        file.write('{"model": "m", "runner": "ou')
    kept = Measurements(path)
    assert kept.count("ms", runner="ours", sparsity="0.9", threads=2, batch=16) == 2
    assert kept.count("ms", runner="ours", sparsity="0.95") == 0
    kept.keep(calls("ours", "0.9", 3)[0])
    assert Measurements(path).count("ms") == 3


def command(module, *arguments):
    return subprocess.run(
        [sys.executable, "-m", f"benchmarks.{module}", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--models=sngan", "--models: there is no sngan. Choose from sngan_256, biggan_cifar10"),
        ("--runners=torch", "--runners: there is no torch. Choose from runtime"),
        ("--batches=1,2", "--batches: there is no 2. Choose from 1, 16, 64"),
        ("--threads=0", "--threads takes integers above 0, got 0"),
        ("--deepsparse_python=/none/python", "must be a Python's path, got /none/python"),
        ("--sparsities=0.9,95", "--sparsities takes numbers in [0, 1), got 0.9,95"),
    ],
)
def test_wrong_arguments_are_refused(tmp_path, argument, message):
    done = command("inference", f"--folder={tmp_path / 'none'}", argument)
    assert done.returncode != 0
    assert message in done.stdout + done.stderr
    assert not (tmp_path / "none").exists()


def test_the_race_in_browsers_says_how_to_get_its_packages(tmp_path):
    done = command("browser_inference", f"--npm={tmp_path}", f"--folder={tmp_path}")
    assert done.returncode != 0
    assert "npm install --prefix=" in done.stdout + done.stderr


def test_what_was_measured_is_printed_by_model(tmp_path):
    rows = [row | {"model": "sngan_256"} for row in calls("runtime", "0.95", 2)]
    rows += [row | {"model": "sngan_256"} for row in calls("lite_int8", "0.95", 5)]
    (tmp_path / "measurements.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    done = command("inference", f"--folder={tmp_path}", "--table")
    assert done.returncode == 0, done.stderr
    assert "sngan_256: times as long as ours" in done.stdout
    assert "| 95% | 2 | any precision | 2.5 (LiteRT int8) |" in done.stdout
    assert "biggan" not in done.stdout
    assert (tmp_path / "tables.md").read_text() == done.stdout
