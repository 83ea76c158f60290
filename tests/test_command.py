"""What a shell sees of a command: exit code, stderr, and no traceback for bad input."""

import errno
import os
import runpy
import subprocess
import sys

import gin
import pytest
from absl import flags
from absl.testing import flagsaver

from stugan_tf import command, config
from stugan_tf.errors import InputError


@gin.configurable(module="command_test")
def act(error=None):
    if error == "disk":
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/data/checkpoint")
    if error == "interrupt":
        raise KeyboardInterrupt
    if error == "input":
        raise InputError("`x` is wrong.")
    if error == "defect":
        raise ValueError("ours")


def main(_):
    config.parse_gin(flags.FLAGS.gin_file, flags.FLAGS.gin_param)
    act()


@pytest.fixture
def start(monkeypatch, capsys):
    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["act", *arguments])
        with flagsaver.flagsaver(), pytest.raises(SystemExit) as end:
            command.run(main)
        return end.value.code, capsys.readouterr().err

    yield run
    config.parse_gin()


def test_success_is_zero(start):
    assert start() == (0, "")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--gin_param=act.error = 'input'"], "error: `x` is wrong.\n"),
        (["--gin_param=act.eror = 1"], "Did you mean 'error'?\n"),
        (["--gin_file=no.gin"], "error: There is no gin file 'no.gin'"),
        (["--gin_param=act.error = 'disk'"], "left on device: '/data/checkpoint'. Free some"),
        (["act.error = 1"], "error: Unexpected arguments: act.error = 1."),
        (["--gin_files=x"], "Unknown command line flag 'gin_files'. Did you mean: gin_file"),
    ],
)
def test_bad_input_is_one_without_a_traceback(start, arguments, expected):
    code, errors = start(*arguments)
    assert code == 1
    assert expected in errors
    assert "Traceback" not in errors
    assert "In call to" not in errors


def test_an_interrupt_is_130(start):
    assert start("--gin_param=act.error = 'interrupt'") == (130, "interrupted\n")


def test_a_defect_keeps_its_traceback(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["act", "--gin_param=act.error = 'defect'"])
    with flagsaver.flagsaver(), pytest.raises(ValueError, match="ours"):
        command.run(main)


@pytest.mark.ci
def test_tensorflow_is_quiet():
    program = (
        "from stugan_tf import command\n"
        "with command.late_imports('a_module'):\n"
        "    import tensorflow as tf\n"
        "command.run(lambda _: print(int(tf.constant(1) + 1)))"
    )
    environment = {name: os.environ[name] for name in os.environ if name != "TF_CPP_MIN_LOG_LEVEL"}
    # In the cell of a notebook; the module is not there for every Python that it starts.
    environment["MPLBACKEND"] = "module://no_such_module.backend_inline"
    process = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=environment, check=True
    )
    assert (process.stdout, process.stderr) == ("2\n", "")


def test_a_package_that_cannot_be_imported_is_told_without_a_traceback(
    tmp_path, monkeypatch, capsys
):
    module = tmp_path / "needs.py"
    module.write_text(
        "from stugan_tf import command\n"
        "from stugan_tf.errors import InputError\n"
        "with command.late_imports(__name__):\n"
        "    raise InputError('Pipelines need Apache Beam.')\n"
    )
    monkeypatch.setattr(sys, "argv", ["needs"])
    with flagsaver.flagsaver(), pytest.raises(SystemExit) as end:
        runpy.run_path(str(module), run_name="__main__")
    assert end.value.code == 1
    assert capsys.readouterr().err == "error: Pipelines need Apache Beam.\n"


@pytest.mark.ci
def test_a_command_spares_what_keras_imports_for_others_and_still_can_import_it():
    program = (
        "import sys\n"
        "from stugan_tf import command\n"
        "with command.late_imports(__name__):\n"
        "    import keras\n"
        "def main(_):\n"
        "    assert not {'matplotlib', 'pandas', 'sklearn'} & set(sys.modules)\n"
        "    import sklearn.utils\n"
        "    print(sklearn.__name__, float(keras.ops.convert_to_tensor(2.0)))\n"
        "command.run(main)"
    )
    process = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert process.stdout == "sklearn 2.0\n"
