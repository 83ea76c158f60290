"""The private parts of TensorFlow and its companions that the package relies on.

tests/adapters/test_tensorflow_internals.py fails first when they change.
"""

import tensorflow as tf
from tensorflow.python.eager import record
from tensorflow.python.ops import control_flow_util


def is_compiled_by_xla():
    """Whether the function that is being traced is one for XLA. Nothing public tells."""
    return control_flow_util.GraphOrParentsInXlaContext(tf.compat.v1.get_default_graph())


def stop_recording():
    """A context in which no tape records, whoever opened it; a public one needs the tape."""
    return record.stop_recording()


def has_several_workers(strategy):
    """Whether the replicas of a strategy are spread over processes."""
    return strategy.extended._in_multi_worker_mode()


def write_event(writer, event):
    """Writes an `Event` as it is to the file of a `tf.summary` writer."""
    tf.raw_ops.ImportEvent(writer=writer._resource, event=event.SerializeToString())


def lite_schema():
    """The module that reads the format of .tflite files; there is no public one."""
    from tensorflow.lite.python import schema_py_generated

    return schema_py_generated


def pruning_schedules():
    """The module of tfmot's pruning schedules; the public one imports Keras 2 with it.

    Raises:
        ImportError: if tensorflow_model_optimization is not installed.
    """
    from tensorflow_model_optimization.python.core.sparsity.keras import pruning_schedule

    return pruning_schedule
