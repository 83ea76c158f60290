"""Runs as the user starts them, killed at any moment."""

import json
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import tensorflow as tf

TINY = pathlib.Path(__file__).parents[1] / "helpers" / "tiny.gin"


def start(workdir, *parameters, method=None):
    command = [sys.executable, "-m", "stugan_tf.train", f"--gin_file={TINY}"]
    command += [f"--gin_file={method}"] if method else []
    command += [f"--workdir={workdir}", *(f"--gin_param={p}" for p in parameters)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process, code=0):
    out, err = process.communicate(timeout=300)
    assert process.returncode == code, err
    return out, err


def kill_after(process, workdir, num_lines, delay):
    """Kills once `num_lines` more log points are written."""
    path = workdir / "metrics.jsonl"
    lines = len(path.read_bytes().splitlines()) if path.exists() else 0
    while process.poll() is None:
        if path.exists() and len(path.read_bytes().splitlines()) >= lines + num_lines:
            break
        time.sleep(0.005)
    time.sleep(delay)
    process.kill()
    _, err = process.communicate()
    assert process.returncode in (0, -signal.SIGKILL), err


def final_state(workdir):
    newest = sorted((workdir / "checkpoints").iterdir())[-1]
    reader = tf.train.load_checkpoint(str(newest / "state"))
    return {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}


def metrics(workdir):
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k != "time"} for line in lines]


def assert_same_run(one, other):
    ours, theirs = final_state(one), final_state(other)
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        np.testing.assert_array_equal(value, theirs[name], err_msg=name)
    assert metrics(one) == metrics(other)
    pictures = [sorted(d.joinpath("samples").iterdir()) for d in (one, other)]
    assert [p.name for p in pictures[0]] == [p.name for p in pictures[1]]
    for mine, their in zip(*pictures, strict=True):
        assert mine.read_bytes() == their.read_bytes()


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("uninterrupted") / "run"
    finish(start(workdir))
    return workdir


@pytest.mark.parametrize("num_kills", [1, pytest.param(10, marks=pytest.mark.slow)])
def test_a_run_killed_at_random_moments_ends_like_an_uninterrupted_one(
    num_kills, uninterrupted, tmp_path
):
    workdir = tmp_path / "run"
    random_moments = random.Random(num_kills)
    # Checkpoints and logs come so often that every start gets a little further.
    often = ["train.checkpoint_every = 2", "train.log_every = 5"]
    for _ in range(num_kills):
        process = start(workdir, *often)
        kill_after(process, workdir, 1, random_moments.uniform(0, 0.2))
    finish(start(workdir, *often))
    assert_same_run(workdir, uninterrupted)
    assert 1 <= len(json.loads((workdir / "run.json").read_text())["resumes"]) <= num_kills


ADAPT = [
    "BalanceRatio.every = 2",
    "BalanceRatio.window = 3",
    "Exploration.update_interval = 5",
    "generator/Exploration.update_interval = 5",
    "DensityAdjustment.update_interval = 4",
]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "settings"),
    [
        ("gmp_gd", ["GradualPruning.update_interval = 3"]),
        ("adapt_relaxed", ADAPT),
        ("adapt_strict", [*ADAPT, "generator/Exploration.drop_scores = @gradient_flow"]),
    ],
)
def test_a_killed_run_of_a_method_ends_like_an_uninterrupted_one(tmp_path, method, settings):
    file = pathlib.Path(__file__).parents[2] / "gin" / "methods" / f"{method}.gin"
    settings = [*settings, "Algorithm.total_steps = 30", "train.checkpoint_every = 2"]
    finish(start(tmp_path / "uninterrupted", *settings, method=file))
    for delay in (0.05, 0.2):
        process = start(tmp_path / "run", *settings, method=file)
        kill_after(process, tmp_path / "run", 1, delay)
    finish(start(tmp_path / "run", *settings, method=file))
    assert_same_run(tmp_path / "run", tmp_path / "uninterrupted")


@pytest.mark.slow
@pytest.mark.usefixtures("operations")
def test_a_killed_sparse_run_ends_like_an_uninterrupted_one(tmp_path):
    sparse = [
        "train.execution = 'sparse'",
        "MaskedAdam.moments = 'active'",
        "generator/Exploration.gradient_momentum = 0.0",
        "Algorithm.total_steps = 20",
        "train.checkpoint_every = 2",
    ]
    finish(start(tmp_path / "uninterrupted", *sparse))
    process = start(tmp_path / "run", *sparse)
    kill_after(process, tmp_path / "run", 1, 0.05)
    _, err = finish(start(tmp_path / "run", *sparse))
    assert "kernels are not used" not in err
    assert_same_run(tmp_path / "run", tmp_path / "uninterrupted")


def test_a_signal_saves_and_the_next_start_goes_on(uninterrupted, tmp_path):
    workdir = tmp_path / "run"
    process = start(workdir, "train.checkpoint_every = 1000")
    while not (workdir / "metrics.jsonl").exists() or not metrics(workdir):
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    _, err = finish(process, code=128 + signal.SIGTERM)
    assert "SIGTERM: saved at step" in err
    finish(start(workdir))
    assert_same_run(workdir, uninterrupted)


@pytest.mark.slow
def test_a_damaged_newest_checkpoint_falls_back_to_the_one_before(uninterrupted, tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(uninterrupted, workdir)
    newest = sorted((workdir / "checkpoints").iterdir())[-1]
    data = next(newest.glob("state.data*"))
    data.write_bytes(data.read_bytes()[:1000])
    _, err = finish(start(workdir))
    assert "is damaged" in err
    assert "step 50: resumed" in err
    assert_same_run(workdir, uninterrupted)
