"""The private parts of Keras that the package relies on.

Keras has no public walk over the calls of a functional model or over layers inside custom layers.
Its optimizers reduce gradients over replicas by themselves. Layers that are built take no more
layers, and classes made at run time cannot be saved.
tests/adapters/test_keras_internals.py fails first when Keras changes them.
"""

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf
from keras.src.backend.common.stateless_scope import in_stateless_scope
from keras.src.models.functional import Functional, functional_like_constructor
from keras.src.saving.object_registration import GLOBAL_CUSTOM_NAMES
from keras.src.saving.serialization_lib import serialize_with_public_class
from keras.src.utils.python_utils import is_default


def all_layers(model: keras.layers.Layer) -> list[keras.layers.Layer]:
    """All layers inside a model, each once, with the layers inside other layers."""
    return list({id(layer): layer for layer in model._flatten_layers()}.values())


def is_functional(model: keras.Model) -> bool:
    """Whether a model was made from `keras.Input`s, so that its calls are known."""
    return hasattr(model, "_nodes_by_depth")


def functional(model: keras.Model) -> keras.Model | None:
    """The model itself if it is functional, the one inside if it is sequential, else None."""
    if isinstance(model, keras.Sequential):
        model = model._functional  # None before it knows its inputs
    return model if is_functional(model) else None


def nodes(graph: keras.Model) -> list[Any]:
    """The calls of a functional model in the order in which Keras makes them, without the inputs.

    Returns:
        Objects with `operation`, `input_tensors`, `outputs` and `arguments`.
    """
    return [
        node
        for depth in sorted(graph._nodes_by_depth, reverse=True)
        for node in graph._nodes_by_depth[depth]
        if not node.is_input
    ]


def own_weights(layer: keras.layers.Layer) -> list[keras.Variable]:
    """The weights of a layer itself, without those of layers inside it; frozen ones too."""
    return list(layer._trainable_variables)


def producer(tensor: keras.KerasTensor) -> tuple[Any, list]:
    """The layer that made a Keras tensor, and the input tensors of that call."""
    operation, node_index, _ = tensor._keras_history
    return operation, operation._inbound_nodes[node_index].input_tensors


def schedule_of(
    optimizer: keras.optimizers.Optimizer,
) -> keras.optimizers.schedules.LearningRateSchedule | None:
    """The schedule of the learning rate of an optimizer; None if the rate is a number."""
    rate = optimizer._learning_rate
    return rate if isinstance(rate, keras.optimizers.schedules.LearningRateSchedule) else None


def is_rebuilt_from_layers(layer: keras.layers.Layer) -> bool:
    """Whether the configuration of a layer is that of the layers inside, as Keras writes it.

    This holds for functional and sequential models that do not describe themselves in another way.
    """
    kind: Any = type(layer)
    if kind.get_config is Functional.get_config:
        return functional_like_constructor(kind)
    return kind.get_config is keras.Sequential.get_config


def has_default_config(kind: Any) -> bool:
    """Whether Keras derives the configuration of a class of layers from its constructor."""
    return is_default(kind.get_config)


def mark_default_config(get_config: Any) -> Any:
    """Marks a `get_config` as one that leaves the configuration to Keras."""
    get_config._is_default = True
    return get_config


def add_layer(layer: keras.layers.Layer, name: str, added: keras.layers.Layer) -> None:
    """Makes a layer an attribute of another one that may be built already.

    Keras finds its variables and saves them with those of the other layer.
    """
    locked = layer._tracker.locked
    layer._tracker.unlock()
    setattr(layer, name, added)
    if locked:
        layer._lock_state()


def set_path(variable: keras.Variable, path: str) -> None:
    """Sets the path of a variable that was created outside the scope of its layer."""
    variable._path = path


def forget_traces(model: keras.Model) -> None:
    """The next `fit` of a model traces its step again: constraints are looked up in tracing."""
    model.train_function = None


def is_stateless() -> bool:
    """Whether Keras computes shapes or traces without state: variables cannot be assigned."""
    return in_stateless_scope()


def class_description(kind: type) -> dict[str, Any]:
    """What `keras.saving.deserialize_keras_object` needs to find a class, without a `config`."""
    described = serialize_with_public_class(kind)
    return {key: described[key] for key in ("module", "class_name", "registered_name")}


def save_as(kind: type, registered_name: str) -> None:
    """Objects of a class are saved under the name of another class, which loads them."""
    GLOBAL_CUSTOM_NAMES[kind] = registered_name


class LocalOptimizer(keras.optimizers.Optimizer):
    """An optimizer that gets gradients already reduced over replicas and updates each locally.

    Keras would reduce them a second time. `update_step(gradient, variable, learning_rate)` is
    called for each variable.
    """

    def _backend_update_step(
        self, grads: Sequence, trainable_variables: Sequence, learning_rate: Any
    ) -> None:
        for gradient, variable in zip(grads, trainable_variables, strict=True):
            self.update_step(gradient, variable, learning_rate)

    def rate_at(self, update: int) -> float:
        """The learning rate of update number `update` of the network, counted from 0."""
        schedule = schedule_of(self)
        if schedule is not None:
            return float(schedule(tf.constant(update, tf.int64)))
        return float(keras.ops.convert_to_numpy(self.learning_rate))

    def key_of(self, variable: keras.Variable | tf.Variable) -> Any:
        """A key that identifies a variable, the same on each replica."""
        return self._var_key(variable)

    def index_of(self, variable: keras.Variable | tf.Variable) -> int:
        """The position of a variable among the variables that the optimizer was built for."""
        return self._get_variable_index(variable)
