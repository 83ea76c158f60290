"""What stugan_tf/adapters/keras_internals.py relies on; see to that file if one of these fails."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from stugan_tf.adapters.keras_internals import (
    LocalOptimizer,
    add_layer,
    all_layers,
    class_description,
    forget_traces,
    functional,
    has_default_config,
    is_functional,
    is_rebuilt_from_layers,
    is_stateless,
    mark_default_config,
    nodes,
    own_weights,
    producer,
    save_as,
    set_path,
)

ADAPTER = "Keras has changed: adapt stugan_tf/adapters/keras_internals.py"


class Holder(layers.Layer):
    def __init__(self, held):
        super().__init__()
        self.held = held

    def call(self, inputs):
        return self.held(inputs)


class Subclassed(keras.Model):
    pass


@pytest.fixture
def model():
    inputs = keras.Input((3,))
    twice = layers.Dense(3, name="twice")
    return keras.Model(inputs, layers.Add(name="add")([twice(twice(inputs)), inputs]))


def test_layers_held_by_others_are_found_once():
    held = layers.Dense(3)
    model = keras.Sequential([keras.Input((3,)), Holder(held), Holder(held)])
    assert [layer for layer in all_layers(model) if type(layer) is layers.Dense] == [held], ADAPTER


def test_which_models_know_their_calls(model):
    sequential = keras.Sequential([keras.Input((3,)), layers.Dense(3)])
    assert functional(model) is model, ADAPTER
    assert is_functional(model), ADAPTER
    assert not is_functional(sequential), ADAPTER
    assert [type(node.operation) for node in nodes(functional(sequential))] == [layers.Dense]
    assert functional(keras.Sequential([layers.Dense(3)])) is None, ADAPTER
    assert functional(Subclassed()) is None, ADAPTER


def test_calls_come_in_order_with_what_enters_and_leaves_them(model):
    first, second, added = nodes(model)
    names = [node.operation.name for node in (first, second, added)]
    assert names == ["twice", "twice", "add"], ADAPTER
    assert first.input_tensors[0] is model.inputs[0], ADAPTER
    assert second.input_tensors[0] is first.outputs[0], ADAPTER
    assert [id(x) for x in added.input_tensors] == [id(second.outputs[0]), id(model.inputs[0])]
    other = keras.Input((3,))
    args, kwargs = first.arguments.fill_in({id(model.inputs[0]): other})
    assert args[0] is other, ADAPTER
    assert not kwargs, ADAPTER


def test_who_made_a_tensor_is_known_for_each_call_of_a_layer(model):
    first, second, added = nodes(model)
    for node in (first, second, added):
        operation, inputs = producer(node.outputs[0])
        assert operation is node.operation, ADAPTER
        assert [id(x) for x in inputs] == [id(x) for x in node.input_tensors], ADAPTER


class Descent(LocalOptimizer):
    def update_step(self, gradient, variable, learning_rate):
        self.assign(variable, variable - learning_rate * gradient)

    def get_config(self):
        return super().get_config()


def test_gradients_are_not_reduced_once_more():
    """Each replica gets the whole gradient; a sum over both would move twice as far."""
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    with strategy.scope():
        variables = [keras.Variable([1.0, 2.0]), keras.Variable([3.0])]
        optimizer = Descent(learning_rate=0.5)
        optimizer.build(variables)

    @tf.function
    def step():
        strategy.run(lambda: optimizer.apply([tf.constant([1.0, 0.0]), tf.constant([2.0])]))

    step()
    np.testing.assert_array_equal(variables[0], [0.5, 2.0], err_msg=ADAPTER)
    np.testing.assert_array_equal(variables[1], [2.0], err_msg=ADAPTER)
    assert [optimizer.index_of(variable) for variable in variables] == [0, 1], ADAPTER
    assert len({optimizer.key_of(variable) for variable in variables}) == 2, ADAPTER


def test_a_layer_has_weights_of_its_own():
    inputs = keras.Input((3,))
    outer = Holder(layers.Dense(3))
    outer(inputs)
    assert own_weights(outer) == [], ADAPTER
    assert [weight.name for weight in own_weights(outer.held)] == ["kernel", "bias"], ADAPTER


class FunctionalLike(keras.Model):
    """Keras describes it by its layers."""


class SelfDescribed(keras.Model):
    def get_config(self):
        return {}


def test_which_models_are_made_again_from_their_layers(model):
    sequential = keras.Sequential([keras.Input((3,)), layers.Dense(3)])
    like = FunctionalLike(model.inputs, model.outputs)
    for rebuilt in (model, sequential, like):
        assert is_rebuilt_from_layers(rebuilt), ADAPTER
    for other in (Subclassed(), SelfDescribed(), Holder(sequential), layers.Dense(3)):
        assert not is_rebuilt_from_layers(other), ADAPTER


def test_whether_keras_derives_a_configuration():
    assert has_default_config(Holder), ADAPTER
    assert not has_default_config(layers.Dense), ADAPTER
    derived = type("Derived", (Holder,), {"get_config": lambda self: Holder.get_config(self)})
    assert not has_default_config(derived), ADAPTER
    mark_default_config(derived.get_config)
    assert has_default_config(derived), ADAPTER


def test_a_built_layer_takes_one_more_and_stays_locked():
    outer, added = layers.Dense(3), layers.Dense(2)
    outer.build((None, 3))
    added.build((None, 3))
    add_layer(outer, "added", added)
    assert outer.added is added
    assert [variable.shape for variable in outer.variables] == [(3, 3), (3,), (3, 2), (2,)], ADAPTER
    with pytest.raises(ValueError, match="cannot add new elements of state"):
        outer.more = layers.Dense(1)


def test_a_variable_takes_a_path():
    variable = keras.Variable(np.zeros(2), name="mine")
    set_path(variable, "layer/mine")
    assert (variable.path, variable.name) == ("layer/mine", "mine"), ADAPTER


def test_a_step_is_traced_again_when_its_traces_are_forgotten(model):
    model.compile("sgd", "mse")
    model.train_on_batch(np.zeros((1, 3)), np.zeros((1, 3)))
    former = model.train_function
    forget_traces(model)
    model.train_on_batch(np.zeros((1, 3)), np.zeros((1, 3)))
    assert model.train_function is not former, ADAPTER


def test_where_variables_cannot_be_assigned():
    assert not is_stateless(), ADAPTER
    with keras.StatelessScope():
        assert is_stateless(), ADAPTER


@keras.saving.register_keras_serializable("adapter", "saved")
class Loading(layers.Layer):
    pass


def test_classes_are_described_and_saved_under_other_names():
    for kind in (layers.Dense, Loading):
        described = {**class_description(kind), "config": {**kind(**_sizes(kind)).get_config()}}
        assert type(keras.saving.deserialize_keras_object(described)) is kind, ADAPTER
    made = type("Made", (Loading,), {})
    save_as(made, "adapter>saved")
    saved = keras.saving.serialize_keras_object(made())
    assert type(keras.saving.deserialize_keras_object(saved)) is Loading, ADAPTER


def _sizes(kind):
    return {"units": 3} if kind is layers.Dense else {}
