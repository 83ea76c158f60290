"""Two processes on this machine that train as the workers of one run."""

import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import time

import pytest

TINY = pathlib.Path(__file__).parents[1] / "helpers" / "tiny.gin"


def free_addresses():
    sockets = [socket.create_server(("localhost", 0)) for _ in range(2)]
    addresses = [f"localhost:{s.getsockname()[1]}" for s in sockets]
    for s in sockets:
        s.close()
    return addresses


EVERY_SCORE = (
    "train.evaluator = @Evaluator",
    "train.evaluate_every = 80",
    "train.best_by = 'fid'",
    "Evaluator.extractor = @digits_classifier",
    "Evaluator.num_images = 90",
    "Evaluator.batch_size = 20",
    "Evaluator.batch_norm = 'standing'",
    "Evaluator.num_splits = 2",
)


def start_workers(workdir):
    addresses = free_addresses()
    command = [sys.executable, "-m", "stugan_tf.train", f"--gin_file={TINY}"]
    command += [f"--workdir={workdir}", "--strategy=multi_worker"]
    cache = f"Evaluator.cache_dir = '{workdir.parent / 'cache'}'"
    settings = ("Algorithm.total_steps = 200", cache, *EVERY_SCORE)
    command += [f"--gin_param={setting}" for setting in settings]
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


def assert_same_scores(errors, records):
    """Both workers say the same of an evaluation, and it is what was recorded."""
    said = [re.findall(r"^step (\d+): fid (\S+) .*", text, re.MULTILINE) for text in errors]
    assert said[0] == said[1]
    recorded = {str(record["step"]): f"{record['fid']:.4g}" for record in records}
    assert said[0]
    assert dict(said[0]).items() <= recorded.items()


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
    records = [json.loads(line) for line in (workdir / "evaluations.jsonl").open()]
    assert [record["step"] for record in records] == [80, 160, 200]
    assert_same_scores(errors, records)
    assert not any(path.name.startswith("worker") for path in workdir.iterdir())
