"""Telling about the work never ends the work: streams that cannot be written to."""

import errno
import io
import os
import subprocess
import sys

import pytest

from stugan_tf.progress import ProgressBar
from stugan_tf.telling import GuardedStream, say, standard_streams_guarded


class Failing(io.StringIO):
    """A stream whose next writes fail with an error."""

    def __init__(self, error, tty=False):
        super().__init__()
        self.error, self.tty = error, tty

    def write(self, text):
        if self.error is not None:
            raise self.error
        return super().write(text)

    def isatty(self):
        return self.tty


GONE = [OSError(errno.EPIPE, "gone"), OSError(errno.EIO, "no terminal"), ValueError("closed")]


@pytest.mark.parametrize("error", GONE, ids=["pipe", "terminal", "closed"])
@pytest.mark.parametrize("tty", [False, True], ids=["lines", "bar"])
def test_a_progress_whose_reader_is_gone_goes_on(monkeypatch, error, tty):
    monkeypatch.setattr(sys, "stderr", Failing(error, tty))
    with ProgressBar(10, "step", seconds=None) as bar:
        for _ in range(10):
            bar.advance(1)
            bar.show({"loss": 1.0})
            bar.message("step 1: done")
    say("finished")


def test_what_a_full_disk_drops_is_noted_and_later_lines_are_written():
    stream = Failing(OSError(errno.ENOSPC, "full"))
    guard = GuardedStream(stream)
    print("lost", file=guard)
    stream.error = None
    print("kept", file=guard)
    assert stream.getvalue() == "kept\n"
    assert guard.failure.errno == errno.ENOSPC


def test_what_an_encoding_lacks_is_escaped():
    file = io.BytesIO()
    stream = io.TextIOWrapper(file, "ascii")
    print("5 ± 1", file=GuardedStream(stream), flush=True)
    assert file.getvalue() == b"5 \\xb1 1\n"


def test_a_stream_that_was_closed_at_the_start_takes_everything(monkeypatch, capsys):
    monkeypatch.setattr(sys, "stderr", None)
    with standard_streams_guarded():
        print("nowhere", file=sys.stderr, flush=True)
        print("here")
        assert not sys.stderr.isatty()
    say("nowhere")
    assert capsys.readouterr().out == "here\n"


# A command as the package starts one, without TensorFlow.
PROGRAM = """
import sys, types
sys.modules["tensorflow"] = types.ModuleType("tensorflow")
sys.modules["stugan_tf.config"] = config = types.ModuleType("stugan_tf.config")
config.message_of = lambda error: None
import stugan_tf
stugan_tf.config = config
from stugan_tf import command
def main(_):
    for number in range(20000):
        print("line", number)
        print("line", number, file=sys.stderr)
    open(flags.FLAGS.done, "w").close()
from absl import flags
flags.DEFINE_string("done", None, "Path of a file that is made at the end.")
command.run(main, prints_result={prints_result})
"""


@pytest.mark.parametrize(
    ("shell", "prints_result", "code"),
    [
        ("{} 2>&1 | head -1 >/dev/null; exit ${{PIPESTATUS[0]}}", True, 0),
        ("{} 2>&1 >/dev/null | head -1 >/dev/null; exit ${{PIPESTATUS[0]}}", True, 0),
        ("{} 2>&- >&- <&-", True, 0),
        ("{} >/dev/full 2>&1", False, 0),
        ("{} >/dev/full 2>/dev/null", True, 1),
    ],
    ids=["head", "head of stderr", "closed", "full", "full, and it was the result"],
)
def test_a_command_does_its_work_whatever_happens_to_its_streams(
    tmp_path, shell, prints_result, code
):
    (tmp_path / "program.py").write_text(PROGRAM.format(prints_result=prints_result))
    command = f"{sys.executable} {tmp_path}/program.py --done={tmp_path}/done"
    environment = {**os.environ, "PYTHONPATH": os.getcwd()}
    result = subprocess.run(["bash", "-c", shell.format(command)], env=environment)
    assert (tmp_path / "done").exists()
    assert result.returncode == code
