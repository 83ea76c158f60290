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
from stugan_tf.runs.events import Event, Log, Progress, RunState, Speed, device_memory
from stugan_tf.runs.trackers import TensorBoard, chosen_trackers


class Terminal(io.StringIO):
    def isatty(self):
        return True


class Measured:
    """In place of `Steps`: metrics that a test chooses."""

    players = types.MappingProxyType({})

    def __init__(self):
        self.metrics, self.num_traces, self.topology_seconds = {}, 1, 0.0

    def pop_metrics(self):
        return self.metrics


class Seen:
    """A run of which only what a person sees happens."""

    def __init__(self, workdir, start_step=0, label=""):
        config = "Algorithm.total_steps = 10\n# _none_"
        self.state = RunState(start_step, 10, workdir, config, label, {"generator_sparsity": 0.9})
        self._steps = Measured()
        speed = Speed(self._steps, images_per_step=8)
        log = Log(self._steps, speed, every=1)
        self._events = [Progress(self._steps), speed, log, TensorBoard()]
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
    speed, state = Speed(steps, images_per_step=8), RunState(0, 10, tmp_path, "")
    speed.begin(state)

    def run(step, seconds, traces=0):
        speed.before(step)
        now[0] += seconds
        steps.num_traces += traces
        state.advance(step)
        speed.act(state)
        now[0] += 100.0  # A score.

    run(2, seconds=30.0, traces=3)
    assert speed.pop() == {}
    run(4, seconds=1.0)
    run(5, seconds=1.0)
    assert speed.pop() == {"steps_per_second": 1.5, "images_per_second": 12.0}
    run(6, seconds=9.0, traces=1)
    run(8, seconds=0.5)
    assert speed.pop()["steps_per_second"] == 4.0
    assert speed.pop() == {}


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


def test_the_time_that_is_left_does_not_count_a_compilation(tmp_path, monkeypatch, capsys):
    now, steps = [0.0], Measured()
    steps.num_traces = 0
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    progress, state = Progress(steps), RunState(0, 100, tmp_path, "")
    progress.begin(state)
    for step, seconds, traces in [(1, 60.0, 2), (6, 2.5, 0), (11, 2.5, 0)]:
        progress.before(step)
        now[0] += seconds
        steps.num_traces += traces
        state.advance(step)
        progress.act(state)
    state.progress.show({})
    started, compiling, line = capsys.readouterr().err.splitlines()
    assert (started, compiling[:31]) == ("step 0: started", "step 0: compiling the updates: ")
    assert line == "step 11/100  2 steps/s  0:00:44 left"


def test_a_bar_leaves_a_compilation_out(monkeypatch):
    terminal, now = Terminal(), [0.0]
    monkeypatch.setattr("sys.stderr", terminal)
    monkeypatch.setattr("tqdm.std.time", lambda: now[0])
    with ProgressBar(100, "step", seconds=None) as progress:
        now[0] = 60.0
        progress.advance(1, left_out=60.0)
        now[0] = 65.0
        progress.advance(10)
    assert "11/100 [00:05<00:44,  2.00step/s" in terminal.getvalue()


@pytest.mark.parametrize("trackers", [TensorBoard, "TensorBoard", [TensorBoard], [None]])
def test_what_is_not_a_list_of_trackers_is_refused(trackers):
    with pytest.raises(InputError, match=r"train.trackers = \[@TensorBoard\(\), @MLflow\(\)\]"):
        chosen_trackers(trackers)


class Counted(Event):
    """Something that happens at every stop and takes its time."""

    part = "scores"

    def __init__(self, clock, seconds):
        self._clock, self._seconds = clock, seconds

    def act(self, state):
        self._clock[0] += self._seconds


def test_the_log_says_where_the_time_went(tmp_path, monkeypatch):
    now, steps = [0.0], Measured()
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    state, speed = RunState(0, 10, tmp_path, ""), Speed(steps, images_per_step=8)
    log = Log(steps, speed, every=1)
    events = [Progress(steps), speed, Counted(now, 3.0), log]
    for event in events:
        event.begin(state)

    def stop(step, seconds, of_topology=0.0, traces=0):
        for event in events:
            event.before(step)
        now[0] += seconds
        steps.topology_seconds += of_topology
        steps.num_traces += traces
        state.advance(step)
        for event in events:
            event.happen(state)

    stop(1, seconds=20.0, traces=2)
    stop(2, seconds=5.0, of_topology=1.0)
    stop(3, seconds=2.0)
    first, second, third = read_json_lines(tmp_path / "metrics.jsonl")
    assert (first["seconds/compilation"], first["seconds/scores"]) == (20.0, 3.0)
    assert (second["seconds/steps"], second["seconds/topology"]) == (4.0, 1.0)
    assert second["seconds/compilation"] == 0.0
    assert (third["seconds/steps"], third["seconds/scores"]) == (2.0, 3.0)
    assert third["images_per_second"] == 8 * third["steps_per_second"] == 4.0
    assert state.numbers["seconds/steps"] == 2.0
    assert state.time_in_words() == (
        "0:00:36 of work: compilation 56%, scores 25%, steps (data, D and G) 17%, topology 3%"
    )


def test_the_memory_of_the_fullest_gpu_is_told_where_it_is_known(monkeypatch):
    gpus = [types.SimpleNamespace(name=f"/device:GPU:{number}") for number in range(3)]
    peaks = {"/device:GPU:0": 2**30, "/device:GPU:1": 3 * 2**30}

    def info(name):
        if name not in peaks:
            raise ValueError("no counts")
        return {"current": 0, "peak": peaks[name]}

    assert device_memory() == {}
    monkeypatch.setattr(tf.config, "list_logical_devices", lambda kind: gpus)
    monkeypatch.setattr(tf.config.experimental, "get_memory_info", info)
    assert device_memory() == {"device_memory_peak_gib": 3.0}
    peaks.clear()
    assert device_memory() == {}
