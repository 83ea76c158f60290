"""Checkpoints of format 1 are read, and their runs go on as if nothing had changed."""

import json
import shutil

import numpy as np
import pytest
import tensorflow as tf

from stugan_tf.data import digits
from stugan_tf.errors import InputError
from stugan_tf.runs.checkpoints import Checkpoints, names_by_position
from stugan_tf.runs.loop import Training
from tests.helpers import former_run


def training(**settings):
    strategy = tf.distribute.OneDeviceStrategy("CPU:0")
    gan, algorithm = former_run.gan, former_run.algorithm
    settings = {**former_run.settings, **settings}
    return Training(digits(), strategy, gan, algorithm, seed=3, **settings)


def values(folder, step, state):
    Checkpoints(folder, state).restore(step)
    return {name: variable.numpy() for name, variable in state.items()}


@pytest.mark.ci
@pytest.mark.usefixtures("untraced")
def test_a_run_goes_on_to_the_weights_that_the_former_version_reached(tmp_path):
    """From step 3 to step 4, over topology updates of both networks.

    Masks and counts are the same. Numbers are the same but for Adam's epsilon, which the former
    version added before the correction of the moments.
    """
    (tmp_path / "config.gin").write_text("Algorithm.length = 1\nAlgorithm.total_steps = 5\n")
    shutil.copytree(former_run.FOLDER / "step_00000003", tmp_path / "checkpoints" / "step_00000003")
    run = training()
    run.run(tmp_path, "Algorithm.total_steps = 5\n")
    assert not (tmp_path / "checkpoints" / "step_00000000").exists()
    ours = values(tmp_path / "checkpoints", 4, run.state())
    written = json.loads((tmp_path / "checkpoints/step_00000004/checkpoint.json").read_text())
    assert written["format"] == 2
    theirs = values(former_run.FOLDER, 4, run.state())
    before = values(former_run.FOLDER, 3, run.state())
    for name, value in theirs.items():
        close = 1e-5 if np.issubdtype(value.dtype, np.floating) and "mask" not in name else 0
        np.testing.assert_allclose(ours[name], value, rtol=close, atol=close / 10, err_msg=name)
    for name in ("generator/conv2d/kernel_mask", "discriminator/spectral_conv2d/kernel_mask"):
        assert np.any(theirs[name] != before[name]), name


@pytest.fixture(scope="module")
def state():
    return training().state()


def test_each_variable_is_read_from_its_former_position(state):
    """A sample of the table, by hand: the order of the variables in the former version."""
    former = names_by_position(state)
    assert len(set(former.values())) == len(former)
    expected = {
        "generator/first/kernel": "generator/000",
        "generator_optimizer/iteration": "generator_optimizer/000",
        "averaged/first/bias": "averaged/001",
        "averaged_seen/conv2d_1/kernel": "averaged_seen/001",
        "topology/generator/ever_active/conv2d_1/kernel": "exploration/generator/001",
        "topology/generator/growth_gradient/conv2d/kernel": "exploration/generator/002",
        "topology/discriminator/ever_active/c1/kernel": "exploration/discriminator/000",
        "metrics/generator": "metrics/generator",
        "balance/window": "balance/window",
        "attempt": "attempt",
    }
    assert expected.items() <= former.items()


def test_names_do_not_depend_on_what_was_built_before(state):
    assert training().state().keys() == state.keys()


def test_one_of_another_model_is_refused_with_the_paths_of_today(state):
    other = {name: variable for name, variable in state.items() if "c1" not in name}
    other["discriminator/c1/kernel"] = tf.Variable(tf.zeros([3, 3, 1, 5]))
    with pytest.raises(InputError, match=r"step_00000003 is of another model: \d+ variables dif"):
        Checkpoints(former_run.FOLDER, other).restore(3)
    changed = {**state, "generator/first/bias": tf.Variable(tf.zeros([16]))}
    message = r"The first is generator/first/bias, with shape \(32,\) there and shape \(16,\) here"
    with pytest.raises(InputError, match=message):
        Checkpoints(former_run.FOLDER, changed).restore(3)
