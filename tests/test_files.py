import json

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from stugan_tf.files import JsonLines, read_json_lines, write_atomically


def test_a_failed_write_leaves_the_former_content_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "new" / "run.json"
    write_atomically(path, b"first")
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, b"second")
    assert path.read_bytes() == b"first"
    assert list(path.parent.iterdir()) == [path]


@given(st.lists(st.integers(1, 20), max_size=10), st.integers(0, 20), st.integers(1, 12))
def test_resuming_keeps_exactly_the_whole_lines_up_to_the_step(
    tmp_path_factory, steps, start_step, torn_bytes
):
    path = tmp_path_factory.mktemp("log") / "metrics.jsonl"
    lines = [{"step": step, "d_loss": step / 3} for step in sorted(steps)]
    torn = json.dumps({"step": 0, "d_loss": 1.5})[:torn_bytes]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines) + torn)
    log = JsonLines(path, start_step)
    log.append({"step": start_step + 1})
    log.close()
    kept = [line for line in lines if line["step"] <= start_step]
    assert [json.loads(line) for line in path.read_text().splitlines()] == [
        *kept,
        {"step": start_step + 1},
    ]


def test_lines_are_on_disk_at_once_and_strict_json(tmp_path):
    path = tmp_path / "evaluations.jsonl"
    log = JsonLines(path, 0)
    log.append({"step": 1, "fid": tf.constant(2.5), "nan": np.float32("nan"), "protocol": "a"})
    assert read_json_lines(path) == [{"step": 1, "fid": 2.5, "nan": None, "protocol": "a"}]
    log.close()


def test_no_file_is_no_lines(tmp_path):
    assert read_json_lines(tmp_path / "metrics.jsonl") == []
