"""Two processes on this machine that train as the workers of one run."""

import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import pytest

TINY = pathlib.Path(__file__).with_name("tiny.gin")


def free_addresses():
    sockets = [socket.create_server(("localhost", 0)) for _ in range(2)]
    addresses = [f"localhost:{s.getsockname()[1]}" for s in sockets]
    for s in sockets:
        s.close()
    return addresses


def start_workers(workdir):
    addresses = free_addresses()
    command = [sys.executable, "-m", "stugan_tf.train", f"--gin_file={TINY}"]
    command += [f"--workdir={workdir}", "--strategy=multi_worker"]
    command += ["--gin_param=Algorithm.total_steps = 200"]
    workers = []
    for index in range(2):
        task = {"type": "worker", "index": index}
        environment = {"TF_CONFIG": json.dumps({"cluster": {"worker": addresses}, "task": task})}
        workers.append(
            subprocess.Popen(
                command, env={**os.environ, **environment}, stderr=subprocess.PIPE, text=True
            )
        )
    return workers


def finish(workers):
    errors = [worker.communicate(timeout=400)[1] for worker in workers]
    return [worker.returncode for worker in workers], errors


def steps(workdir):
    path = workdir / "metrics.jsonl"
    return [json.loads(line)["step"] for line in path.open()] if path.exists() else []


@pytest.mark.slow
def test_a_signal_to_one_worker_saves_and_stops_all_and_they_resume(tmp_path):
    workdir = tmp_path / "run"
    workers = start_workers(workdir)
    while not steps(workdir) and all(worker.poll() is None for worker in workers):
        time.sleep(0.05)
    workers[1].send_signal(signal.SIGTERM)
    codes, errors = finish(workers)
    assert codes == [128 + signal.SIGTERM] * 2, errors
    codes, errors = finish(start_workers(workdir))
    assert codes == [0, 0], errors
    assert "resumed" in errors[0]
    assert steps(workdir) == list(range(5, 201, 5))
    assert not any(path.name.startswith("worker") for path in workdir.iterdir())
