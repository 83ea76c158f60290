import fcntl
import json
import os
import pathlib
import platform
import re
import subprocess
import sys
import threading

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from stugan_tf.errors import InputError
from stugan_tf.files import (
    InUseError,
    JsonLines,
    append_json_line,
    local_path,
    locked,
    output_file,
    read_json,
    read_json_lines,
    without_patterns,
    write_atomically,
)


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


@pytest.fixture
def lock(tmp_path):
    return tmp_path / "new" / ".lock"


def test_what_is_locked_is_refused_and_the_message_says_who_has_it(lock):
    us = f"process {os.getpid()} on {platform.node()}"
    with locked(lock, "--output=new"):
        for _ in range(2):  # Who is refused leaves the name of who was not.
            with pytest.raises(InUseError, match=rf"^--output=new is in use by {re.escape(us)}\."):
                locked(lock, "--output=new").__enter__()
    with locked(lock, "--output=new"):
        pass
    assert lock.read_bytes() == b""  # Folders are published, the names of machines need not be.


def test_who_waits_is_told_for_whom_and_gets_the_lock_next(lock):
    with locked(lock, "new"):

        def stop(message):
            raise KeyboardInterrupt(message)

        with pytest.raises(KeyboardInterrupt, match=f"new is in use by process {os.getpid()} .*g$"):
            locked(lock, "new", stop).__enter__()
    with locked(lock, "new", stop):
        pass


def test_a_child_that_keeps_the_descriptor_keeps_the_lock(lock):
    command = [sys.executable, "-S", "-c", "input()"]
    with locked(lock, "new") as descriptor:
        child = subprocess.Popen(command, stdin=subprocess.PIPE, pass_fds=[descriptor])
    with pytest.raises(InUseError):
        locked(lock, "new").__enter__()
    child.communicate(b"\n")
    with locked(lock, "new"):
        pass


@pytest.mark.parametrize("content", ["", "12", "7 elsewhere", "0 {host}", "{dead} {host}"])
def test_nobody_is_named_who_is_gone(lock, content):
    dead = subprocess.Popen([sys.executable, "-S", "-c", ""])
    dead.wait()
    lock.parent.mkdir()
    lock.write_text(content.format(host=platform.node(), dead=dead.pid))
    with open(lock) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        holder = "process 7 on elsewhere" if "elsewhere" in content else "another process"
        with pytest.raises(InUseError, match=f"new is in use by {holder}"):
            locked(lock, "new").__enter__()


def test_where_nothing_can_be_written_is_no_place_to_lock(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"--output=file cannot be written to: .* Choose a folder"):
        locked(tmp_path / "file" / ".lock", "--output=file").__enter__()


def test_without_locks_one_goes_on(lock, monkeypatch):
    """As on a bucket that is mounted."""

    def refuse(*_):
        raise OSError(95, os.strerror(95))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with locked(lock, "new"), locked(lock, "new"):
        pass


@pytest.mark.parametrize(
    "name", ["a", "runs/[a]", "a b", "*", ".hidden", "ü", "a:b", "C:/x", "a//b", "x~", "[x]://"]
)
def test_any_name_of_a_folder_is_a_path(name):
    assert str(local_path(name, "--workdir")) == os.path.normpath(name)


def test_the_home_is_expanded(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert local_path("~/runs/a", "--workdir") == tmp_path / "runs" / "a"
    assert local_path("~", "--workdir") == tmp_path


@pytest.mark.parametrize("address", ["gs://bucket/run", "s3://b", "hdfs://n/x", "file:///tmp/x"])
def test_an_address_is_refused(address):
    scheme = address.partition("//")[0]
    with pytest.raises(InputError, match=f"--workdir={address} is an .* begins with {scheme}//,"):
        local_path(address, "--workdir")


def test_a_folder_whose_name_is_a_pattern_is_read_through_another(tmp_path):
    plain, special = tmp_path / "plain", tmp_path / "[a]*"
    for folder in (plain, special):
        folder.mkdir()
        (folder / "file").write_text(folder.name)
        with without_patterns(folder) as found:
            assert (found / "file").read_text() == folder.name
            assert "[" not in str(found)
        assert list(folder.iterdir()) == [folder / "file"]
    with without_patterns(plain) as found:
        assert found == plain


FOREIGN = [
    '{"note": "hi"}',
    '{"step": null}',
    '{"step": "15"}',
    '{"step": true}',
    "[]",
    "text",
    "7",
]


def test_lines_that_are_no_records_do_not_stop_a_resume(tmp_path):
    path = tmp_path / "metrics.jsonl"
    lines = ['{"step": 1}', *FOREIGN, '{"step": 2}', '{"step": 3}']
    path.write_text("\n".join(lines) + "\n")
    assert [record["step"] for record in read_json_lines(path)] == [1, 2, 3]
    JsonLines(path, 2).close()
    assert path.read_text() == '{"step": 1}\n{"step": 2}\n'


def test_what_others_add_while_a_run_resumes_is_kept(tmp_path):
    """As many lines as an evaluation adds, beside runs that resume again and again."""
    path = tmp_path / "evaluations.jsonl"
    over = threading.Event()

    def resume():
        while not over.is_set():
            JsonLines(path, 10**6).close()

    threads = [threading.Thread(target=resume) for _ in range(2)]
    for thread in threads:
        thread.start()
    for step in range(200):
        append_json_line(path, {"step": step})
    over.set()
    for thread in threads:
        thread.join()
    assert [record["step"] for record in read_json_lines(path)] == list(range(200))


@pytest.mark.parametrize(
    ("content", "reason"),
    [("", "empty"), (" \n", "empty"), ('{"a": ', "not JSON"), ("[]", "not a JSON object")],
)
def test_a_damaged_record_is_told(tmp_path, content, reason):
    path = tmp_path / "run.json"
    assert read_json(path) == {}
    path.write_text(content)
    with pytest.raises(ValueError, match=reason):
        read_json(path)


def test_a_path_of_output_is_checked_before_there_is_work_to_lose(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes.txt").write_text("")
    (tmp_path / "folder.json").mkdir()
    for good in ("scores.json", f"{tmp_path}/new/folder/SCORES.JSON"):
        assert output_file(good, "--output", [".json"]) == pathlib.Path(good)
    assert output_file("notes.txt", "--output") == pathlib.Path("notes.txt")
    for bad, told in (
        ("scores.txt", "--output=scores.txt must end in .json or .jsonl"),
        ("folder.json", "folder.json is a folder"),
        ("notes.txt/scores.json", "notes.txt is not a folder"),
        ("gs://bucket/scores.json", "is an address"),
    ):
        with pytest.raises(InputError, match=told):
            output_file(bad, "--output", [".json", ".jsonl"])
    assert not (tmp_path / "new").exists()
