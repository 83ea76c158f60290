"""The declared requirements, the lock and what goes into the wheel agree."""

import configparser
import pathlib

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from setuptools import find_namespace_packages, find_packages

ROOT = pathlib.Path(__file__).parents[1]
SETUP = configparser.ConfigParser()
SETUP.read(ROOT / "setup.cfg")


def requirements(text):
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [Requirement(line) for line in lines]


def with_extras(lines):
    """Requirements and those of the extras of ours that they name."""
    for requirement in requirements(lines):
        yield requirement
        if requirement.name == "stugan_tf":
            for extra in requirement.extras:
                yield from with_extras(SETUP["options.extras_require"][extra])


@pytest.mark.parametrize("minor", [10, 11, 12, 13])
def test_the_lock_pins_every_requirement_within_its_bounds(minor):
    environment = {
        "python_version": f"3.{minor}",
        "python_full_version": f"3.{minor}.0",
        "sys_platform": "linux",
    }
    pins = {
        canonicalize_name(pin.name): next(iter(pin.specifier)).version
        for pin in requirements((ROOT / "constraints.txt").read_text())
        if pin.marker is None or pin.marker.evaluate(environment)
    }
    # What nobody needs to develop, such as Weights & Biases, is not locked.
    declared = SETUP["options"]["install_requires"] + SETUP["options.extras_require"]["dev"]
    for requirement in with_extras(declared):
        if requirement.name != "stugan_tf":
            assert pins[canonicalize_name(requirement.name)] in requirement.specifier


def test_every_folder_with_code_is_a_package_and_gin_is_none():
    # A folder without `__init__.py` works in a checkout and is missing from the wheel.
    packages = find_packages(ROOT, include=["stugan_tf*"])
    assert packages == find_namespace_packages(ROOT, include=["stugan_tf*"])
    assert not list((ROOT / "gin").rglob("*.py"))


@pytest.mark.parametrize(
    "package",
    [
        "stugan_tf",
        "stugan_tf.kernels",
        "stugan_tf.evaluation.digits_classifier",
        "stugan_tf.experiments",
        "stugan_tf.serving.web",
    ],
)
def test_every_file_that_is_not_python_is_in_the_wheel(package):
    folder = ROOT / package.replace(".", "/")
    patterns = SETUP["options.package_data"][package].split()
    packed = {path for pattern in patterns for path in folder.glob(pattern)}
    assert packed == {path for path in folder.iterdir() if path.suffix not in (".py", "")}
