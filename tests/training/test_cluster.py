"""What TF_CONFIG may say; and what is said of workers that are missing."""

import contextlib
import json
import socket
import time

import pytest

from stugan_tf.errors import InputError
from stugan_tf.training.cluster import announce, announced, check_port, read_cluster
from stugan_tf.training.strategies import create_strategy, is_chief

TWO = {"worker": ["one:2222", "two:2222"]}
FIRST = {"type": "worker", "index": 0}


def text_of(cluster=TWO, task=FIRST, **more):
    return json.dumps({"cluster": cluster, "task": task, **more})


@pytest.mark.parametrize(
    ("text", "own", "addresses"),
    [
        (text_of(), "worker 0", ["one:2222", "two:2222"]),
        (text_of(task={"type": "worker", "index": "1"}), "worker 1", ["one:2222", "two:2222"]),
        (
            text_of({"worker": ["b:1"], "chief": ["a:65535"]}, {"type": "chief", "index": 0}),
            "chief 0",
            ["a:65535", "b:1"],
        ),
        (text_of({"worker": ["[::1]:2222"]}), "worker 0", ["[::1]:2222"]),
        (text_of(environment="cloud", job={}), "worker 0", ["one:2222", "two:2222"]),
    ],
)
def test_a_right_configuration_is_read(text, own, addresses):
    cluster = read_cluster(text)
    assert cluster.own == own
    assert list(cluster.addresses.values()) == addresses


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "needs the environment variable TF_CONFIG"),
        ("", "is empty"),
        ("{'cluster': 1}", "is not JSON"),
        ("[]", "must be a JSON object, got []"),
        ("{}", "has no 'cluster'"),
        (
            json.dumps({"clusters": TWO, "task": {"type": "worker", "index": 1}}),
            "has no 'cluster', but 'clusters'.",
        ),
        (json.dumps({"cluster": TWO}), "has no 'task'"),
        (json.dumps({"cluster": TWO, "tasks": FIRST}), "has no 'task', but 'tasks'."),
        (text_of(["one:2222"]), "must have a JSON object as 'cluster', got"),
        (text_of({}), "lists no worker"),
        (text_of({"worker": []}), "lists no worker"),
        (text_of({"worker": "one:2222"}), "a list of addresses as 'worker', got"),
        (text_of({"workers": ["one:2222"]}), "processes of the kind 'workers'"),
        (text_of({**TWO, "ps": ["three:2222"]}), "processes of the kind 'ps'"),
        (text_of({**TWO, "master": ["three:2222"]}), "processes of the kind 'master'"),
        (text_of({**TWO, "chief": ["a:1", "b:1"]}), "lists several chiefs"),
        (text_of({"worker": ["one", "two:2222"]}), "must give worker 0 an address"),
        (text_of({"worker": ["one:2222", "two:0"]}), "must give worker 1 an address"),
        (text_of({"worker": ["one:2222", "two:65536"]}), "must give worker 1 an address"),
        (text_of({"worker": ["http://one:2222"]}), "must give worker 0 an address"),
        (text_of({"worker": [2222]}), "must give worker 0 an address"),
        (text_of({"worker": ["one:1", "ONE:1"]}), "worker 0 and worker 1 the same address"),
        (text_of({"chief": ["one:1"], "worker": ["one:1"]}), "chief 0 and worker 0 the same"),
        (text_of(task=[]), "must have a JSON object as 'task', got []"),
        (text_of(task={"index": 0}), "must have 'chief' or 'worker' as type of 'task', got null"),
        (text_of(task={"type": "master", "index": 0}), 'got "master"'),
        (text_of(task={"type": "evaluator", "index": 0}), "makes this process an evaluator"),
        (text_of(task={"type": ["worker"], "index": 0}), "as type of 'task', got ["),
        (text_of(task={"type": "worker"}), "an integer as index of 'task', got null"),
        (text_of(task={"type": "worker", "index": 0.0}), "an integer as index of 'task'"),
        (text_of(task={"type": "worker", "index": True}), "an integer as index of 'task'"),
        (text_of(task={"type": "worker", "index": -1}), "makes this process worker -1, but lists"),
        (text_of(task={"type": "worker", "index": 2}), "lists only worker 0, worker 1"),
        (text_of(task={"type": "chief", "index": 0}), "makes this process chief 0, but lists only"),
    ],
)
def test_a_wrong_configuration_is_refused_in_words(text, message):
    with pytest.raises(InputError) as error:
        read_cluster(text)
    assert message in str(error.value)
    assert "TF_CONFIG" in str(error.value)


@contextlib.contextmanager
def listening():
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def cluster_of(own, *others):
    return read_cluster(text_of({"worker": [own, *others]}))


def test_a_port_that_another_process_has_is_refused():
    with listening() as port, pytest.raises(InputError, match=r"worker 0, the address .* in use"):
        check_port(cluster_of(f"localhost:{port}"))
    check_port(cluster_of(f"localhost:{port}"))


def test_missing_workers_are_named_with_the_reason_until_all_have_answered(capfd):
    with listening() as late:
        pass
    with listening() as there:
        others = f"127.0.0.1:{there}", f"127.0.0.1:{late}", "no.such.host.invalid:1"
        looks = iter([False, True])
        announce(cluster_of("localhost:1", *others), 0.001, lambda: next(looks))
        announce(cluster_of("localhost:1", others[0]), 0.001, lambda: False)
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("worker 0 waits for 2 of 4 workers, for 0:00:0")
    assert f"worker 2 at 127.0.0.1:{late} (connection refused)" in line
    assert "worker 3 at no.such.host.invalid:1 (there is no such host)" in line
    assert "worker 1" not in line


def test_a_process_of_its_own_says_who_is_missing_while_this_one_waits(capfd, monkeypatch):
    with listening() as late:
        pass
    text = text_of({"worker": ["localhost:1", f"127.0.0.1:{late}"]})
    monkeypatch.setenv("TF_CONFIG", text)
    said, end = "", time.monotonic() + 60
    with announced(read_cluster(text), 0.01):
        while "\n" not in said and time.monotonic() < end:
            time.sleep(0.02)
            said += capfd.readouterr().err
    assert said.startswith("worker 0 waits for 1 of 2 workers")
    assert capfd.readouterr().err.splitlines()[-1].startswith("all 2 workers are there, after ")


def test_a_strategy_that_leaves_other_workers_out_says_so(monkeypatch, caplog):
    monkeypatch.setenv("TF_CONFIG", text_of({"worker": ["one:2222"]}))
    create_strategy("one_device")
    assert not caplog.text
    monkeypatch.setenv("TF_CONFIG", text_of())
    create_strategy("one_device")
    assert "TF_CONFIG lists 2 workers, but --strategy=one_device works in each" in caplog.text


def test_a_worker_without_a_cluster_is_refused_before_tensorflow_sees_it(monkeypatch):
    """TensorFlow would train alone, as another worker than the one that writes."""
    monkeypatch.setenv("TF_CONFIG", json.dumps({"task": {"type": "worker", "index": 1}}))
    with pytest.raises(InputError, match="TF_CONFIG has no 'cluster'"):
        create_strategy("multi_worker")


def test_what_is_one_process_writes(monkeypatch):
    monkeypatch.setenv("TF_CONFIG", text_of(task={"type": "worker", "index": 1}))
    assert is_chief(create_strategy("one_device"))
