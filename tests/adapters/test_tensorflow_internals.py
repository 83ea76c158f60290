"""What stugan_tf/adapters/tensorflow_internals.py relies on; see there if one of these fails."""

import time

import pytest
import tensorflow as tf
from tensorboard.compat.proto import event_pb2

from stugan_tf.adapters import tensorflow_internals as internals

ADAPTER = "TensorFlow has changed: adapt stugan_tf/adapters/tensorflow_internals.py"


@pytest.mark.parametrize("jit_compile", [False, True])
def test_a_function_knows_whether_it_is_for_xla(jit_compile):
    found = []

    @tf.function(jit_compile=jit_compile)
    def function(x):
        found.append(internals.is_compiled_by_xla())
        return x + 1

    function(tf.constant(1))
    assert found == [jit_compile], ADAPTER


def test_a_tape_that_is_not_given_can_be_stopped():
    x = tf.constant(3.0)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(x)
        with internals.stop_recording():
            hidden = x * x
        seen = x * x
    assert tape.gradient(hidden, x) is None, ADAPTER
    assert tape.gradient(seen, x) == 6, ADAPTER


def test_one_process_is_not_several_workers():
    for strategy in (tf.distribute.get_strategy(), tf.distribute.MirroredStrategy(["CPU:0"])):
        assert internals.has_several_workers(strategy) is False, ADAPTER


def test_an_event_is_written_as_it_is(tmp_path):
    writer = tf.summary.create_file_writer(str(tmp_path))
    start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
    event = event_pb2.Event(wall_time=time.time(), step=7, session_log=start)
    internals.write_event(writer, event)
    writer.close()
    (path,) = tmp_path.iterdir()
    records = tf.data.TFRecordDataset(str(path)).as_numpy_iterator()
    assert event in map(event_pb2.Event.FromString, records), ADAPTER


def test_a_lite_file_can_be_read():
    function = tf.function(lambda x: x + 1, input_signature=[tf.TensorSpec([2], tf.float32)])
    converter = tf.lite.TFLiteConverter.from_concrete_functions([function.get_concrete_function()])
    schema = internals.lite_schema()
    model = schema.Model.GetRootAsModel(converter.convert(), 0)
    assert model.Subgraphs(0).Tensors(0).Type() == schema.TensorType.FLOAT32, ADAPTER
    assert model.OperatorCodes(0).BuiltinCode() == schema.BuiltinOperator.ADD, ADAPTER


def test_pruning_schedules_of_tfmot_say_when_and_how_much():
    schedules = internals.pruning_schedules()
    polynomial = schedules.PolynomialDecay(0.0, 0.8, begin_step=0, end_step=10, frequency=5)
    constant = schedules.ConstantSparsity(0.5, begin_step=5, frequency=5)
    for schedule, step, sparsity in ((polynomial, 10, 0.8), (constant, 5, 0.5)):
        now, amount = schedule(tf.constant(step))
        assert bool(now), ADAPTER
        assert float(amount) == pytest.approx(sparsity), ADAPTER
