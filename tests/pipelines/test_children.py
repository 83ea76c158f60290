"""Commands that a pipeline starts: their errors, and that they end when it does."""

import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from stugan_tf.errors import FailedRun, InputError
from stugan_tf.pipelines import children


@pytest.fixture
def module(tmp_path, monkeypatch):
    def write(text):
        (tmp_path / "some_command.py").write_text(text)
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))
        return "some_command"

    return write


def test_output_goes_to_the_log(module, tmp_path):
    name = module("import sys; print(sys.argv[1:])")
    for _ in range(2):
        children.run(name, ["--a=1 2"], log=tmp_path / "log.txt")
    assert (tmp_path / "log.txt").read_text() == "['--a=1 2']\n" * 2


def test_what_a_command_refuses_is_said_as_it_said_it(module, tmp_path):
    name = module("import sys; print('error: too\\nmany'); sys.exit(1)")
    with pytest.raises(InputError, match=r"^too\nmany$"):
        children.run(name, [], log=tmp_path / "log.txt")


def test_what_is_shown_is_in_the_log_too_and_errors_are_told_as_well(module, tmp_path, capsys):
    name = module("import sys; print('five'); sys.exit('error: six')")
    with pytest.raises(InputError, match=r"^six$"):
        children.run(name, [], log=tmp_path / "log.txt", show=True)
    assert sorted(capsys.readouterr().out.split()) == ["error:", "five", "six"]
    assert "five" in (tmp_path / "log.txt").read_text()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("raise ValueError('broken')", "broken"),
        ("import sys; sys.exit(143)", "ended with 143"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "SIGKILL"),
    ],
)
def test_other_ends_are_failures(module, tmp_path, text, message):
    with pytest.raises(FailedRun, match=message):
        children.run(module(text), [], log=tmp_path / "log.txt")


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child")
def test_a_command_is_asked_to_end_when_its_pipeline_is_killed(module, tmp_path):
    name = module(
        """
import pathlib, signal, sys, time
here = pathlib.Path(sys.argv[1])
def leave(*_):
    (here / "saved").write_text("")
    sys.exit(0)
signal.signal(signal.SIGTERM, leave)
(here / "started").write_text("")
time.sleep(60)
"""
    )
    call = f"children.run({name!r}, [{str(tmp_path)!r}], log={str(tmp_path / 'log.txt')!r})"
    command = [sys.executable, "-c", f"from stugan_tf.pipelines import children; {call}"]
    parent = subprocess.Popen(command, cwd=pathlib.Path(__file__).parents[2])
    assert _appears(tmp_path / "started")
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    assert _appears(tmp_path / "saved")


def _appears(path, seconds=120):
    end = time.monotonic() + seconds
    while not path.exists() and time.monotonic() < end:
        time.sleep(0.05)
    return path.exists()
