"""Rules as plain data: what Keras saves with a model gives the same rule again."""

import functools
import json

import keras
import pytest
import tensorflow as tf

from stugan_tf.errors import InputError
from stugan_tf.sparsity.criteria import criterion, random_scores, taylor_expansion
from stugan_tf.sparsity.density_adjustment import DensityAdjustment
from stugan_tf.sparsity.exploration import Exploration
from stugan_tf.sparsity.pruning import GradualPruning, constant_sparsity
from stugan_tf.sparsity.rule import PeriodicRule, TopologyRule
from stugan_tf.sparsity.schedules import linear_drop_fraction
from stugan_tf.sparsity.settings import from_plain, to_plain
from stugan_tf.sparsity.topology import prune_and_regrow_bernoulli, prune_globally


def saved_and_read(rule):
    """Through the file that Keras writes."""
    text = json.dumps(keras.saving.serialize_keras_object(rule))
    return keras.saving.deserialize_keras_object(json.loads(text))


@keras.saving.register_keras_serializable("tests")
@criterion(gradient="none")
def own_scores(weight, gradient, seed):
    return tf.square(weight)


@pytest.mark.parametrize(
    "rule",
    [
        Exploration(),
        Exploration(update_interval=7, start=3, stop=50, gradient_momentum=0.5),
        Exploration(grow_scores=random_scores, update=prune_and_regrow_bernoulli),
        Exploration(drop_scores=taylor_expansion, drop_fraction=linear_drop_fraction),
        Exploration(drop_scores=own_scores),
        DensityAdjustment(increment=0.125, max_density=0.5, explores_at_max=True),
        GradualPruning(schedule=constant_sparsity, update=prune_globally),
    ],
)
def test_a_saved_rule_is_the_same_rule(rule):
    assert saved_and_read(rule) == rule


def test_a_partial_function_keeps_its_arguments():
    partial = functools.partial(linear_drop_fraction, initial=0.25, final=0.125)
    read = saved_and_read(Exploration(drop_fraction=partial)).drop_fraction
    assert read.func is linear_drop_fraction
    assert read.keywords == {"initial": 0.25, "final": 0.125}


@pytest.mark.parametrize("value", [None, True, 3, 0.1, "x", (1, (2.5, None)), [[1], "y"]])
def test_plain_values_stay(value):
    assert from_plain(json.loads(json.dumps(to_plain("setting", value)))) == value


def test_a_registered_rule_of_a_user_is_read_again():
    @keras.saving.register_keras_serializable("tests")
    class Rare(PeriodicRule):
        drop_scores = staticmethod(taylor_expansion)
        update = amount = None

    assert type(saved_and_read(Rare(update_interval=5))) is Rare
    assert saved_and_read(Rare(update_interval=5)).update_interval == 5


def test_what_cannot_be_found_again_is_not_saved():
    rule = Exploration(drop_fraction=lambda progress: 0.5)
    with pytest.raises(InputError, match=r"Exploration.drop_fraction = a lambda cannot be saved"):
        rule.get_config()

    def local(progress):
        return 0.5

    with pytest.raises(InputError, match=r"= @local cannot be saved"):
        Exploration(drop_fraction=functools.partial(local)).get_config()


def test_a_rule_with_state_of_unknown_origin_is_not_saved():
    class Odd(TopologyRule):
        is_due = amount = update = None

        def __init__(self, speed):
            self.rate = 2 * speed

    with pytest.raises(InputError, match=r"nothing says which of rate its constructor takes"):
        Odd(1).get_config()


@pytest.mark.parametrize(
    "name",
    [
        "os:system",
        "stugan_tf.files:write_text",
        "stugan_tf.sparsity.settings:importlib",
        "stugan_tf.sparsity.settings:keras",
        "stugan_tf.sparsity.nowhere:nothing",
        "stugan_tf.sparsity.criteria:check_function",
        "magnitude",
    ],
)
def test_a_name_in_a_file_leads_nowhere_else(name):
    with pytest.raises(InputError, match="is not known here"):
        from_plain({"kind": "name", "name": name})
