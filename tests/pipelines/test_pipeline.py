"""The real pipeline on digits: killed, gone on with, run again, and asked to push a worse model."""

import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from stugan_tf.pipelines import serving, steps
from stugan_tf.pipelines.configuration import Configuration
from stugan_tf.serving import load
from tests.helpers.commands import SMALLEST, TINY

ROOT = pathlib.Path(__file__).parents[2]
PIPELINE = f"""
import stugan_tf.pipelines.settings
include '{SMALLEST}'
Algorithm.total_steps = 40
train.checkpoint_every = 5
Ingest.num_shards = 2
Score.gin_params = [
    'Evaluator.extractor = @digits_classifier',
    'Evaluator.num_images = 300',
    "Evaluator.metrics = ['fid']",
]
Bless.min_sparsity = 0.6
"""


def command(gin, root, *flags):
    module = ["-m", "stugan_tf.pipelines.run", f"--gin_file={gin}", f"--pipeline_root={root}"]
    return [sys.executable, *module, *flags]


def run(*arguments):
    return subprocess.run(command(*arguments), cwd=ROOT, capture_output=True, text=True)


def wait_for(root, pattern, process):
    while not list(root.glob(pattern)):
        assert process.poll() is None
        time.sleep(0.1)


@pytest.mark.ci
def test_the_digits_pipeline(tmp_path):
    gin, root = tmp_path / "pipeline.gin", tmp_path / "root"
    gin.write_text(PIPELINE)

    # Killed in the middle of the training, and gone on with.
    with subprocess.Popen(command(gin, root), cwd=ROOT, start_new_session=True) as process:
        wait_for(root, "train/*/workdir/checkpoints/step_00000005", process)
        os.kill(process.pid, signal.SIGKILL)
    first = run(gin, root)
    assert first.returncode == 0, first.stderr
    assert "ingest: unchanged" in first.stdout
    record = serving.current(root / "serving")
    assert record["version"] == 1
    assert len(record["training"]["resumes"]) == 1
    assert record["training"]["finished"]["step"] == 40

    # The features that Beam left were read, not computed anew.
    (evaluated,) = root.glob("evaluate/*/log.txt")
    assert "real images" not in evaluated.read_text()
    assert len(list(root.glob("statistics/*.npz"))) == 1

    # It is what TensorFlow Serving would serve.
    images = load(root / "serving")(4, seed=1)
    assert images.shape == (4, 8, 8, 1)
    assert images.dtype == np.uint8

    # A second run checks, and does nothing.
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*") if path.name != ".lock"}
    second = run(gin, root)
    assert second.returncode == 0, second.stderr
    assert "Nothing has changed" in second.stdout
    assert second.stdout.count("unchanged") == 8
    after = {path: path.stat().st_mtime_ns for path in root.rglob("*") if path.name != ".lock"}
    assert after == before


@pytest.mark.slow
def test_a_model_that_hardly_learnt_is_refused_and_the_version_stays(tmp_path):
    gin, root = tmp_path / "pipeline.gin", tmp_path / "root"
    gin.write_text(PIPELINE.replace(str(SMALLEST), str(TINY)))  # It learns more in 40 steps.
    first = run(gin, root)
    assert first.returncode == 0, first.stderr
    record = serving.current(root / "serving")
    worse = run(
        gin, root, "--gin_param=MaskedAdam.learning_rate = 1e-9", "--gin_param=train.seed = 1"
    )
    if worse.returncode == 0:  # Of two bad models the untrained one may be the better.
        pytest.fail(worse.stdout)
    assert worse.returncode == 2, worse.stderr
    assert "worse than" in worse.stdout
    assert serving.current(root / "serving") == record


@pytest.mark.slow
def test_kfp_runs_the_same_components(tmp_path, monkeypatch):
    kfp_local = pytest.importorskip("kfp.local")
    from stugan_tf.pipelines import configuration, kubeflow
    from stugan_tf.pipelines.settings import Cluster

    gin, root = tmp_path / "pipeline.gin", tmp_path / "root"
    gin.write_text(PIPELINE)
    found = configuration.read([gin])
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    kfp_local.init(
        runner=kfp_local.SubprocessRunner(use_venv=False), pipeline_root=str(tmp_path / "kfp")
    )
    kubeflow.build(found, Cluster(image="not used"), str(root))()
    record = serving.current(root / "serving")
    assert record["version"] == 1
    # What it left in the root is what `stugan_tf.pipelines.run` finds there.
    again = run(gin, root)
    assert again.returncode == 0, again.stderr
    assert "Nothing has changed" in again.stdout
    assert steps.Context(root, Configuration(**vars(found))).serving == root / "serving"
