"""Runs an extractor on the devices of a strategy, never by TF32."""

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf

from stugan_tf.adapters.tensorflow_internals import has_several_workers
from stugan_tf.arithmetic import tensor_float_32

if TYPE_CHECKING:  # Commands that draw no scores need no extractors.
    from stugan_tf.evaluation.extractors import Extractor


class Extraction:
    """Features and logits of images in host memory, computed on all replicas.

    Attributes:
        extractor: the `Extractor`.
        batch_size: the most images that a call takes, over all replicas.
    """

    def __init__(
        self, extractor: "Extractor", strategy: tf.distribute.Strategy, batch_size: int
    ) -> None:
        """Prepares for calls.

        Args:
            extractor: an extractor made inside `strategy.scope()`.
            strategy: the strategy whose replicas compute.
            batch_size: number of images on one replica.
        """
        self.extractor = extractor
        self.batch_size = batch_size * strategy.num_replicas_in_sync
        self._strategy = strategy
        self._own_size = batch_size

    def __call__(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """Extracts from at most `batch_size` images.

        Args:
            images: uint8 [B, H, W, C].

        Returns:
            Features, float32 [B, D], and logits, float32 [B, K]; logits are None if the extractor
            has none.
        """
        missing = self.batch_size - len(images)  # One shape is one trace, and no remainder.
        padded = np.concatenate([images, np.repeat(images[-1:], missing, axis=0)])

        def part(context: Any) -> tf.Tensor:
            start = context.replica_id_in_sync_group * self._own_size
            return tf.constant(padded[start : start + self._own_size])

        parts = self._strategy.experimental_distribute_values_from_function(part)
        with tensor_float_32(False):
            features, logits = self._run(parts)
        return features[: len(images)], None if logits is None else logits[: len(images)]

    def on_all_workers(self, number: int) -> list[int]:
        """Collects an integer from each worker, for decisions that all must make alike."""
        (numbers,) = run(self._strategy, lambda: (tf.constant([number], tf.int64),))()
        return numbers.tolist()

    @functools.cached_property
    def _run(self) -> Callable[..., tuple[Any, ...]]:
        return run(self._strategy, self.extractor)


def run(
    strategy: tf.distribute.Strategy, function: Callable[..., tuple[tf.Tensor | None, ...]]
) -> Callable[..., tuple[Any, ...]]:
    """Compiles a function of one replica's tensors into a function of all replicas and workers.

    Args:
        strategy: the strategy that runs `function`.
        function: returns a tuple of tensors [b, ...] or None.

    Returns:
        A function with the arguments of `strategy.run` for `function`. It returns a tuple of arrays
        [B, ...], in which the results of the replicas follow one another, or None.
    """
    # Results of other workers need a collective operation, which supports few types.
    is_shared = has_several_workers(strategy)

    def share(value: tf.Tensor | None) -> tf.Tensor | None:
        if value is None or not is_shared:
            return value
        small = value.dtype.size < 4
        context = tf.distribute.get_replica_context()
        everybodys = context.all_gather(tf.cast(value, tf.int32) if small else value, axis=0)
        return tf.cast(everybodys, value.dtype)

    @tf.function(autograph=False)  # It would wrap our errors in its own.
    def on_replicas(*arguments: Any) -> Any:
        return strategy.run(lambda *own: tuple(map(share, function(*own))), arguments)

    def collect(value: Any) -> np.ndarray | None:
        if value is None:
            return None
        values = strategy.experimental_local_results(value)
        return np.concatenate([part.numpy() for part in values[: 1 if is_shared else None]])

    return lambda *arguments: tuple(map(collect, on_replicas(*arguments)))
