"""Whose a workdir is, what its configuration fixes, and how a new one is numbered."""

import concurrent.futures
import pathlib
import shlex

import pytest

from stugan_tf.errors import InputError
from stugan_tf.files import local_path
from stugan_tf.runs.workdir import fixed_lines, numbered, settle


def test_new_workdirs_count_on_and_keep_what_was_written(tmp_path):
    root = tmp_path / "runs [mine]"
    (root / "00006-former").mkdir(parents=True)
    (root / "notes").mkdir()
    with numbered(root, "sngan-stu") as folder:
        assert folder == root / "00007-sngan-stu"
        (folder / "config.gin").write_text("")
    with numbered(root, "sngan-stu") as folder:
        assert folder == root / "00008-sngan-stu"
    assert not folder.exists()
    with pytest.raises(InputError), numbered(root, "wrong") as folder:
        raise InputError("Nothing was written.")
    assert not folder.exists()
    assert (root / "00007-sngan-stu" / "config.gin").exists()


def test_two_starts_at_once_get_two_numbers(tmp_path):
    def start(name):
        with numbered(tmp_path / "runs", name) as folder:
            (folder / "config.gin").write_text("")
            return folder.name[:5]

    with concurrent.futures.ThreadPoolExecutor() as pool:
        found = list(pool.map(start, "ab" * 8))
    assert sorted(found) == [f"{number:05d}" for number in range(16)]


def test_a_path_of_the_home_is_meant_and_a_bucket_refused(monkeypatch):
    monkeypatch.setenv("HOME", "/home/somebody")
    assert local_path("~/runs/a", "--workdir") == pathlib.Path("/home/somebody/runs/a")
    assert local_path("runs/[a]~", "--workdir") == pathlib.Path("runs/[a]~")
    for bucket in ("gs://mine/run", "s3://mine/run", "hdfs://x"):
        with pytest.raises(InputError, match=f"--workdir={bucket} is an address that begins with"):
            local_path(bucket, "--workdir")


SMALLEST = pathlib.Path(__file__).parents[1] / "helpers" / "smallest.gin"
ONE_STEP = [
    f"--gin_file={SMALLEST}",
    "--gin_param=Algorithm.total_steps = 1",
    "--gin_param=Algorithm.generator_exploration = None",
    "--gin_param=Algorithm.discriminator_exploration = None",
    "--gin_param=train.trackers = [@TensorBoard()]",
]


@pytest.mark.ci
@pytest.mark.usefixtures("untraced")
def test_a_run_without_a_workdir_gets_one_and_says_how_to_resume_it(tmp_path, monkeypatch, use):
    monkeypatch.chdir(tmp_path)
    code, _, _ = use("train", [*ONE_STEP, "--gin_param=GAN.generator_sparsity = 2"])
    assert code == 1
    code, output, errors = use("train", ONE_STEP)
    assert code == 0, errors
    assert "\nworkdir: runs/00000-smallest\nto resume: " in output
    following = output.partition("\nnext:\n")[2].splitlines()
    assert [line.split()[2] for line in following] == [
        f"stugan_tf.{name}" for name in ("report", "sample", "export")
    ]
    assert all(" --workdir=runs/00000-smallest " in line for line in following)
    (command,) = (line for line in output.splitlines() if line.startswith("to resume: "))
    code, output, errors = use("train", shlex.split(command)[5:])
    assert code == 0
    assert "step 1: resumed" in errors
    assert [path.name for path in tmp_path.glob("runs/0*")] == ["00000-smallest"]


FIXED = """
import models
GAN.width = 4
other_train.log_every = 3
train.seed = 1
train_x.trackers = 4
"""
FREE = """
# Parameters for MLflow:
MLflow.experiment = 'mine'
a/WandB.project = 'mine'
train.log_every = 7
train.trackers = \\
    [@TensorBoard(),
     @MLflow(),
     @a/WandB()]
train.checkpoint_minutes = 1.0
"""


def test_trackers_and_other_free_settings_do_not_make_another_configuration(tmp_path):
    assert fixed_lines(FREE) == []
    assert fixed_lines(FREE + FIXED) == fixed_lines(FIXED) == FIXED.split("\n")[1:-1]
    settle(tmp_path, FIXED)
    settle(tmp_path, FREE + FIXED)
    with pytest.raises(InputError, match=r"(?s)- train.seed = 1.*\+ train.seed = 2"):
        settle(tmp_path, FIXED.replace("seed = 1", "seed = 2"))


def test_scores_that_choose_the_best_checkpoint_stay_those_of_the_start(tmp_path):
    settle(tmp_path, "Evaluator.metrics = ('fid',)\n")
    with pytest.raises(InputError, match=r"\+ Evaluator.metrics = \('fid', 'kid'\)"):
        settle(tmp_path, "Evaluator.metrics = ('fid', 'kid')\n")


@pytest.mark.parametrize("name", ["漢" * 100, "x" * 300, "e\udce9" * 100])
def test_a_numbered_folder_has_a_name_that_file_systems_take(tmp_path, name):
    with numbered(tmp_path / "runs", name) as folder:
        assert folder.is_dir()
        assert folder.name.startswith(f"00000-{name[0]}")
