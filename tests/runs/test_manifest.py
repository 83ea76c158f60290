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


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "it is empty"),
        ('{"data": {"fing', "it is not JSON"),
        ("[]", "it is not a JSON object"),
        ('{"data": 1}', "'data' is not a JSON object"),
        ('{"resumes": {}}', "'resumes' is not a JSON array"),
        ('{"resumes": [1]}', "'resumes' holds"),
        ('{"resumes": [{"versions": 3}]}', "'versions' is not a JSON object"),
        ('{"devices": "CPU"}', "'devices' is not a JSON array"),
        ('{"finished": {"step": "5"}}', "'finished' has no 'step'"),
        ('{"failed": {}}', "'failed' has no 'reason'"),
    ],
)
def test_a_damaged_record_is_named_with_what_to_do(tmp_path, content, reason):
    (tmp_path / "run.json").write_text(content)
    for act in (
        lambda: manifest.read_manifest(tmp_path),
        lambda: manifest.record_start(tmp_path, 5, data={"fingerprint": "a"}),
        lambda: manifest.record_end(tmp_path, 5),
    ):
        with pytest.raises(InputError, match=rf"run.json is damaged: {reason}.*remove it"):
            act()
    (tmp_path / "run.json").unlink()
    manifest.record_start(tmp_path, 5, data={"fingerprint": "a"})


def test_a_record_without_data_or_resumes_is_filled_in(tmp_path):
    (tmp_path / "run.json").write_text('{"seed": 3}')
    assert manifest.record_start(tmp_path, 5, data={"fingerprint": "a"}) == ""
    assert len(manifest.read_manifest(tmp_path)["resumes"]) == 1


def test_another_number_of_threads_is_recorded_and_told(tmp_path, monkeypatch):
    data = {"fingerprint": "a"}
    monkeypatch.setenv(manifest.THREADS, "2")
    assert manifest.record_start(tmp_path, 0, data=data) == ""
    assert manifest.record_start(tmp_path, 5, data=data) == ""
    monkeypatch.setenv(manifest.THREADS, "3")
    told = manifest.record_start(tmp_path, 7, data=data)
    assert "computed with 2 CPU threads and goes on with 3" in told
    assert f"{manifest.THREADS}=2" in told
    written = manifest.read_manifest(tmp_path)
    assert [start["threads"] for start in (written, *written["resumes"])] == [2, 2, 3]


def test_without_a_setting_threads_are_the_cores_of_the_process(monkeypatch):
    monkeypatch.delenv(manifest.THREADS, raising=False)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {1, 4, 5}, raising=False)
    assert manifest.num_threads() == 3


def test_other_code_is_told_until_it_is_what_the_run_goes_on_with(tmp_path, monkeypatch):
    data = {"fingerprint": "a"}
    monkeypatch.setattr(manifest, "process", lambda: dict(here))
    here = {"devices": [], "commit": "a1", "versions": {"tensorflow": "2.20.0", "keras": "3.14"}}
    assert manifest.record_start(tmp_path, 0, data=data) == ""
    here = {**here, "commit": "b2", "versions": {"tensorflow": "2.21.0", "keras": "3.14"}}
    told = manifest.record_start(tmp_path, 5, data=data)
    assert "tensorflow 2.20.0 before, 2.21.0 now; commit a1 before, b2 now" in told
    assert "keras" not in told
    assert manifest.record_start(tmp_path, 7, data=data) == ""
    here = {**here, "commit": None}
    assert manifest.record_start(tmp_path, 8, data=data) == ""
