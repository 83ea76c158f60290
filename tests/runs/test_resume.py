"""Runs that are killed at any moment end like those that were not.

In one process, with untraced functions, at chosen moments; and, slowly, as the user starts them.
"""

import functools
import json
import os
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

from stugan_tf.runs.checkpoints import Checkpoints
from stugan_tf.runs.events import is_of_machine
from stugan_tf.runs.interruption import Interrupted
from stugan_tf.sparsity.exploration import Exploration
from tests.helpers import small, tracing
from tests.helpers.commands import SMALLEST
from tests.helpers.params import first_by_default
from tests.helpers.small import KilledError, killed, small_training, states

ROOT = pathlib.Path(__file__).parents[2]
STEPS = 4
EXPLORING = {
    "total_steps": STEPS,
    "generator_exploration": Exploration(update_interval=2, gradient_momentum=0.5),
    "discriminator_exploration": Exploration(update_interval=3),
}


class Acting:
    """An evaluator of every step that acts when it is called: that is how a moment is chosen."""

    metrics = {"constant": max}  # noqa: RUF012
    protocol = {"id": "acting"}  # noqa: RUF012

    def __init__(self, source, strategy, at=None, act=None):
        del source, strategy
        self._calls, self._at, self._act = 0, at, act

    def prepare(self):
        pass

    def __call__(self, gan):
        del gan
        self._calls += 1
        if self._calls == self._at:
            self._act()
        return {"constant": 1.0, "protocol": self.protocol}


def exploring(**acting):
    """A training of a few steps in which both topologies change."""
    return small_training(
        sparsities=(0.5, 0.3),
        algorithm=EXPLORING,
        log_every=1,
        checkpoint_every=2,
        sample_every=3,
        evaluator=functools.partial(Acting, **acting),
        evaluate_every=1,
    )


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """The workdir of such a training that was never killed."""
    workdir = tmp_path_factory.mktemp("straight") / "run"
    with tracing.untraced():
        exploring().run(workdir, "")
    return workdir


def assert_same_as(straight, workdir):
    assert list(states(workdir)) == list(states(straight))
    for step, state in states(straight).items():
        small.assert_same_state(states(workdir)[step], state)
    assert_same_log_and_pictures(workdir, straight)


@pytest.mark.budget(10, "The one kill and resumption of every day.")
@pytest.mark.usefixtures("untraced")
@pytest.mark.parametrize(
    "when",
    first_by_default(lambda _, step, *rest: step == 2, lambda _, step, *rest: step == STEPS),
    ids=["after a checkpoint", "at the very end"],
)
def test_a_run_killed_as_it_saves_ends_like_an_uninterrupted_one(
    when, straight, tmp_path, monkeypatch
):
    with killed(monkeypatch, Checkpoints, "save", when):
        exploring().run(tmp_path, "")
    exploring().run(tmp_path, "")
    assert_same_as(straight, tmp_path)


@pytest.mark.ci
@pytest.mark.usefixtures("untraced")
def test_a_run_killed_between_checkpoints_takes_the_lost_steps_again(straight, tmp_path):
    def kill():
        raise KilledError

    with pytest.raises(KilledError):
        exploring(at=4, act=kill).run(tmp_path, "")
    # The log and the samples of step 3, which is lost, are there already.
    assert max(states(tmp_path)) == 2
    assert [line["step"] for line in metrics(tmp_path)] == [1, 2, 3]
    exploring().run(tmp_path, "")
    assert_same_as(straight, tmp_path)


@pytest.mark.ci
@pytest.mark.usefixtures("untraced")
def test_a_signal_saves_where_no_checkpoint_was_due(straight, tmp_path):
    handlers = [signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGINT)]
    with pytest.raises(Interrupted) as interrupted:
        exploring(at=3, act=lambda: os.kill(os.getpid(), signal.SIGTERM)).run(tmp_path, "")
    assert interrupted.value.exit_code == 128 + signal.SIGTERM
    assert max(states(tmp_path)) == 3
    assert [signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGINT)] == handlers
    exploring().run(tmp_path, "")
    small.assert_same_state(states(tmp_path)[STEPS], states(straight)[STEPS])
    assert_same_log_and_pictures(tmp_path, straight)


@pytest.mark.ci
@pytest.mark.usefixtures("untraced")
def test_a_damaged_newest_checkpoint_is_trained_again(straight, tmp_path, caplog):
    workdir = shutil.copytree(straight, tmp_path / "run")
    newest = sorted((workdir / "checkpoints").iterdir())[-1]
    data = next(newest.glob("state.data*"))
    data.write_bytes(data.read_bytes()[:1000])
    exploring().run(workdir, "")
    assert "is damaged" in caplog.text
    assert_same_as(straight, workdir)


def start(workdir, *parameters, method=None):
    command = [sys.executable, "-m", "stugan_tf.train", f"--gin_file={SMALLEST}"]
    command += [f"--gin_file={method}"] if method else []
    command += [f"--workdir={workdir}", *(f"--gin_param={p}" for p in parameters)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, cwd=ROOT, text=True, **pipes)  # It imports our networks.


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
    return [{k: v for k, v in line.items() if not is_of_machine(k)} for line in lines]


def assert_same_run(one, other):
    ours, theirs = final_state(one), final_state(other)
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        np.testing.assert_array_equal(value, theirs[name], err_msg=name)
    assert_same_log_and_pictures(one, other)


def assert_same_log_and_pictures(one, other):
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


@pytest.mark.slow
@pytest.mark.parametrize("num_kills", [1, 10])
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
    file = ROOT / "gin" / "methods" / f"{method}.gin"
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


@pytest.mark.slow
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
