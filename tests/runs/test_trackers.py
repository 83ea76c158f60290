"""Trackers: what they are given, a run that goes on in them, and that they cost no run anything."""

import json
import struct
import sys
import types

import numpy as np
import pytest

from stugan_tf.errors import InputError
from stugan_tf.runs.events import Event, Progress, RunState
from stugan_tf.runs.trackers import Guarded, MLflow, Tracker, WandB
from tests.helpers.small import metrics, small_training, states

CONFIG = "Algorithm.total_steps = 9\nGAN.generator_sparsity = 0.9"
GRID = np.zeros([18, 18, 1], np.uint8)


def track(tracker, workdir, start_step, steps, status="finished"):
    """What a run gives to a tracker; `fid` is the step."""
    workdir.mkdir(exist_ok=True)
    state = RunState(start_step, 9, workdir, CONFIG)
    progress = Progress(types.SimpleNamespace(num_traces=1))
    progress.begin(state)
    tracker.begin(state)
    for step in steps:
        state.advance(step)
        state.metrics = {"d_loss": 0.5}
        state.topology = {"generator_churn/block1 c1": 0.25}
        state.scores = {"fid": float(step), "protocol": {"id": "x"}}
        state.samples = GRID
        if tracker.is_due(state):
            tracker.act(state)
    state.status = status
    tracker.close(state)
    progress.close(state)


@pytest.fixture(params=["file", "sqlite"])
def store(request, tmp_path, monkeypatch):
    """The address of a store of MLflow on disk."""
    pytest.importorskip("mlflow")
    if request.param == "sqlite":
        pytest.importorskip("sqlalchemy")
        pytest.importorskip("alembic")
        monkeypatch.chdir(tmp_path)  # Where artifacts go.
        return f"sqlite:///{tmp_path}/store.db"
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # Newer releases ask for it.
    return (tmp_path / "store").as_uri()


def mlflow_runs(store):
    mlflow = pytest.importorskip("mlflow")
    client = mlflow.MlflowClient(store)
    experiment = client.get_experiment_by_name("digits")
    return client, client.search_runs([experiment.experiment_id])


def test_mlflow_has_a_resumed_run_once_with_all_it_is_given(store, tmp_path):
    workdir = tmp_path / "run [1]"
    track(MLflow("digits", store), workdir, 0, [2, 4, 6], status="failed")
    client, (run,) = mlflow_runs(store)
    assert run.info.status == "FAILED"
    assert run.data.params == {"Algorithm.total_steps": "9", "GAN.generator_sparsity": "0.9"}
    track(MLflow("digits", store), workdir, 4, [6, 8])  # From the checkpoint of step 4.
    client, (run,) = mlflow_runs(store)
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "run [1]"
    history = client.get_metric_history(run.info.run_id, "evaluation/fid")
    assert [(found.step, found.value) for found in history] == [(2, 2), (4, 4), (6, 6), (8, 8)]
    assert {"training/d_loss", "generator_churn/block1 c1"} < set(run.data.metrics)
    assert {a.path for a in client.list_artifacts(run.info.run_id)} == {"config.gin", "samples"}
    assert len(client.list_artifacts(run.info.run_id, "samples")) == 4


def test_a_run_of_mlflow_that_is_gone_is_made_again(store, tmp_path):
    track(MLflow("digits", store), tmp_path / "run", 0, [2])
    path = tmp_path / "run" / "trackers.json"
    (settings,) = json.loads(path.read_text()).values()
    path.write_text(path.read_text().replace(settings["id"], "0" * 32))
    track(MLflow("digits", store), tmp_path / "run", 2, [4], status="interrupted")
    _, runs = mlflow_runs(store)
    assert sorted(run.info.status for run in runs) == ["FINISHED", "KILLED"]


class StandIn(types.ModuleType):
    """In place of wandb: keeps runs by id, and what was done with each."""

    def __init__(self):
        super().__init__("wandb")
        self.runs = {}

    def Image(self, grid):  # noqa: N802 - as there
        return grid.shape

    def init(self, id, resume, **settings):
        assert resume == "allow"
        run = self.runs.setdefault(id or f"id{len(self.runs)}", types.SimpleNamespace(logged=[]))
        run.id = id or f"id{len(self.runs) - 1}"
        run.settings = settings
        run.preempting, run.code = False, None
        run.log = lambda values, step: run.logged.append((step, values))
        run.mark_preempting = lambda: setattr(run, "preempting", True)
        run.finish = lambda exit_code: setattr(run, "code", exit_code)
        return run


def test_wandb_has_a_resumed_run_once_with_all_it_is_given(tmp_path, monkeypatch):
    stand_in = StandIn()
    monkeypatch.setitem(sys.modules, "wandb", stand_in)
    track(WandB("digits"), tmp_path / "run", 0, [2, 4, 6], status="interrupted")
    (run,) = stand_in.runs.values()
    assert (run.preempting, run.code) == (True, 1)
    track(WandB("digits"), tmp_path / "run", 4, [6, 8])
    assert list(stand_in.runs.values()) == [run]
    assert (run.preempting, run.code) == (False, 0)
    assert [step for step, _ in run.logged] == [2, 4, 6, 8]
    assert run.logged[0][1] == {
        "training/d_loss": 0.5,
        "evaluation/fid": 2.0,
        "generator_churn/block1 c1": 0.25,
        "samples": (18, 18),
    }
    assert run.settings["config"]["GAN.generator_sparsity"] == "0.9"
    track(WandB("others"), tmp_path / "run", 8, [9])  # Another project, another run.
    assert len(stand_in.runs) == 2


def wandb_records(path):
    """What a file of W&B holds: protocol buffers in a log of LevelDB, after seven bytes of its own.

    The log consists of blocks of 32 KiB. Pieces of records have a header of seven bytes, which do
    not go over the end of a block.
    """
    record_of = pytest.importorskip("wandb.proto.wandb_internal_pb2").Record.FromString
    data, at, record = path.read_bytes(), 7, b""
    while at + 7 <= len(data):
        if (left := 2**15 - at % 2**15) < 7:
            at += left
            continue
        length, kind = struct.unpack("<HB", data[at + 4 : at + 7])
        at += 7 + length
        record += data[at - length : at]
        if kind in (1, 4):  # A whole record, or the last piece of one.
            yield record_of(record)
            record = b""


def test_wandb_itself_has_a_resumed_run_once_with_all_it_is_given(tmp_path):
    pytest.importorskip("wandb")
    workdir = tmp_path / "run [1]"
    track(WandB("digits", mode="offline"), workdir, 0, [2, 4], status="interrupted")
    track(WandB("digits", mode="offline"), workdir, 4, [4, 6])
    identity = json.loads((workdir / "trackers.json").read_text())["WandB /digits"]
    assert identity["step"] == 6
    files = sorted((workdir / "wandb").glob("offline-run-*/*.wandb"))
    assert [path.name for path in files] == [f"run-{identity['id']}.wandb"] * 2
    found = [record for path in files for record in wandb_records(path)]
    runs = [record.run for record in found if record.HasField("run")]
    assert [run.run_id for run in runs] == [identity["id"]] * 2
    for run in runs:
        assert (run.project, run.display_name) == ("digits", "run [1]")
        config = {update.key: update.value_json for update in run.config.update}
        assert config["GAN.generator_sparsity"] == '"0.9"'
    logged = [
        {"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in line.item}
        for line in (record.history for record in found if record.HasField("history"))
    ]
    assert [line["evaluation/fid"] for line in logged] == [2, 4, 6]
    for line in logged:
        assert (line["training/d_loss"], line["generator_churn/block1 c1"]) == (0.5, 0.25)
        assert (line["samples/height"], line["samples/width"]) == (18, 18)
    assert [record.exit.exit_code for record in found if record.HasField("exit")] == [1, 0]
    assert sum(record.HasField("preempting") for record in found) == 1


@pytest.mark.parametrize(("tracker", "extra"), [(MLflow(), "mlflow"), (WandB(), "wandb")])
def test_a_package_that_is_missing_is_named_before_anything_is_written(
    tracker, extra, tmp_path, monkeypatch
):
    monkeypatch.setitem(sys.modules, extra, None)
    training = small_training(trackers=[tracker])
    with pytest.raises(InputError, match=rf"pip install 'stugan_tf\[{extra}\]'"):
        training.run(tmp_path / "run", "")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: MLflow(experiment=3), "MLflow.experiment must be a text in quotes, got 3"),
        (lambda: MLflow(tracking_uri=""), "MLflow.tracking_uri must be a text"),
        (lambda: WandB(project=None), "WandB.project must be a text"),
        (lambda: WandB(entity=3), "WandB.entity must be a text"),
        (lambda: WandB(mode="of"), "WandB.mode must be one of .*'offline'.* got 'of'"),
    ],
)
def test_settings_of_trackers_are_checked(make, told):
    with pytest.raises(InputError, match=told):
        make()


class ServerGoneError(Exception):
    pass


class Failing(Tracker):
    """Fails from the call of a method on; counts the calls after it."""

    def __init__(self, method):
        self._method = method
        self.calls, self.failed = [], False
        self.begin = lambda state: self._call("begin")
        self.act = lambda state: self._call("act")
        self.close = lambda state: self._call("close")

    def _call(self, method):
        self.calls.append(method)
        if method == self._method:
            raise ServerGoneError("no route\nto host")


@pytest.mark.ci
@pytest.mark.usefixtures("untraced")
def test_a_tracker_that_fails_costs_the_run_nothing_and_is_told_once(tmp_path, capsys):
    methods = ("begin", "act", "close")
    failing, good = [Failing(method) for method in methods], Failing(None)
    for name, trackers in {"without": [], "with": [*failing, good]}.items():
        training = small_training(algorithm={"total_steps": 2}, trackers=trackers, log_every=1)
        training.run(tmp_path / name, "")
    errors = capsys.readouterr().err
    assert errors.count("Failing failed and gets no more of this run") == len(methods)
    assert errors.count("ServerGoneError: no route") == len(methods)
    for method, tracker in zip(methods, failing, strict=True):
        assert tracker.calls[-1] == method
        assert tracker.calls.count(method) == 1
    assert good.calls[0] == "begin"
    assert good.calls.count("act") > 1
    assert good.calls[-1] == "close"
    assert metrics(tmp_path / "with") == metrics(tmp_path / "without")
    one, other = states(tmp_path / "with"), states(tmp_path / "without")
    assert one.keys() == other.keys()
    for name, value in one[2].items():
        np.testing.assert_array_equal(value, other[2][name], err_msg=name)


def test_a_guard_passes_on_what_asks_the_process_to_end(tmp_path):
    class Interrupting(Event):
        def act(self, state):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Guarded(Interrupting()).act(RunState(0, 1, tmp_path, ""))
