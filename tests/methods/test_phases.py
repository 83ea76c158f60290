"""What all methods of several phases share: pre-trainings, their lock, scores, the overview."""

import fcntl
import json
import os
import threading

import pytest

from stugan_tf.errors import InputError
from stugan_tf.methods import phases
from stugan_tf.methods.phases import SinglePhase
from stugan_tf.methods.prune_and_finetune import prune_and_finetune
from stugan_tf.methods.tickets import tickets
from stugan_tf.runs import phases as overview
from stugan_tf.runs.checkpoints import Checkpoints
from stugan_tf.runs.manifest import record_start
from stugan_tf.runs.status import status_of
from stugan_tf.sparsity.exploration import Exploration
from tests.helpers.small import STEPS, killed, manifest, opening, states

GENERATOR_ALONE = {"generator": 0.5, "discriminator": 0.0}


class Means:
    """An evaluator: how bright the images of a few latents are."""

    metrics = {"brightness": max, "darkness": min}  # noqa: RUF012
    protocol = {"images": 4}  # noqa: RUF012

    def __init__(self, source, strategy):
        del source, strategy
        self.num_calls = 0

    def prepare(self):
        pass

    def __call__(self, gan):
        del gan
        self.num_calls += 1
        value = float(self.num_calls % 2)
        return {"brightness": value, "darkness": -value, "protocol": self.protocol}


@pytest.fixture(scope="module")
def sharing(tmp_path_factory):
    """Two methods that share a dense training, killed in the midst of it by the first."""
    folder = tmp_path_factory.mktemp("sharing")
    methods = {
        "pf50": prune_and_finetune(GENERATOR_ALONE),
        "tickets": tickets({"generator": 0.2, "discriminator": 0.0}),
    }
    settings = {"evaluator": Means, "evaluate_every": 1, "best_by": "brightness"}
    settings["keep_checkpoints"] = 1
    trained = []

    def count(workdir, step, *rest, **facts):
        trained.append((workdir.name, step))
        return record_start(workdir, step, *rest, **facts)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("stugan_tf.runs.loop.record_start", count)
        with killed(patch, Checkpoints, "save", lambda _, step, *rest: step == 2):
            methods["pf50"].run(
                folder / "pf50", opening(methods["pf50"], **settings), folder / "shared"
            )
        for name, method in methods.items():
            method.run(folder / name, opening(method, **settings), folder / "shared")
    return folder, trained


@pytest.mark.ci
def test_a_shared_pretraining_is_trained_once_even_if_its_first_process_was_killed(sharing):
    folder, trained = sharing
    (dense,) = (path for path in (folder / "shared").iterdir() if path.is_dir())
    assert trained == [
        (dense.name, 0),
        (dense.name, 2),
        ("finetune", 0),
        ("round_01", 0),
    ]
    assert len(manifest(dense)["resumes"]) == 1
    # The start, to which tickets rewind, the best and the last.
    assert list(states(dense)) == [0, 1, STEPS]
    digest = Checkpoints(dense / "checkpoints", {}).digest(STEPS)
    for name in ("pf50/finetune", "tickets/round_01"):
        parent = manifest(folder / name)["phase"]["parent"]
        assert parent == {"folder": str(dense), "step": STEPS, "sha256": digest}


@pytest.mark.ci
def test_a_run_goes_on_with_the_pretraining_it_began_with(sharing, tmp_path):
    folder, _ = sharing
    method = prune_and_finetune(GENERATOR_ALONE)
    settings = {"evaluator": Means, "evaluate_every": 1, "best_by": "brightness"}
    before = states(folder / "pf50" / "finetune").keys()
    # Neither without a shared folder nor with another one is anything trained again.
    method.run(folder / "pf50", opening(method, fails_at=["dense"], **settings), tmp_path)
    assert states(folder / "pf50" / "finetune").keys() == before
    assert not any(tmp_path.iterdir())


@pytest.mark.ci
def test_other_configurations_have_pretrainings_of_their_own(tmp_path, monkeypatch):
    method = prune_and_finetune(GENERATOR_ALONE)
    for number, config in enumerate(["train.seed = 0", "train.log_every = 5", "train.seed = 1"]):
        opened = opening(method, config)
        with killed(monkeypatch, phases.MethodWorkdir, "note"):
            method.run(tmp_path / str(number), opened, tmp_path / "shared")
    records = [
        json.loads((tmp_path / str(number) / "phases.json").read_text()) for number in range(3)
    ]
    folders = [record["phases"][0]["folder"] for record in records]
    assert len(set(folders)) == 3  # No seed is not seed 0.
    assert all(folder.startswith(str(tmp_path / "shared" / "dense_")) for folder in folders)


def test_of_two_processes_the_second_waits(tmp_path, capsys):
    folder = tmp_path / "shared" / "dense_0123"
    entered = threading.Event()

    def wait():
        with phases.turn(folder):
            entered.set()

    with phases.turn(folder):
        thread = threading.Thread(target=wait)
        thread.start()
        assert not entered.wait(0.2)
    thread.join(10)
    assert entered.is_set()
    assert f"--shared: {folder} is in use by process {os.getpid()} on" in capsys.readouterr().err


def test_two_processes_cannot_have_one_workdir(tmp_path):
    method = prune_and_finetune(GENERATOR_ALONE)
    with open(tmp_path / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(InputError, match="is in use by another process"):
            method.run(tmp_path, opening(method))


@pytest.mark.ci
def test_the_overview_tells_the_best_scores_and_where_the_last_phase_is(sharing):
    folder, _ = sharing
    record, last = json.loads((folder / "tickets" / "phases.json").read_text())["phases"]
    assert record["best"] == 1
    assert last["folder"] == "round_01"
    assert last["scores"] == {
        "brightness": {"value": 1.0, "step": 1},
        "darkness": {"value": -1.0, "step": 1},
    }
    assert overview.run_folder(folder / "tickets") == folder / "tickets" / "round_01"
    assert overview.run_folder(folder / "tickets" / "round_01") == folder / "tickets" / "round_01"
    assert status_of(folder / "tickets").keeps_its_end
    header, dense, first = overview.table(folder / "tickets").splitlines()
    assert header.split()[:5] == ["phase", "state", "steps", "s_G", "s_D"]
    assert dense.split()[:5] == ["dense", "finished", str(STEPS), "0.0000", "0.0000"]
    assert first.split()[:4] == ["round_01", "finished", str(STEPS), f"{29 / 144:.4f}"]
    assert first.split()[5:] == ["1", "at", "1", "-1", "at", "1"]


def test_a_workdir_without_any_checkpoint_is_told_so(tmp_path):
    method = prune_and_finetune(GENERATOR_ALONE)
    summary = overview.Overview(tmp_path, method.phases)
    summary.note(tmp_path, "dense", state="started", folder=tmp_path / "dense")
    assert not status_of(tmp_path).is_over
    with pytest.raises(InputError, match=r"2 phases \(dense, finetune\).*no.* checkpoint yet"):
        overview.run_folder(tmp_path)


def test_a_single_phase_shares_nothing(tmp_path):
    with pytest.raises(InputError, match=r"--shared.*leave it out"):
        SinglePhase().run(tmp_path, None, shared=tmp_path)


def test_a_changing_topology_is_refused_before_anything_is_trained(tmp_path):
    method = tickets(GENERATOR_ALONE)
    exploring = {"generator_exploration": Exploration(update_interval=2)}
    with pytest.raises(InputError, match=r"Algorithm.generator_exploration is set. Set it to None"):
        method.run(tmp_path / "run", opening(method, algorithm=exploring))
    assert not (tmp_path / "run").exists()


@pytest.mark.ci
def test_a_shared_folder_that_cannot_be_made_is_told(tmp_path):
    (tmp_path / "notes.txt").write_text("")
    method = tickets(GENERATOR_ALONE)
    with pytest.raises(InputError, match=r"--shared: .*cannot be written to"):
        method.run(tmp_path / "run", opening(method), tmp_path / "notes.txt" / "shared")
