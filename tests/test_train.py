"""The command `train`: what it looks at first."""

import shlex

import gin
import pytest

import stugan_tf.command
import stugan_tf.evaluation.evaluator
import stugan_tf.models
import stugan_tf.runs.loop  # noqa: F401 - registers with gin, which a parsed file forbids
from tests.helpers.commands import SMALLEST


@gin.configurable(module="train_test", denylist=["image_shape"])
def unbuildable(image_shape):
    raise AssertionError("The networks were built.")


def of_absent_data(folder, *bindings):
    """Flags of a training on ImageNet, which nobody has put into the folder."""
    bindings = (
        "data.source = @imagenet2012()",
        f"imagenet2012.data_dir = '{folder}'",
        "imagenet2012.image_size = 8",
        *bindings,
    )
    return [f"--gin_file={SMALLEST}", *(f"--gin_param={binding}" for binding in bindings)]


@pytest.mark.parametrize("dry_run", [False, True])
def test_data_that_are_absent_are_told_before_networks_are_built(use, tmp_path, dry_run):
    flags = of_absent_data(tmp_path / "tfds", "GAN.generator = @unbuildable")
    flags += ["--dry_run"] if dry_run else [f"--workdir={tmp_path / 'run'}"]
    code, _, errors = use("train", flags)
    assert code == 1
    assert "imagenet2012 is not prepared in" in errors
    assert "Run `tfds build imagenet2012`" in errors
    assert ("The plan needs no data: stugan report " in errors) == dry_run
    assert not (tmp_path / "run").exists()


def test_the_plan_without_data_is_the_command_that_is_offered(use, tmp_path):
    _, _, errors = use("train", [*of_absent_data(tmp_path / "tfds"), "--dry_run"])
    program, command, *flags = shlex.split(errors.partition("The plan needs no data: ")[2])
    assert program == "stugan"
    code, plan, errors = use(command, flags)
    assert code == 0, errors
    assert "60 steps, each of 2 discriminator updates" in plan
