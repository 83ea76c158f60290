"""The private parts of TensorFlow and its companions that the package relies on.

tests/adapters/test_tensorflow_internals.py fails first when they change.
"""

import contextlib
import types
from typing import Any

import tensorflow as tf
from tensorflow.python.eager import record
from tensorflow.python.ops import control_flow_util


def is_compiled_by_xla() -> bool:
    """Whether the function that is being traced will be compiled by XLA."""
    return control_flow_util.GraphOrParentsInXlaContext(tf.compat.v1.get_default_graph())


def stop_recording() -> contextlib.AbstractContextManager:
    """A context in which no tape records. The public way needs the tape itself."""
    return record.stop_recording()


def has_several_workers(strategy: tf.distribute.Strategy) -> bool:
    """Whether the replicas of a strategy are spread over processes."""
    return strategy.extended._in_multi_worker_mode()


def write_event(writer: Any, event: Any) -> None:
    """Writes an `Event` message unchanged to the file of a `tf.summary` writer."""
    tf.raw_ops.ImportEvent(writer=writer._resource, event=event.SerializeToString())


def lite_schema() -> types.ModuleType:
    """The module that reads the format of .tflite files."""
    from tensorflow.lite.python import schema_py_generated

    return schema_py_generated


def pruning_schedules() -> types.ModuleType:
    """The module of tfmot's pruning schedules. The public one also imports Keras 2.

    Raises:
        ImportError: if tensorflow_model_optimization is not installed.
    """
    from tensorflow_model_optimization.python.core.sparsity.keras import pruning_schedule

    return pruning_schedule
