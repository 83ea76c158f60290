import json

import tensorflow as tf

import stugan_tf
from stugan_tf.training import manifest


def test_the_first_start_records_the_run_and_later_ones_only_themselves(tmp_path):
    manifest.record_start(tmp_path, 0, seed=1, counts={"generator": 10})
    manifest.record_start(tmp_path, 5, seed=2)
    written = json.loads((tmp_path / "run.json").read_text())
    assert written["seed"] == 1
    assert written["counts"] == {"generator": 10}
    assert written["versions"]["tensorflow"] == tf.__version__
    assert "pytest" in written["command"]
    (resume,) = written["resumes"]
    assert resume["step"] == 5
    assert resume["time"] >= written["time"]


def test_the_commit_is_none_outside_of_a_checkout(tmp_path, monkeypatch):
    monkeypatch.setattr(stugan_tf, "__file__", str(tmp_path / "stugan_tf" / "__init__.py"))
    assert manifest._commit() is None
