"""The command that scores checkpoints, from end to end."""

import json
import re
import shutil
import subprocess
import sys
import time

import pytest
from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator
from tensorboard.util import tensor_util

from stugan_tf.evaluation import records
from stugan_tf.runs.checkpoints import Checkpoints
from tests.helpers.commands import SMALLEST, train

SCORES = (
    "Evaluator.extractor = @digits_classifier",
    "Evaluator.metrics = ['fid', 'inception_score']",
    "Evaluator.num_images = 70",
    "Evaluator.num_splits = 2",
)


def flags_of(*bindings):
    return [f"--gin_param={binding}" for binding in bindings]


@pytest.fixture(scope="module")
def scored_run(tmp_path_factory):
    """The workdir of a run of 20 steps with scores at steps 10 and 20."""
    folder = tmp_path_factory.mktemp("evaluate")
    cache = f"Evaluator.cache_dir = '{folder / 'cache'}'"
    scores = ("train.evaluator = @Evaluator", "train.evaluate_every = 10", "train.best_by = 'fid'")
    return train(folder / "run", "Algorithm.total_steps = 20", *scores, *SCORES, cache)


@pytest.fixture
def workdir(scored_run, tmp_path):
    return shutil.copytree(scored_run, tmp_path / "run")


@pytest.fixture
def evaluate(use, workdir):
    """Runs the command; returns what it printed of steps: {step: {score or "protocol": text}}."""

    def run(*flags):
        code, output, errors = use("evaluate", [f"--workdir={workdir}", *flags])
        assert code == 0, errors
        return printed(output), output, errors

    return run


def printed(output):
    steps = {}
    for step, scores, protocol in re.findall(r"step (\d+): (.*?)  \(.* protocol (\w+)\)", output):
        names_and_texts = scores.split()
        found = dict(zip(names_and_texts[::2], names_and_texts[1::2], strict=True))
        steps[int(step)] = {**found, "protocol": protocol}
    return steps


def plain(record):
    return {name: value for name, value in record.items() if name != "time"}


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def curve(folder, tag):
    events = EventAccumulator(str(folder))
    events.Reload()
    return {
        event.step: float(tensor_util.make_ndarray(event.tensor_proto))
        for event in events.Tensors(tag)
    }


@pytest.mark.ci
def test_what_is_scored_anew_is_as_the_training_scored_it(workdir, evaluate):
    before = contents(workdir)
    trained = {record["step"]: plain(record) for record in records.read(workdir)}
    steps, _, _ = evaluate("--checkpoint=all")
    assert list(steps) == [0, 10, 20]
    found = {record["step"]: record for record in records.read(workdir)}
    assert {step: plain(found[step]) for step in trained} == trained
    protocol = found[0]["protocol"]["id"]
    for step, texts in steps.items():
        assert texts.pop("protocol") == protocol
        assert texts == {
            name: f"{value:.5g}" for name, value in found[step].items() if name in texts
        }
    for name in ("fid", "inception_score"):
        drawn = curve(workdir / "tensorboard" / f"evaluation_{protocol}", f"evaluation/{name}")
        assert drawn == {step: pytest.approx(found[step][name]) for step in steps}
    # A training may be at work there: nothing of it changes, and its log only grows.
    log = workdir / "evaluations.jsonl"
    after = contents(workdir)
    assert after[log].startswith(before.pop(log))
    assert {path: after[path] for path in before} == before


FEW = flags_of("Evaluator.metrics = ['inception_score']", "Evaluator.num_images = 2")


@pytest.mark.ci
@pytest.mark.usefixtures("untraced")
def test_the_latest_and_a_step(evaluate):
    assert list(evaluate(*FEW)[0]) == [20]
    assert list(evaluate("--checkpoint=10", *FEW)[0]) == [10]


@pytest.mark.ci
@pytest.mark.usefixtures("untraced")
def test_the_best(workdir, evaluate):
    best = min(records.read(workdir), key=lambda record: record["fid"])["step"]
    # Made the best by hand, so that it is not the latest.
    for step, score in ((10, 1.0), (20, 2.0)):
        path = workdir / "checkpoints" / f"step_{step:08d}" / "checkpoint.json"
        assert (json.loads(path.read_text())["score"] is None) == (step not in (10, 20))
        path.write_text(json.dumps({**json.loads(path.read_text()), "score": score}))
    assert best in (10, 20)
    assert list(evaluate("--checkpoint=best", *FEW)[0]) == [10]


@pytest.mark.ci
@pytest.mark.usefixtures("untraced")
def test_other_settings_are_another_protocol_and_not_compared(workdir, evaluate, use, tmp_path):
    (known,) = {record["protocol"]["id"] for record in records.read(workdir)}
    other = tmp_path / "other"
    other.mkdir()
    steps, _, _ = evaluate(*flags_of("Evaluator.seed = 1"))
    assert steps[20]["protocol"] != known
    newest = records.read(workdir)[-1]
    records.append(other, newest)
    code, output, _ = use("evaluate", [f"--compare={workdir}", f"--compare={other}"])
    assert code == 0
    table, settings = output.split("\n\n")
    assert [line.split()[:3] for line in table.splitlines()[1:]] == [
        [str(folder), which, "20"] for folder in (workdir, other) for which in ("newest", "best")
    ]
    assert f"{newest['fid']:.5g}" in table
    assert "generated.seed: 1" in settings
    (other / "evaluations.jsonl").unlink()
    newest["protocol"]["generated"]["seed"] = 2
    newest["protocol"].pop("id")
    records.append(other, newest)
    code, _, errors = use("evaluate", [f"--compare={workdir}", f"--compare={other}"])
    assert code == 1
    assert "generated.seed: 1 and 2" in errors


@pytest.mark.ci
@pytest.mark.usefixtures("untraced")
def test_truncations_make_a_curve(workdir, evaluate):
    _, output, _ = evaluate("--truncation=0.5", "--truncation=1.5")
    assert output.startswith("truncation 0.5, step 20: fid ")
    picture = workdir / "evaluations" / "truncation_00000020.png"
    assert str(picture) in output
    assert picture.read_bytes().startswith(b"\x89PNG")
    truncations = {r["protocol"]["generated"]["truncation"] for r in records.read(workdir)}
    assert truncations == {None, 0.5, 1.5}


@pytest.mark.ci
@pytest.mark.usefixtures("untraced")
def test_neighbours_make_a_picture(workdir, evaluate):
    _, output, _ = evaluate("--neighbors=3", "--checkpoint=10")
    assert (workdir / "evaluations" / "neighbors_00000010.png").exists()
    assert "generated images on the left" in output


@pytest.mark.ci
@pytest.mark.usefixtures("untraced")
def test_watching_scores_what_has_no_record_and_is_still_there(workdir, evaluate, monkeypatch):
    assert list(evaluate("--watch")[0]) == [0]
    assert evaluate("--watch")[0] == {}
    restore = Checkpoints.restore

    def removed_meanwhile(self, step):
        if step == 10:
            shutil.rmtree(workdir / "checkpoints" / f"step_{step:08d}")
        restore(self, step)

    monkeypatch.setattr(Checkpoints, "restore", removed_meanwhile)
    steps, _, errors = evaluate("--watch", *flags_of("Evaluator.seed = 1"))
    assert list(steps) == [0, 20]
    assert "step 10: the run has removed this checkpoint" in errors


@pytest.fixture
def stopped(workdir):
    """The run, as it is after a process that trained it was killed."""
    record = json.loads((workdir / "run.json").read_text())
    del record["finished"]
    (workdir / "run.json").write_text(json.dumps(record))
    return workdir


@pytest.mark.ci
@pytest.mark.usefixtures("untraced")
def test_a_watch_ends_when_nobody_trains_the_run(stopped, use, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda _: None)
    flags = [f"--workdir={stopped}", *FEW, "--watch", "--watch_minutes=0.0001"]
    code, output, errors = use("evaluate", flags)
    assert code == 1
    assert list(printed(output)) == [0, 10, 20]
    assert "waiting for the run, which nobody trains: interrupted at step 20, unchanged" in errors
    assert f"error: Nobody has trained the run in {stopped} for 0.0001 minutes: interr" in errors


@pytest.mark.ci
@pytest.mark.usefixtures("untraced")
def test_a_watch_ends_when_the_run_is_gone(stopped, use, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda _: shutil.rmtree(stopped))
    code, _, errors = use("evaluate", [f"--workdir={stopped}", *FEW, "--watch"])
    assert code == 1
    assert f"error: The run in {stopped} is gone" in errors


@pytest.mark.slow
def test_a_watch_beside_a_training_scores_every_kept_checkpoint_once(tmp_path):
    workdir = tmp_path / "run"
    often = ("train.checkpoint_every = 1", "train.keep_checkpoints = 2")
    start = [sys.executable, "-m", "stugan_tf.train", f"--gin_file={SMALLEST}"]
    start += [f"--workdir={workdir}", *flags_of("Algorithm.total_steps = 400", *often)]
    cache = f"Evaluator.cache_dir = '{tmp_path / 'cache'}'"
    watch = [sys.executable, "-m", "stugan_tf.evaluate", f"--workdir={workdir}", "--watch"]
    watch += flags_of(*SCORES, cache)
    log = workdir / "evaluations.jsonl"
    training = subprocess.Popen(start, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    wait_until(lambda: (workdir / "checkpoints").exists(), training)
    with subprocess.Popen(watch, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as watching:
        wait_until(lambda: log.exists() and log.read_bytes().count(b"\n") >= 2, watching)
        watching.kill()
    killed_at = {record["step"] for record in records.read(workdir)}
    again = subprocess.run(watch, capture_output=True, text=True, timeout=600)
    assert again.returncode == 0, again.stderr
    _, errors = training.communicate()
    assert training.returncode == 0, errors
    steps = [json.loads(line)["step"] for line in log.read_text().splitlines()]
    assert len(set(steps)) == len(steps)
    assert not killed_at & printed(again.stdout).keys()
    kept = {int(path.name[-8:]) for path in (workdir / "checkpoints").glob("step_*")}
    assert kept == {399, 400}
    assert kept <= set(steps)


def wait_until(condition, process, seconds=300):
    """While the process lives."""
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.05)
