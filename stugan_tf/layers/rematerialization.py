"""Rematerialisation: the backward pass computes activations again instead of keeping them.

Chen et al., *Training Deep Nets with Sublinear Memory Cost* (2016), on the graph of a functional
model. The graph is cut into segments. Only tensors that pass between segments outlive the forward
pass, and the backward pass runs each segment again before it goes through it.

Normalization, power iterations and dropout have state, which the first run moves. The second run
must start from the same state, and must not move it again: otherwise the gradient is that of
another sigma or of other dropped units. So a segment is a pure function of its inputs, weights and
state (`keras.StatelessScope`), called twice with the same arguments.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from stugan_tf.adapters.keras_internals import functional, nodes
from stugan_tf.adapters.tensorflow_internals import is_compiled_by_xla, stop_recording
from stugan_tf.errors import InputError
from stugan_tf.layers.execution import gradients_of_zeros, zero_gradients
from stugan_tf.layers.graph import output_size, tensor_size
from stugan_tf.layers.kernel_mask import kernel_masks


class Rematerialized:
    """A model as a function that keeps less for the backward pass, at the cost of a forward pass.

    It shares the layers and weights of the model. It has no second derivatives.

    Attributes:
        segments: the `Segment`s in the order of their calls.

    Args:
        model: a functional or sequential Keras model.

    Raises:
        InputError: if the model is of another kind.
    """

    def __init__(self, model: keras.Model) -> None:
        graph = _graph(model)
        self._inputs, self._outputs, self._structure = graph.inputs, graph.outputs, graph.output
        self.segments = [Segment(part) for part in parts_of(graph)]

    def __call__(
        self, inputs: Any, training: bool = False, added: list[tf.Tensor] | None = None
    ) -> Any:
        """The outputs of the model for these arguments.

        Args:
            inputs: as the model takes them.
            training: whether it computes in training mode.
            added: a list, to which the losses are appended that layers add in this call.
        """
        inputs = map(tf.convert_to_tensor, keras.tree.flatten(inputs))
        known = {id(tensor): value for tensor, value in zip(self._inputs, inputs, strict=True)}
        for segment in self.segments:
            outputs, losses = segment([known[id(x)] for x in segment.part.inputs], training)
            known |= {id(t): value for t, value in zip(segment.part.outputs, outputs, strict=True)}
            if added is not None:
                added += losses
        outputs = [known[id(tensor)] for tensor in self._outputs]
        return keras.tree.pack_sequence_as(self._structure, outputs)


class Part(NamedTuple):
    """Consecutive operations of a graph."""

    nodes: list
    inputs: list  # Keras tensors that come from outside
    outputs: list  # Keras tensors that are used outside


class Segment:
    """A `Part` as a function whose gradient runs it again.

    Attributes:
        part: the part.
    """

    def __init__(self, part: Part) -> None:
        self.part = part
        inputs = [keras.Input(batch_shape=x.shape, dtype=x.dtype) for x in part.inputs]
        known = {id(tensor): new for tensor, new in zip(part.inputs, inputs, strict=True)}
        for node in part.nodes:
            args, kwargs = node.arguments.fill_in(known)
            outputs = keras.tree.flatten(node.operation(*args, **kwargs))
            known |= {id(tensor): new for tensor, new in zip(node.outputs, outputs, strict=True)}
        self._model = keras.Model(inputs, [known[id(tensor)] for tensor in part.outputs])
        self._masks = {id(mask.kernel_mask) for mask in kernel_masks(self._model)}

    def __call__(
        self, inputs: list[tf.Tensor], training: bool
    ) -> tuple[list[tf.Tensor], list[tf.Tensor]]:
        """Computes the outputs and what layers add to the loss, and moves the state."""
        weights = self._model.trainable_variables
        state = [v for v in self._model.non_trainable_variables if id(v) not in self._masks]
        variables = [*weights, *state]
        num_sources = len(inputs) + len(weights)
        # Read now: the context may have ended when the gradient is computed.
        of_zeros = zero_gradients()

        def run(arguments: Sequence[tf.Tensor]) -> tuple[list, list]:
            values = zip(variables, arguments[len(inputs) :], strict=True)
            with keras.StatelessScope(state_mapping=values, collect_losses=True) as scope:
                outputs = self._model(list(arguments[: len(inputs)]), training=training)
            moved = [scope.get_current_value(variable) for variable in state]
            return [*keras.tree.flatten(outputs), *scope.losses], moved

        @tf.custom_gradient
        def call(*arguments: tf.Tensor) -> Any:
            with stop_recording():
                outputs, moved = run(arguments)
            for variable, value in zip(state, moved, strict=True):
                variable.assign(value)

            def gradients(*of_outputs: tf.Tensor) -> list[tf.Tensor | None]:
                with gradients_of_zeros(of_zeros):
                    found = _gradients(run, arguments, num_sources, of_outputs)
                return [*found, *[None] * len(state)]

            return outputs, gradients

        values = (tf.identity(variable.value) for variable in variables)
        found = keras.tree.flatten(call(*inputs, *values))
        num_outputs = len(self.part.outputs)
        return found[:num_outputs], found[num_outputs:]


def _gradients(
    run: Callable[[Sequence[tf.Tensor]], tuple[list, list]],
    arguments: Sequence[tf.Tensor],
    num_sources: int,
    of_outputs: Sequence[tf.Tensor],
) -> list[tf.Tensor | None]:
    """Runs `run` again and returns the gradients of its first `num_sources` arguments."""
    arguments = _once_there_are(of_outputs, arguments)
    sources = [x for x in arguments[:num_sources] if x.dtype.is_floating]
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(sources)
        outputs, _ = run(arguments)
    floating = [index for index, output in enumerate(outputs) if output.dtype.is_floating]
    found = iter(
        tape.gradient(
            [outputs[index] for index in floating],
            sources,
            output_gradients=[of_outputs[index] for index in floating],
        )
    )
    found = [next(found) if x.dtype.is_floating else None for x in arguments[:num_sources]]
    # The gradients of embeddings come as IndexedSlices.
    return [gradient if gradient is None else tf.convert_to_tensor(gradient) for gradient in found]


def _once_there_are(
    gradients: Sequence[tf.Tensor], tensors: Sequence[tf.Tensor]
) -> list[tf.Tensor]:
    """Copies of the tensors that wait for the gradients.

    Otherwise a compiler would find the same operations on the same tensors in the forward pass and
    keep their results, or an executor would run them too early.
    """
    gradients = [gradient for gradient in gradients if gradient is not None]
    if not is_compiled_by_xla():
        with tf.control_dependencies(gradients):
            return [tf.identity(tensor) for tensor in tensors]
    # XLA has no control dependencies, and on CPUs it removes its optimization barriers before it
    # last looks for common expressions. But it cannot assume that x == x: that is false for NaN.
    numbers = tf.concat([tf.cast(tf.reshape(g, [-1])[:1], tf.float32) for g in gradients], axis=0)
    are_numbers = tf.reduce_all(numbers == numbers)
    return [
        tf.where(
            are_numbers, tensor, tf.cast(math.nan if tensor.dtype.is_floating else 0, tensor.dtype)
        )
        for tensor in tensors
    ]


def parts_of(model: keras.Model) -> list[Part]:
    """Cuts a model into parts, in the order of their calls.

    A cut is possible where at most one feature map (a tensor of rank 3 or more) is alive besides
    vectors such as latents and embeddings: between residual blocks, not inside them. The cuts are
    chosen so that the kept tensors and the largest part together take the least memory.

    Args:
        model: a functional or sequential Keras model.

    Returns:
        The parts. Each operation is in exactly one.

    Raises:
        InputError: if the model is of another kind.
    """
    graph = _graph(model)
    order = nodes(graph)
    last_use = {id(x): index for index, node in enumerate(order) for x in node.input_tensors}
    made: list[Any] = []  # the outputs of all operations so far
    alive = []  # for each operation, the outputs so far that later ones use
    for index, node in enumerate(order):
        made += node.outputs
        alive.append([x for x in made if last_use.get(id(x), index) > index])
    ends = [index for index, tensors in enumerate(alive[:-1]) if _num_feature_maps(tensors) <= 1]
    bounds = [0, *(end + 1 for end in ends), len(order)]
    sizes = [sum(map(output_size, order[i:j])) for i, j in itertools.pairwise(bounds)]
    chosen = cheapest_cuts(sizes, [sum(map(tensor_size, alive[end])) for end in ends])
    returned = {id(tensor) for tensor in graph.outputs}
    parts = []
    for begin, end in itertools.pairwise(bounds[index] for index in chosen):
        own = {id(x): x for node in order[begin:end] for x in node.outputs}
        used = {id(x): x for node in order[begin:end] for x in node.input_tensors}
        parts.append(
            Part(
                order[begin:end],
                [x for key, x in used.items() if key not in own],
                [x for key, x in own.items() if key in returned or last_use[key] >= end],
            )
        )
    return parts


def rematerialized_sizes(model: keras.Model) -> tuple[int, int]:
    """Bytes for one sample: kept from forward to backward pass, and of the largest part."""
    parts = parts_of(model)
    kept = sum(tensor_size(tensor) for part in parts for tensor in part.outputs)
    return kept, max(sum(map(output_size, part.nodes)) for part in parts)


def _graph(model: keras.Model) -> Any:
    graph = functional(model)
    if graph is None:
        raise InputError(
            f"{model.name!r}, a {type(model).__name__}, cannot be rematerialised: only functional "
            "and sequential models can be cut into parts. Build it from keras.Input and "
            "keras.Model, or set train.rematerialize = False."
        )
    return graph


def _num_feature_maps(tensors: Sequence[Any]) -> int:
    return sum(len(tensor.shape) > 2 for tensor in tensors)


def cheapest_cuts(sizes: Sequence[int], kept: Sequence[int]) -> list[int]:
    """Cuts a row of pieces so that the kept bytes plus those of the largest part are least.

    For each limit on the size of a part, a pass from left to right finds the cheapest cuts: for
    each possible end of a part, the start that keeps least in sum.

    Args:
        sizes: bytes of each piece.
        kept: bytes kept by a cut after each piece except the last.

    Returns:
        The indices of the pieces that begin a part, and the number of pieces.
    """
    before = [0, *itertools.accumulate(sizes)]
    price = [0, *kept]  # of a part that begins at this piece
    ends = range(1, len(before))
    best: float = math.inf
    best_starts: list[Any] = []
    for limit in sorted({before[end] - before[start] for end in ends for start in range(end)}):
        if limit >= best:
            break
        costs: list[float] = [0]
        starts: list[Any] = [None]
        for end in ends:
            options = [
                (costs[start] + price[start], start)
                for start in range(end)
                if before[end] - before[start] <= limit
            ]
            cost, start = min(options, default=(math.inf, None))
            costs.append(cost)
            starts.append(start)
        if costs[-1] + limit < best:
            best, best_starts = costs[-1] + limit, starts
    cuts = [len(sizes)]
    while cuts[0]:
        cuts.insert(0, best_starts[cuts[0]])
    return cuts
