"""The batches of a training: a data source, spread over micro-batches and replicas."""

import tensorflow as tf

from stugan_tf.data.source import Source
from stugan_tf.training.algorithm import Algorithm


def distributed_batches(
    source: Source, algorithm: Algorithm, strategy: tf.distribute.Strategy, seed: int, step: int
) -> tf.distribute.DistributedDataset:
    """The micro-batches that a training takes after a generator step.

    Args:
        source: the data.
        algorithm: says how many images a batch has, and how it is cut.
        strategy: the `tf.distribute.Strategy` of the training.
        seed: seed of the order of the images.
        step: generator steps done.

    Returns:
        The data set of `(images, labels)`, as `Source.batches` gives them to each replica.
    """
    num_parts = algorithm.accumulation_steps

    def batches(context: tf.distribute.InputContext) -> tf.data.Dataset:
        num_replicas = context.num_replicas_in_sync
        own = num_replicas // context.num_input_pipelines
        first = own * context.input_pipeline_id
        return source.batches(
            algorithm.batch_size,
            seed=seed,
            start=step * algorithm.discriminator_steps,
            # Each micro-batch is spread over all replicas, so that its images do not depend on
            # their number.
            num_replicas=num_parts * num_replicas,
            replicas=[
                part * num_replicas + replica
                for part in range(num_parts)
                for replica in range(first, first + own)
            ],
            read_at_once=algorithm.discriminator_steps,
        )

    return strategy.distribute_datasets_from_function(batches)
