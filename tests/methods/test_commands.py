"""Methods of several phases as commands."""

import json
import os
import pathlib
import random
import signal
import socket
import subprocess
import sys
import time

import pytest

from stugan_tf.runs.status import status_of
from tests.helpers.commands import SMALLEST
from tests.helpers.small import assert_same_phase, manifest

ROOT = pathlib.Path(__file__).parents[2]
GIN = ROOT / "gin" / "methods"
FEW_STEPS = "Algorithm.total_steps = 4"


def flags_of(method, *bindings, base=SMALLEST):
    parameters = [f"--gin_param={binding}" for binding in bindings]
    return [f"--gin_file={base}", f"--gin_file={GIN / method}.gin", *parameters]


@pytest.mark.ci
def test_a_method_is_planned_trained_and_looked_at_by_the_usual_commands(use, tmp_path):
    flags = [*flags_of("prune_and_finetune_uniform", FEW_STEPS), f"--workdir={tmp_path / 'run'}"]
    code, planned, errors = use("train", [*flags, "--dry_run"])
    assert code == 0, errors
    assert "-> dense: training without zeros" in planned
    assert "prune_uniformly (generator to 70.00% zeros)" in planned
    assert not (tmp_path / "run").exists()
    code, _, errors = use("train", flags)
    assert code == 0, errors
    assert "dense (1 of 2)  step 4/4" in errors
    assert "finetune (2 of 2)  step 4/4" in errors
    config = (tmp_path / "run" / "config.gin").read_text()
    assert "prune_and_finetune.pruning = @prune_uniformly" in config
    assert "GAN.generator_sparsity = 0.7" in config
    dense, finetune = (
        (tmp_path / "run" / name / "config.gin").read_text() for name in ("dense", "finetune")
    )
    assert dense == finetune
    assert "GAN.generator_sparsity = 0.0" in dense
    assert "prune_and_finetune" not in dense

    workdir = f"--workdir={tmp_path / 'run'}"
    # What it wrote is the whole of it.
    code, _, errors = use("train", [f"--gin_file={tmp_path / 'run' / 'config.gin'}", workdir])
    assert code == 0, errors
    assert "step 4: resumed" in errors
    code, told, errors = use("report", [workdir])
    assert code == 0, errors
    assert "finetune: checkpoint of step 4" in told
    assert told.splitlines()[2].split()[:3] == ["finetune", "finished", "4"]
    assert "theoretical FLOPs of the 8 steps logged so far in 2 phases:" in told
    # Of 648 weights in kernels of 576 and 72, floor(0.7 n) are zero in each.
    assert f"sparsity {(403 + 50) / 648:.4f} of the 648 weights" in told
    code, told, errors = use("sample", [workdir, f"--output={tmp_path / 'grid.png'}", "--num=4"])
    assert code == 0, errors
    assert told.startswith("step 4: ")

    code, _, errors = use(
        "train", [*flags, "--gin_param=prune_and_finetune.pruning = @prune_jointly"]
    )
    assert code == 1
    assert "belongs to another configuration" in errors
    assert "+ prune_and_finetune.pruning = @prune_jointly" in errors


def test_a_report_of_what_would_be_trained_lists_the_phases(use):
    flags = flags_of("tickets_gd", "SPARSITY = 0.36", FEW_STEPS)
    code, planned, errors = use("report", flags)
    assert code == 0, errors
    assert "generator and discriminator pruned to 36.00% zeros" in planned
    assert "round_03" not in planned


@pytest.mark.slow
@pytest.mark.parametrize("method", ["prune_and_finetune_gd", "tickets_gd"])
def test_a_method_killed_at_random_moments_ends_like_an_uninterrupted_one(method, tmp_path):
    bindings = [
        "SPARSITY = 0.36",
        "Algorithm.total_steps = 20",
        "train.checkpoint_every = 2",
        "train.keep_checkpoints = 20",
        "train.log_every = 2",
    ]

    def start(name):
        command = [sys.executable, "-m", "stugan_tf.train", *flags_of(method, *bindings)]
        return subprocess.Popen([*command, f"--workdir={tmp_path / name}"], stderr=subprocess.PIPE)

    whole = start("uninterrupted")
    _, errors = whole.communicate()
    assert whole.returncode == 0, errors
    moments, num_kills = random.Random(0), 0
    for _ in range(4):
        process = start("killed")
        for _ in range(moments.randrange(8, 22)):  # Lines of its log; a phase has 12.
            process.stderr.readline()
        time.sleep(moments.uniform(0, 0.3))
        process.kill()
        process.communicate()
        assert process.returncode in (-signal.SIGKILL, 0)  # It may have come to its end.
        num_kills += process.returncode != 0
    assert num_kills >= 2
    process = start("killed")
    _, errors = process.communicate()
    assert process.returncode == 0, errors
    phases = json.loads((tmp_path / "killed" / "phases.json").read_text())["phases"]
    for phase in phases:
        assert_same_phase(
            tmp_path / "killed" / phase["name"], tmp_path / "uninterrupted" / phase["name"]
        )


@pytest.mark.slow
def test_two_workers_go_through_the_phases_together(tmp_path):
    sockets = [socket.create_server(("localhost", 0)) for _ in range(2)]
    addresses = [f"localhost:{one.getsockname()[1]}" for one in sockets]
    for one in sockets:
        one.close()
    command = [sys.executable, "-m", "stugan_tf.train", "--strategy=multi_worker"]
    command += [*flags_of("tickets_gd", "SPARSITY = 0.36", FEW_STEPS)]
    workers = []
    for index in range(2):
        cluster = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
        workers.append(
            subprocess.Popen(
                [*command, f"--workdir={tmp_path / 'run'}"],
                env={**os.environ, "TF_CONFIG": json.dumps(cluster)},
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    errors = [worker.communicate(timeout=500)[1] for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0], errors
    assert status_of(tmp_path / "run").is_over
    weights = manifest(tmp_path / "run" / "round_02")["weights"]
    assert weights["generator"]["active"] == pytest.approx(648 * 0.64, abs=1)
    assert all("round_02 (3 of 3)  step 4/4" in text for text in errors)
