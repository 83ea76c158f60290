import json
import shlex
import sys

import pytest
import tensorflow as tf

import stugan_tf
from stugan_tf.errors import InputError
from stugan_tf.runs import manifest


def test_the_first_start_records_the_run_and_later_ones_only_themselves(tmp_path):
    data = {"fingerprint": "a"}
    manifest.record_start(tmp_path, 0, seed=1, data=data, counts={"generator": 10})
    manifest.record_start(tmp_path, 5, seed=2, data=data)
    written = json.loads((tmp_path / "run.json").read_text())
    assert written["seed"] == 1
    assert written["counts"] == {"generator": 10}
    assert written["versions"]["tensorflow"] == tf.__version__
    assert shlex.split(written["command"]) == sys.orig_argv
    (resume,) = written["resumes"]
    assert resume["step"] == 5
    assert resume["time"] >= written["time"]


def test_a_run_is_not_resumed_on_other_data(tmp_path):
    manifest.record_start(tmp_path, 0, data={"fingerprint": "a"})
    with pytest.raises(InputError, match="was a and is b"):
        manifest.record_start(tmp_path, 5, data={"fingerprint": "b"})


def test_the_commit_is_none_outside_of_a_checkout(tmp_path, monkeypatch):
    monkeypatch.setattr(stugan_tf, "__file__", str(tmp_path / "stugan_tf" / "__init__.py"))
    monkeypatch.delenv("STUGAN_TF_COMMIT", raising=False)
    assert manifest.process()["commit"] is None
    monkeypatch.setenv("STUGAN_TF_COMMIT", "c0ffee")
    assert manifest.process()["commit"] == "c0ffee"
