"""A run may get another length where its past would have been the same."""

import json

import numpy as np
import pytest

from stugan_tf.errors import InputError
from stugan_tf.runs.lengthening import check_past
from stugan_tf.runs.workdir import bindings_of, settle, total_steps_of
from stugan_tf.sparsity.density_adjustment import DensityAdjustment
from stugan_tf.sparsity.exploration import Exploration
from stugan_tf.sparsity.pruning import GradualPruning
from stugan_tf.sparsity.schedules import (
    constant_drop_fraction,
    cosine_drop_fraction,
    linear_drop_fraction,
)
from stugan_tf.training.algorithm import Algorithm
from stugan_tf.training.balance import BalanceRatio
from tests.helpers.small import small_training, states


def algorithm(total_steps, rule=None, **settings):
    return Algorithm(total_steps=total_steps, generator_exploration=rule, **settings)


def own_length(total_steps, update_interval):
    """A schedule of tfmot that does not ask how long the training is."""

    def schedule(steps):
        steps = np.asarray(steps)
        return steps % update_interval == 0, np.minimum(steps / 40, 0.5).astype(np.float32)

    return schedule


def of_the_training(total_steps, update_interval):
    def schedule(steps):
        steps = np.asarray(steps)
        return steps % update_interval == 0, (0.5 * steps / total_steps).astype(np.float32)

    return schedule


@pytest.mark.parametrize(
    ("rule", "done"),
    [
        (None, 20),
        (Exploration(update_interval=5, drop_fraction=constant_drop_fraction), 19),
        (Exploration(update_interval=6, drop_fraction=constant_drop_fraction), 20),
        (Exploration(update_interval=5, drop_fraction=cosine_drop_fraction), 4),
        (Exploration(update_interval=5, drop_fraction=constant_drop_fraction, stop=12), 20),
        (GradualPruning(schedule=own_length, update_interval=5), 20),
        (DensityAdjustment(update_interval=3), 20),
    ],
)
def test_what_does_not_go_by_the_length_goes_on(rule, done):
    check_past(algorithm(40, rule, balance_ratio=BalanceRatio()), 20, done)


@pytest.mark.parametrize(
    ("rule", "done", "told"),
    [
        (Exploration(update_interval=5, drop_fraction=cosine_drop_fraction), 5, "at step 5, one"),
        (Exploration(update_interval=5, drop_fraction=linear_drop_fraction), 19, "at step 5, one"),
        # The last step of the shorter training is none for an update.
        (
            Exploration(update_interval=5, drop_fraction=constant_drop_fraction),
            20,
            "at step 20, .* has no topology update in a training of 20 steps",
        ),
        (GradualPruning(schedule=of_the_training, update_interval=5), 5, "0.125 .* and .* 0.0625"),
        (
            DensityAdjustment(update_interval=3, explores_at_max=True, max_density=0.5),
            3,
            "DensityAdjustment depends on it: at step 3",
        ),
    ],
)
def test_a_rule_that_would_have_done_something_else_is_named(rule, done, told):
    longer = algorithm(40, rule, balance_ratio=BalanceRatio())
    with pytest.raises(InputError, match=f"was 20 and is 40, but the generator's .*{told}"):
        check_past(longer, 20, done)


def config(total_steps, *lines):
    return "\n".join([f"Algorithm.total_steps = {total_steps}", "GAN.x = 1", *lines])


@pytest.mark.parametrize(
    ("former", "longer", "steps"),
    [
        (config(4), config(8), 4),
        (config(4, "longer.factor = 2"), config(4, "longer.factor = 5"), 8),
        (config("%steps", "steps = 4"), config("%steps", "steps = 8"), 4),
    ],
)
def test_a_configuration_of_another_length_is_known(tmp_path, former, longer, steps):
    settle(tmp_path, former)
    assert settle(tmp_path, former, any_length=True) is None
    assert settle(tmp_path, longer, any_length=True) == former
    assert total_steps_of(former) == steps
    assert (tmp_path / "config.gin").read_text() == former  # The check of the past comes first.
    with pytest.raises(InputError, match="another configuration"):
        settle(tmp_path, longer)


@pytest.mark.parametrize(
    ("former", "other"),
    [
        (config(4, "linear_decay.updates = 4"), config(8, "linear_decay.updates = 8")),
        # A macro that decides something else, too.
        (
            config("%steps", "linear_decay.updates = %steps", "steps = 4"),
            config("%steps", "linear_decay.updates = %steps", "steps = 8"),
        ),
    ],
)
def test_a_learning_rate_that_decays_otherwise_is_another_configuration(tmp_path, former, other):
    settle(tmp_path, former)
    with pytest.raises(InputError, match=r"(?s)another configuration.*- .* = 4.*\+ .* = 8"):
        settle(tmp_path, other, any_length=True)


def test_bindings_are_read_as_they_are_written():
    text = (
        "# A comment\nimport some.module\nsteps = 4\ntrain.trackers = \\\n    [@A(),\n     @B()]\n"
    )
    assert bindings_of(text) == {"steps": "4", "train.trackers": "[@A(), @B()]"}


def train(workdir, steps, **settings):
    training = small_training(
        sparsities=(0.5, 0.5), algorithm={"total_steps": steps, **settings}, sample_every=100
    )
    training.run(workdir, config(steps))
    return training


@pytest.mark.ci
@pytest.mark.usefixtures("untraced")
def test_a_lengthened_run_ends_like_one_that_was_always_as_long(tmp_path):
    train(tmp_path / "lengthened", 1)
    train(tmp_path / "lengthened", 2)
    train(tmp_path / "straight", 2)
    one, other = (states(tmp_path / name)[2] for name in ("lengthened", "straight"))
    for name, value in one.items():
        np.testing.assert_array_equal(value, other[name], err_msg=name)
    assert (tmp_path / "lengthened" / "config.gin").read_text() == config(2)
    manifest = json.loads((tmp_path / "lengthened" / "run.json").read_text())
    assert manifest["resumes"][0]["total_steps"] == {"before": 1, "after": 2}
    assert manifest["finished"]["step"] == 2

    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file() and p.name != ".lock"}
    with pytest.raises(InputError, match=r"at step 2, which is more than .*total_steps = 1"):
        train(tmp_path / "lengthened", 1)
    assert {p: p.read_bytes() for p in before} == before


@pytest.mark.ci
@pytest.mark.usefixtures("untraced")
def test_a_refused_length_leaves_the_run_as_it_was(tmp_path):
    rule = {"generator_exploration": Exploration(update_interval=2)}
    train(tmp_path, 3, **rule)
    with pytest.raises(InputError, match="the generator's Exploration depends on it: at step 2"):
        train(tmp_path, 6, **rule)
    assert (tmp_path / "config.gin").read_text() == config(3)
    train(tmp_path, 3, **rule)  # It is as it was.
