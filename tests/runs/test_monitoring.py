import io

import numpy as np
import tensorflow as tf
from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator

from stugan_tf.files import read_json_lines
from stugan_tf.runs.monitoring import Monitor


class Terminal(io.StringIO):
    def isatty(self):
        return True


def run(workdir, start_step, steps):
    with Monitor(workdir, total_steps=10, start_step=start_step) as monitor:
        for step in steps:
            monitor.advance(step)
            monitor.scalars(step, {"d_loss": 100 * start_step + step, "generator_sparsity": 0.9})


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


def test_nothing_waits_in_memory(tmp_path):
    monitor = Monitor(tmp_path, total_steps=10)
    monitor.scalars(1, {"g_loss": 0.5})
    assert [line["g_loss"] for line in read_json_lines(tmp_path / "metrics.jsonl")] == [0.5]
    assert tensorboard_values(tmp_path, "training/g_loss") == [(1, 0.5)]
    monitor.close()


def test_images_and_texts_reach_disk_and_tensorboard(tmp_path):
    with Monitor(tmp_path, total_steps=10) as monitor:
        monitor.text("config", "train.total_steps = 10\n# _none_")
        path = monitor.images(7, np.zeros([4, 8, 8, 1]))
    assert path == tmp_path / "samples" / "step_00000007.png"
    assert path.exists()
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    (text,) = events.Tensors("config")
    assert text.tensor_proto.string_val[0] == b"    train.total_steps = 10\n    # _none_"
    (image,) = events.Tensors("samples")
    assert image.step == 7


def test_a_log_file_gets_plain_lines(tmp_path, capsys):
    with Monitor(tmp_path, total_steps=10, start_step=4) as monitor:
        monitor.advance(5)
        monitor.scalars(5, {"d_loss": 1.25, "generator_sparsity": 0.9, "churn": 3})
        monitor.event(5, "explored the generator")
    errors = capsys.readouterr().err
    first, second = errors.splitlines()
    assert first.startswith("step 5/10  d_loss 1.25  s_G 0.9  ")
    assert first.endswith(" left")
    assert second == "step 5: explored the generator"
    assert "\r" not in errors


def test_a_terminal_gets_a_bar_that_events_do_not_break(tmp_path, monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    with Monitor(tmp_path, total_steps=10, start_step=4) as monitor:
        monitor.scalars(5, {"d_loss": 1.25})
        monitor.event(5, "explored the generator")
        monitor.advance(10)
    assert "\rstep 5: explored the generator\n" in terminal.getvalue().replace(" \r", "\r")
    assert "10/10" in terminal.getvalue()
    assert "d_loss=1.25" in terminal.getvalue()
