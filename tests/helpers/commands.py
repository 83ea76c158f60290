"""Commands run within this process, and the smallest run that they can be tried on."""

import contextlib
import io
import pathlib
import runpy
import sys

import pytest
from absl.testing import flagsaver

from stugan_tf import config

TINY = pathlib.Path(__file__).with_name("tiny.gin")
SMALLEST = pathlib.Path(__file__).with_name("smallest.gin")
# As little as can be trained.
STATIC = (
    "Algorithm.total_steps = 1",
    "Algorithm.generator_exploration = None",
    "Algorithm.discriminator_exploration = None",
)


def call(module, *flags):
    """Like `python -m`, less the start of Python: exit code, what was printed, what was wrong."""
    output, errors = io.StringIO(), io.StringIO()
    with (
        pytest.MonkeyPatch.context() as patch,
        flagsaver.flagsaver(),
        contextlib.redirect_stdout(output),
        contextlib.redirect_stderr(errors),
    ):
        patch.setattr(sys, "argv", [module, *map(str, flags)])
        with pytest.raises(SystemExit) as end:
            runpy.run_module(f"stugan_tf.{module}", run_name="__main__")
    config.parse_gin()
    return end.value.code, output.getvalue(), errors.getvalue()


def train(workdir, *bindings, gin_file=SMALLEST):
    """Trains a run with these bindings; returns its workdir."""
    parameters = [f"--gin_param={binding}" for binding in bindings]
    code, _, errors = call("train", f"--gin_file={gin_file}", *parameters, f"--workdir={workdir}")
    assert code == 0, errors
    return workdir
