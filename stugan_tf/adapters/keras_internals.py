"""The private parts of Keras that the package relies on.

Keras has no public walk over the calls of a functional model or over layers inside custom layers,
and its optimizers reduce gradients over replicas by themselves.
tests/adapters/test_keras_internals.py fails first when Keras changes them.
"""

import keras


def all_layers(model):
    """All layers inside a model, each once, those held by other layers included."""
    return list({id(layer): layer for layer in model._flatten_layers()}.values())


def is_functional(model):
    """Whether a model was made of `keras.Input`s, so that its calls are known."""
    return hasattr(model, "_nodes_by_depth")


def functional(model):
    """The functional model that a model is, or holds if it is sequential; None for any other."""
    if isinstance(model, keras.Sequential):
        model = model._functional  # None before it knows its inputs.
    return model if is_functional(model) else None


def nodes(graph):
    """The calls of a functional model in the order in which Keras makes them, inputs left out.

    Returns:
        Objects with `operation`, `input_tensors`, `outputs` and `arguments`.
    """
    return [
        node
        for depth in sorted(graph._nodes_by_depth, reverse=True)
        for node in graph._nodes_by_depth[depth]
        if not node.is_input
    ]


def producer(tensor):
    """The layer that made a Keras tensor, and the inputs of that call."""
    operation, node_index, _ = tensor._keras_history
    return operation, operation._inbound_nodes[node_index].input_tensors


class LocalOptimizer(keras.optimizers.Optimizer):
    """An optimizer whose gradients come reduced over replicas: each makes the same update itself.

    Keras would reduce them once more. `update_step(gradient, variable, learning_rate)` is called
    for each variable.
    """

    def _backend_update_step(self, grads, trainable_variables, learning_rate):
        for gradient, variable in zip(grads, trainable_variables, strict=True):
            self.update_step(gradient, variable, learning_rate)

    def key_of(self, variable):
        """What tells a variable from all others, also where a replica has a part of it."""
        return self._var_key(variable)

    def index_of(self, variable):
        """The position of a variable among those that the optimizer was built for."""
        return self._get_variable_index(variable)
