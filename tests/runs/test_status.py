"""The one answer to where a run stands, from files as they are left in each state."""

import json
import os
import platform
import subprocess
import sys

import pytest

from stugan_tf.errors import InputError
from stugan_tf.files import locked
from stugan_tf.runs import manifest
from stugan_tf.runs.status import (
    FAILED,
    FINISHED,
    INTERRUPTED,
    NOT_STARTED,
    RUNNING,
    Status,
    kept_steps,
    status_of,
)


def start(folder, *steps):
    folder.mkdir(parents=True, exist_ok=True)
    manifest.record_start(folder, 0, data={"fingerprint": "a"})
    for step in steps:
        (folder / "checkpoints" / f"step_{step:08d}").mkdir(parents=True)
    return folder


def write_phases(folder, **states):
    folder.mkdir(exist_ok=True)
    phases = [
        {"name": name, "state": state} | ({} if state == "waiting" else {"folder": name})
        for name, state in states.items()
    ]
    (folder / "phases.json").write_text(json.dumps({"phases": phases}))


def test_what_was_never_started(tmp_path):
    for folder in (tmp_path, tmp_path / "absent"):
        assert status_of(folder) == Status(NOT_STARTED, None, folder)
    assert not status_of(tmp_path).is_over


def test_a_run_goes_through_its_states(tmp_path):
    run = start(tmp_path / "run", 0, 10)
    assert status_of(run) == Status(INTERRUPTED, 10, run)
    with locked(run / ".lock", "run"):
        assert status_of(run) == Status(RUNNING, 10, run)
        assert str(status_of(run)) == "running at step 10"
    assert status_of(run).state == INTERRUPTED
    manifest.record_failure(run, "The loss was not finite.")
    failed = status_of(run)
    assert (failed.state, failed.step, failed.is_over) == (FAILED, 10, False)
    assert str(failed) == "failed at step 10: The loss was not finite."
    manifest.record_start(run, 10, data={"fingerprint": "a"})
    assert status_of(run).state == INTERRUPTED  # The failure is of the past.
    manifest.record_end(run, 10)
    assert status_of(run) == Status(FINISHED, 10, run)
    assert status_of(run).is_over
    assert status_of(run).keeps_its_end


def test_an_end_without_its_checkpoint_is_told_apart(tmp_path):
    run = start(tmp_path / "run", 0, 10)
    manifest.record_end(run, 20)
    assert status_of(run).is_over
    assert not status_of(run).keeps_its_end


@pytest.mark.parametrize(
    ("host", "state"), [(platform.node(), INTERRUPTED), ("elsewhere", RUNNING)]
)
def test_the_lock_of_a_killed_process_holds_nothing(tmp_path, host, state):
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    run = start(tmp_path / "run", 0)
    (run / ".lock").write_text(f"{process.pid} {host}")
    assert status_of(run).state == state


def test_looking_takes_no_lock(tmp_path):
    run = start(tmp_path / "run", 0)
    with locked(run / ".lock", "run"):
        status_of(run)
        assert (run / ".lock").read_text() == f"{os.getpid()} {platform.node()}"


def test_phases_are_over_when_all_of_them_are(tmp_path):
    folder = tmp_path / "phases"
    write_phases(folder, dense="waiting", sparse="waiting")
    assert status_of(folder).state == NOT_STARTED
    dense = start(folder / "dense", 0, 10)
    write_phases(folder, dense="started", sparse="waiting")
    assert status_of(folder) == Status(INTERRUPTED, 10, dense, "dense")
    manifest.record_end(dense, 10)
    write_phases(folder, dense="finished", sparse="waiting")
    assert status_of(folder) == Status(INTERRUPTED, 10, dense, "dense")
    with locked(folder / ".lock", "phases"):
        assert status_of(folder).state == RUNNING
    sparse = start(folder / "sparse", 0, 4)
    write_phases(folder, dense="finished", sparse="started")
    manifest.record_failure(sparse, "It was not finite.")
    assert status_of(folder).state == FAILED
    manifest.record_end(sparse, 4)
    write_phases(folder, dense="finished", sparse="finished")
    assert status_of(folder) == Status(FINISHED, 4, sparse, "sparse")
    assert str(status_of(folder)) == "sparse: finished at step 4"


def test_only_complete_checkpoints_count(tmp_path):
    for name in ("step_00000003", "step_100000000", ".writing_00000007", "step_7", "step_0000000x"):
        (tmp_path / name).mkdir()
    assert kept_steps(tmp_path) == [3, 100_000_000]


def test_a_status_is_read_without_tensorflow(tmp_path):
    start(tmp_path / "run", 0)
    program = (
        "import sys; from stugan_tf.runs.status import status_of;"
        f"print(status_of({str(tmp_path / 'run')!r}).state, 'tensorflow' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.strip() == "interrupted False", done.stderr


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        '{"phases": 1}',
        '{"phases": [{"name": "dense"}]}',
        '{"phases": [{"name": "dense", "state": "finished"}]}',
        '{"phases": [{"name": "dense", "state": "started", "folder": 1}]}',
        '{"phases": [{"name": "dense", "state": "waiting", "steps": null}]}',
        '{"phases": [{"name": "dense", "state": "waiting", "sparsity": {"generator": "0"}}]}',
        '{"phases": [{"name": "dense", "state": "waiting", "scores": {"fid": 3.0}}]}',
    ],
)
def test_damaged_phases_are_named(tmp_path, content):
    (tmp_path / "phases.json").write_text(content)
    with pytest.raises(InputError, match=r"phases.json is damaged: "):
        status_of(tmp_path)
