"""An extractor at work on the devices of a strategy."""

import functools

import numpy as np
import tensorflow as tf

from stugan_tf.adapters.tensorflow_internals import has_several_workers


class Extraction:
    """Features and logits of images in host memory, computed on all replicas.

    Attributes:
        extractor: the `Extractor`.
        batch_size: how many images a call takes at once, over all replicas.
    """

    def __init__(self, extractor, strategy, batch_size):
        """Prepares for calls.

        Args:
            extractor: an `Extractor` made inside `strategy.scope()`.
            strategy: the `tf.distribute.Strategy`.
            batch_size: images on one replica.
        """
        self.extractor = extractor
        self.batch_size = batch_size * strategy.num_replicas_in_sync
        self._strategy = strategy
        self._own_size = batch_size

    def __call__(self, images):
        """Extracts from at most `batch_size` images.

        Args:
            images: uint8 [B, H, W, C].

        Returns:
            Features float32 [B, D] and logits float32 [B, K], or None.
        """
        missing = self.batch_size - len(images)  # One shape is one trace, and no remainder.
        padded = np.concatenate([images, np.repeat(images[-1:], missing, axis=0)])

        def part(context):
            start = context.replica_id_in_sync_group * self._own_size
            return tf.constant(padded[start : start + self._own_size])

        outputs = self._run(self._strategy.experimental_distribute_values_from_function(part))
        return tuple(None if output is None else output[: len(images)] for output in outputs)

    def on_all_workers(self, number):
        """The integer `number` of every worker, for those that must do the same."""
        (numbers,) = run(self._strategy, lambda: (tf.constant([number], tf.int64),))()
        return numbers.tolist()

    @functools.cached_property
    def _run(self):
        return run(self._strategy, self.extractor)


def run(strategy, function):
    """Makes `function` of one replica's tensors a compiled one of all replicas and workers.

    Args:
        strategy: the `tf.distribute.Strategy`.
        function: returns a tuple of tensors [b, ...] or None.

    Returns:
        Takes what `strategy.run` hands to `function`; returns a tuple of arrays [B, ...], what the
        replicas made, one after the other.
    """
    # Other workers' results need a collective operation, which knows few types.
    is_shared = has_several_workers(strategy)

    def share(value):
        if value is None or not is_shared:
            return value
        small = value.dtype.size < 4
        context = tf.distribute.get_replica_context()
        everybodys = context.all_gather(tf.cast(value, tf.int32) if small else value, axis=0)
        return tf.cast(everybodys, value.dtype)

    @tf.function(autograph=False)  # It would wrap our errors in its own.
    def on_replicas(*arguments):
        return strategy.run(lambda *own: tuple(map(share, function(*own))), arguments)

    def collect(value):
        if value is None:
            return None
        values = strategy.experimental_local_results(value)
        return np.concatenate([part.numpy() for part in values[: 1 if is_shared else None]])

    return lambda *arguments: tuple(map(collect, on_replicas(*arguments)))
