"""The served folder holds whole models at every moment, and numbers are used once."""

import json
import shutil

import pytest

from stugan_tf.errors import FailedRun, InputError
from stugan_tf.pipelines import lineage, serving
from stugan_tf.serving import artifact


@pytest.fixture(autouse=True)
def tried(monkeypatch):
    """Stands in for loading: a model is a text, and some do not work."""
    seen = []

    def try_out(path):
        seen.append(path)
        if (path / "model").read_text() == "broken":
            raise FailedRun("The export does not work")

    monkeypatch.setattr(serving, "try_out", try_out)
    return seen


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "serving"


def push(folder, name, text=None):
    source = folder.parent / f"exported_{name}"
    source.mkdir(exist_ok=True)
    (source / "model").write_text(text or name)
    baseline = max(artifact.versions(folder), default=None)
    return serving.push(folder, source, {"export": name, "baseline": baseline, "scores": {}})


def served(folder):
    version = artifact.versions(folder)[-1]
    return version, (folder / str(version) / "model").read_text()


def test_each_export_becomes_the_next_version_once(folder):
    assert serving.current(folder) is None
    assert [push(folder, name) for name in ("a", "b", "a", "b")] == [1, 2, 1, 2]
    assert served(folder) == (2, "b")
    assert serving.current(folder)["export"] == "b"


def test_what_does_not_work_replaces_nothing(folder, tried):
    push(folder, "a")
    with pytest.raises(FailedRun, match="does not work"):
        push(folder, "b", "broken")
    assert served(folder) == (1, "a")
    assert [path.name for path in folder.iterdir() if path.name != ".lock"] == ["1"]
    assert tried[-1].name.startswith(".")  # It was tried before it could be seen.


@pytest.mark.parametrize("function", ["copytree", "_sync", "rename"])
def test_a_kill_leaves_what_is_served_and_the_push_goes_on(folder, monkeypatch, function):
    push(folder, "a")

    class Killed(BaseException):
        pass

    def die(*arguments, **options):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", lambda *a, **o: None)  # A kill tidies nothing up.
        target = {"copytree": shutil, "_sync": artifact, "rename": serving.pathlib.Path}[function]
        patch.setattr(target, function, die)
        with pytest.raises(Killed):
            push(folder, "b")
    assert served(folder) == (1, "a")
    assert push(folder, "b") == 2
    assert served(folder) == (2, "b")
    assert not list(folder.glob(".writing_*"))


def test_a_roll_back_is_recorded_and_sticks(folder):
    for name in "abc":
        push(folder, name)
    assert serving.roll_back(folder, reason="artefacts") == (2, [3])
    assert served(folder) == (2, "b")
    with pytest.raises(InputError, match="was withdrawn: artefacts"):
        push(folder, "c")
    assert push(folder, "d") == 4  # 3 is taken for ever.
    assert serving.roll_back(folder, 1) == (1, [4, 2])
    assert served(folder) == (1, "a")
    states = {r["version"]: "withdrawn" in r for r in serving.history(folder)}
    assert states == {1: False, 2: True, 3: True, 4: True}


def test_a_withdrawn_version_can_be_brought_back(folder):
    for name in "ab":
        push(folder, name)
    serving.roll_back(folder)
    assert serving.roll_back(folder, 2) == (2, [])
    assert served(folder) == (2, "b")
    assert push(folder, "b") == 2
    assert not any("withdrawn" in record for record in serving.history(folder))


def test_a_kill_while_a_version_is_brought_back_leaves_it_withdrawn_or_served(folder, monkeypatch):
    for name in "ab":
        push(folder, name)
    serving.roll_back(folder, reason="odd sevens")

    class Killed(BaseException):
        pass

    def die(*arguments, **options):
        raise Killed

    for function in ("rename", "unlink"):
        with monkeypatch.context() as patch:
            patch.setattr(serving.pathlib.Path, function, die)
            with pytest.raises(Killed):
                serving.roll_back(folder, 2)
        state = {record["version"]: record.get("withdrawn") for record in serving.history(folder)}
        assert served(folder)[0] == (1 if function == "rename" else 2)
        assert (state[2] is None) == (function == "unlink")
        assert function == "unlink" or state[2]["reason"] == "odd sevens"


def test_what_is_withdrawn_is_so_without_a_reason_too(folder):
    for name in "ab":
        push(folder, name)
    serving.roll_back(folder)
    (folder / serving.WITHDRAWN / "2" / serving.REASON).unlink()
    assert serving.history(folder)[1]["withdrawn"]["reason"] == "not known"
    with pytest.raises(InputError, match="was withdrawn"):
        push(folder, "b")


def test_a_model_that_was_pushed_before_is_not_said_to_be_served(folder):
    for name in "ab":
        push(folder, name)
    assert serving.after_push(folder, push(folder, "b")) == f"Version 2 is served from {folder}."
    assert "as version 1; version 2 is served" in serving.after_push(folder, push(folder, "a"))


def test_there_must_be_something_to_go_back_to(folder):
    push(folder, "a")
    with pytest.raises(InputError, match="no earlier version"):
        serving.roll_back(folder)
    with pytest.raises(InputError, match="no version 7"):
        serving.roll_back(folder, 7)
    with pytest.raises(InputError, match="no folder"):
        serving.roll_back(folder / "nowhere")
    assert served(folder) == (1, "a")


def test_a_model_that_no_longer_works_is_not_gone_back_to(folder):
    for name in "ab":
        push(folder, name)
    (folder / "1" / "model").write_text("broken")
    with pytest.raises(FailedRun):
        serving.roll_back(folder)
    assert served(folder) == (2, "b")


def test_versions_of_others_are_not_touched(folder):
    (folder / "5").mkdir(parents=True)
    with pytest.raises(InputError, match="not pushed by a pipeline"):
        push(folder, "a")


RECORD = {
    "version": 2,
    "pushed": "2026-01-02T03:04:05+00:00",
    "export": "e",
    "baseline": 1,
    "step": 7,
    "scores": {"fid": 12.5, "kid": None},
    "protocol": {"id": "abcd", "extractor": {"name": "digits", "sha256": "77"}},
    "blessing": {"checks": [{"passed": True, "words": "fid is 12.5 <better> than 13"}]},
    "size": {
        "bytes": 1000,
        "sparsity": 0.8,
        "active_weights": 20,
        "theoretical_flops_per_image": 5e4,
        "format": "saved_model",
    },
    "data": {
        "fingerprint": "f1f2",
        "shards": "s1",
        "statistics": {
            "source": "digits",
            "images": 1797,
            "image_shape": [8, 8, 1],
            "shards": 3,
            "classes": {"cat": 900, "dog": 897},
            "anomalies": {"duplicates": [[1, 2]], "blank": []},
        },
    },
    "training": {
        "commit": "c0ffee",
        "versions": {"tensorflow": "2.21"},
        "seed": 4,
        "command": "python -m stugan_tf.train",
        "time": "2026-01-02T00:00:00+00:00",
        "finished": {"step": 7, "time": "2026-01-02T01:00:00+00:00"},
        "resumes": [{}],
    },
    "gin": "train.seed = 4\n",
    "folders": {"ingest": "ingest/1", "train": "train/1", "evaluate": "e/1", "export": "x/1"},
}


def test_lineage_leads_back_to_data_configuration_commit_and_scores():
    withdrawn = {"time": "2026-01-03T03:04:05+00:00", "reason": "odd <sevens>"}
    former = {**RECORD, "version": 1, "scores": {"fid": 13.0}, "withdrawn": withdrawn}
    page = lineage.drawn(RECORD, [former, RECORD])
    for fact in ("f1f2", "c0ffee", "train.seed = 4", "12.5", "abcd", "1 duplicates", "cat"):
        assert fact in page
    assert "&lt;better&gt;" in page
    assert 'class="withdrawn"' in page
    assert "withdrawn 2026-01-03 03:04:05 UTC: odd &lt;sevens&gt;" in page
    assert json.dumps(lineage.sections(RECORD))
