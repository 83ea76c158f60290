"""The replicas of a strategy: running functions on them, means over them, their parts of a batch.

Replicas always hold equal state. Gradients, metrics and moving statistics are averaged over them
before use. Then each replica makes the same local updates.
"""

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from stugan_tf.arithmetic import by_tensor_float_32
from stugan_tf.errors import InputError


class Replicas:
    """The replicas of a `tf.distribute.Strategy`.

    Attributes:
        num: number of replicas.
    """

    def __init__(self, strategy: tf.distribute.Strategy, jit_compile: bool = False) -> None:
        """Remembers how functions are compiled.

        Args:
            strategy: a `tf.distribute.Strategy`.
            jit_compile: compile each function of a replica with XLA.

        Raises:
            InputError: if XLA cannot compile for these replicas.
        """
        self._strategy = strategy
        self._jit_compile = jit_compile
        self.num = strategy.num_replicas_in_sync
        # The strategy outside of any scope has one replica and names no device.
        devices = strategy.extended.worker_devices if self.num > 1 else ()
        if jit_compile and devices and all("CPU" in device for device in devices):
            raise InputError(
                f"train.jit_compile = True does not work on {self.num} replicas on CPUs: "
                "TensorFlow cannot reduce over them inside a compiled function. Set it to 'auto', "
                "or use one replica."
            )

    def compiled(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Makes a function that runs `function` on all replicas, for use in a graph."""
        if self._jit_compile:
            chosen = by_tensor_float_32(
                lambda: tf.function(function, jit_compile=True, autograph=False)
            )
        else:
            plain = tf.autograph.experimental.do_not_convert(function)

            def chosen() -> Callable[..., Any]:
                return plain

        @tf.autograph.experimental.do_not_convert
        def on_all(*arguments: Any) -> Any:
            return self._strategy.run(chosen(), arguments)

        return on_all

    def calling(self, function: Callable[..., Any], autograph: bool = True) -> Callable[..., Any]:
        """Makes a graph of a function that calls what `compiled` has made, for the host.

        Under XLA there is one where TF32 is allowed and one where it is not, see `arithmetic`.

        Args:
            function: it calls functions that `compiled` has made.
            autograph: whether its loops and conditions become those of the graph.
        """
        if not self._jit_compile:
            return tf.function(function, autograph=autograph)
        chosen = by_tensor_float_32(lambda: tf.function(function, autograph=autograph))
        return lambda *arguments: chosen()(*arguments)

    def from_host(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Makes a compiled function for the host that runs `function` on all replicas."""
        return self.calling(self.compiled(function), autograph=False)

    def mean(self, tensors: Sequence[Any]) -> Sequence[tf.Tensor]:
        """The means of tensors over replicas; call it on each replica."""
        if self.num == 1:
            return tensors
        # A reduction runs on the device of its input, but gradients may have no device yet.
        tensors = [tf.identity(tensor) for tensor in tensors]
        return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.MEAN, tensors)

    def share(self, variables: Sequence[tf.Variable]) -> None:
        """Averages floating variables that each replica moved by its own part of the batch.

        Normalisation itself stays local unless the model asks for cross-replica statistics.
        """
        variables = [variable for variable in variables if variable.dtype.is_floating]
        if self.num > 1 and variables:
            for variable, mean in zip(variables, self.mean(variables), strict=True):
                variable.assign(mean)

    def own(self, values: tf.Tensor, part: Any = 0, num_parts: int = 1) -> tf.Tensor:
        """This replica's slice of a global batch.

        Args:
            values: a tensor [B, ...].
            part: the number of the micro-batch, an integer or a scalar.
            num_parts: number of micro-batches in a batch.

        Returns:
            A tensor [B / (num_parts * num), ...].
        """
        size = values.shape[0] // (num_parts * self.num)
        replica = tf.distribute.get_replica_context().replica_id_in_sync_group
        start = size * (self.num * part + replica)
        return tf.slice(values, [start, *[0] * (values.shape.rank - 1)], [size, *values.shape[1:]])

    def first(self, values: Any) -> Any:
        """The value that the first replica of this process holds of a variable or a result."""
        return self._strategy.experimental_local_results(values)[0]
