"""What a person sees of a run: progress, metrics.jsonl, sample grids, TensorBoard."""

import io
import time
import types

import numpy as np
import pytest
import tensorflow as tf
from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator

from stugan_tf.errors import InputError
from stugan_tf.files import read_json_lines
from stugan_tf.progress import ProgressBar
from stugan_tf.runs.events import Log, Progress, RunState, Speed
from stugan_tf.runs.trackers import TensorBoard, chosen_trackers


class Terminal(io.StringIO):
    def isatty(self):
        return True


class Measured:
    """In place of `Steps`: metrics that a test chooses."""

    players = types.MappingProxyType({})

    def __init__(self):
        self.metrics, self.num_traces = {}, 0

    def pop_metrics(self):
        return self.metrics


class Seen:
    """A run of which only what a person sees happens."""

    def __init__(self, workdir, start_step=0, label=""):
        config = "Algorithm.total_steps = 10\n# _none_"
        self.state = RunState(start_step, 10, workdir, config, label, {"generator_sparsity": 0.9})
        self._steps = Measured()
        speed = Speed(self._steps)
        self._events = [Progress(), speed, Log(self._steps, speed, every=1), TensorBoard()]
        for event in self._events:
            event.begin(self.state)

    def step(self, step, samples=None, **metrics):
        self._steps.metrics = metrics
        self.state.advance(step)
        self.state.samples = samples
        for event in self._events:
            if event.is_due(self.state):
                event.act(self.state)

    def close(self):
        for event in reversed(self._events):
            event.close(self.state)


def run(workdir, start_step, steps):
    seen = Seen(workdir, start_step)
    for step in steps:
        seen.step(step, d_loss=100 * start_step + step)
    seen.close()


def tensorboard_values(workdir, tag):
    events = EventAccumulator(str(workdir / "tensorboard")).Reload()
    return [(event.step, tf.make_ndarray(event.tensor_proto)) for event in events.Tensors(tag)]


def test_a_resumed_run_shows_every_step_once(tmp_path):
    run(tmp_path, 0, range(1, 7))  # killed after step 6; its last checkpoint is of step 4
    run(tmp_path, 4, range(5, 9))
    expected = [(1, 1), (2, 2), (3, 3), (4, 4), (5, 405), (6, 406), (7, 407), (8, 408)]
    lines = read_json_lines(tmp_path / "metrics.jsonl")
    assert [(line["step"], line["d_loss"]) for line in lines] == expected
    assert tensorboard_values(tmp_path, "training/d_loss") == expected


def test_speed_counts_steps_alone_and_not_those_that_wait_for_a_compilation(tmp_path, monkeypatch):
    now, steps = [0.0], Measured()
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    speed, state = Speed(steps), RunState(0, 10, tmp_path, "")
    speed.begin(state)

    def run(step, seconds, traces=0):
        speed.before(step)
        now[0] += seconds
        steps.num_traces += traces
        state.advance(step)
        speed.act(state)
        now[0] += 100.0  # A score.

    run(2, seconds=30.0, traces=3)
    assert speed.pop() is None
    run(4, seconds=1.0)
    run(5, seconds=1.0)
    assert speed.pop() == 1.5
    run(6, seconds=9.0, traces=1)
    run(8, seconds=0.5)
    assert speed.pop() == 4.0
    assert speed.pop() is None


def test_nothing_waits_in_memory(tmp_path):
    seen = Seen(tmp_path)
    seen.step(1, g_loss=0.5)
    assert [line["g_loss"] for line in read_json_lines(tmp_path / "metrics.jsonl")] == [0.5]
    assert tensorboard_values(tmp_path, "training/g_loss") == [(1, 0.5)]
    seen.close()


def test_images_and_texts_reach_tensorboard(tmp_path):
    seen = Seen(tmp_path)
    seen.step(7, samples=np.zeros([18, 18, 1], np.uint8))
    seen.close()
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    (text,) = events.Tensors("config")
    assert text.tensor_proto.string_val[0] == b"    Algorithm.total_steps = 10\n    # _none_"
    (image,) = events.Tensors("samples")
    assert image.step == 7


def test_a_log_file_gets_plain_lines(tmp_path, capsys):
    seen = Seen(tmp_path, start_step=4)
    seen.step(5, d_loss=1.25, churn=3)
    seen.state.say("explored the generator")
    seen.close()
    errors = capsys.readouterr().err
    started, first, second = errors.splitlines()
    assert started == "step 4: started"
    assert first.startswith("step 5/10  d_loss 1.25  s_G 0.9  ")
    assert first.endswith(" left")
    assert second == "step 5: explored the generator"
    assert "\r" not in errors


def test_a_terminal_gets_a_bar_that_events_do_not_break(tmp_path, monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    seen = Seen(tmp_path, start_step=4, label="dense (1 of 2)")
    seen.step(5, d_loss=1.25)
    seen.state.say("explored the generator")
    seen.step(10)
    seen.close()
    assert "\rstep 5: explored the generator\n" in terminal.getvalue().replace(" \r", "\r")
    assert "dense (1 of 2)" in terminal.getvalue()
    assert "10/10" in terminal.getvalue()
    assert "d_loss=1.25" in terminal.getvalue()


def test_where_there_is_no_terminal_a_line_comes_now_and_then(capsys):
    with ProgressBar(8, "image", "real images", done=2, seconds=0) as progress:
        progress.advance(2)
    with ProgressBar(8, "image", "real images", seconds=1e9) as progress:
        progress.advance(2)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("real images  image 4/8  ")
    assert line.endswith(" left")


@pytest.mark.parametrize("trackers", [TensorBoard, "TensorBoard", [TensorBoard], [None]])
def test_what_is_not_a_list_of_trackers_is_refused(trackers):
    with pytest.raises(InputError, match=r"train.trackers = \[@TensorBoard\(\), @MLflow\(\)\]"):
        chosen_trackers(trackers)
