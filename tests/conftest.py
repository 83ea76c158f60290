"""Two logical CPU devices, so that every test process can hold a MirroredStrategy."""

import gc
import os
import runpy
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

import hypothesis
import pytest
import tensorflow as tf
import tensorflow_hub  # noqa: F401 - likewise
from absl.testing import flagsaver

import stugan_tf.command  # noqa: F401 - its flags must be there before any are saved
from stugan_tf import config
from stugan_tf.kernels import library

tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
)

# TensorFlow traces on first use, so the first example of a property takes far longer.
hypothesis.settings.register_profile("stugan_tf", deadline=None, derandomize=True)
hypothesis.settings.load_profile("stugan_tf")


@pytest.fixture(scope="session")
def mirrored():
    """One for all tests: a second one would number its collective operations as the first did."""
    return tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])


@pytest.fixture(scope="session")
def operations():
    """Skips what needs the operations where they cannot be had; that they do not compile fails."""
    try:
        return library.load()
    except library.KernelsUnavailableError as error:
        if "could not be" in str(error):
            raise
        pytest.skip(str(error))


@pytest.fixture
def untraced():
    """Spares tests of what happens around compiled functions the time of compiling them."""
    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


@pytest.fixture
def use(capfd, monkeypatch):
    """Runs a command like `python -m`, less the start of Python; returns code, stdout, stderr."""

    def run(command, flags):
        monkeypatch.setattr(sys, "argv", [command, *flags])
        with flagsaver.flagsaver(), pytest.raises(SystemExit) as end:
            runpy.run_module(f"stugan_tf.{command}", run_name="__main__")
        return end.value.code, *capfd.readouterr()

    yield run
    config.parse_gin()


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector):
    """A command that a test module imports leaves no flags behind for others of the same names."""
    del collector
    with flagsaver.flagsaver():
        return (yield)


def pytest_collection_finish():
    """What modules and libraries made is there to stay, and is not looked at again and again."""
    gc.freeze()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_teardown(nextitem):
    """After the last test nothing needs collecting, which would take minutes of what is left."""
    if nextitem is None:
        gc.freeze()
