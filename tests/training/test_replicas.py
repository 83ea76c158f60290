"""Replicas: their parts of a batch, means over them, and what they share."""

import numpy as np
import pytest
import tensorflow as tf

from stugan_tf.training.replicas import Replicas


@pytest.mark.parametrize("num_parts", [1, 3])
def test_micro_batches_and_replicas_cut_a_batch_into_its_parts_in_order(mirrored, num_parts):
    replicas = Replicas(mirrored)
    values = tf.reshape(tf.range(24), [12, 2])
    found = [
        mirrored.experimental_local_results(
            replicas.from_host(lambda part=part: replicas.own(values, part, num_parts))()
        )
        for part in range(num_parts)
    ]
    np.testing.assert_array_equal(np.concatenate(sum(found, ())), values)
    assert {len(own) for part in found for own in part} == {12 // (2 * num_parts)}


def test_floating_variables_are_averaged_and_others_stay(mirrored):
    replicas = Replicas(mirrored)
    with mirrored.scope():
        statistic, seed = (
            tf.Variable(tf.zeros([2], dtype), trainable=False) for dtype in (tf.float32, tf.int64)
        )

    def move():
        replica = tf.distribute.get_replica_context().replica_id_in_sync_group
        for variable in (statistic, seed):
            variable.assign(tf.fill([2], tf.cast(replica, variable.dtype)))
        replicas.share([statistic, seed])
        return replicas.mean([tf.cast(replica, tf.float32)])[0]

    mean = replicas.from_host(move)()
    assert [float(value) for value in mirrored.experimental_local_results(mean)] == [0.5, 0.5]
    local = mirrored.experimental_local_results
    assert [value.numpy().tolist() for value in local(statistic)] == [[0.5, 0.5]] * 2
    assert [value.numpy().tolist() for value in local(seed)] == [[0, 0], [1, 1]]
    np.testing.assert_array_equal(replicas.first(seed), [0, 0])
