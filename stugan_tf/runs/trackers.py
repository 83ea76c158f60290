"""Where the numbers and pictures of a run are shown: TensorBoard, MLflow, Weights & Biases.

A tracker is an event that shows what the other events put into the `RunState`:

    train.trackers = [@TensorBoard(), @MLflow()]
    MLflow.experiment = 'sngan'

A tracker does not change what is computed, so a run can be resumed with other trackers. A resumed
run continues in the same run of a service, whose id is kept in `trackers.json` of the workdir.
"""

import contextlib
import importlib
import json
import re
import textwrap
import time
from collections.abc import Sequence

import gin
import tensorflow as tf
from tensorboard.compat.proto import event_pb2

from stugan_tf.adapters.tensorflow_internals import write_event
from stugan_tf.errors import InputError
from stugan_tf.files import read_json, write_atomically
from stugan_tf.runs.events import Event, RunState
from stugan_tf.runs.workdir import bindings_of

FILE = "trackers.json"
_MODES = ("online", "offline", "disabled", None)  # of Weights & Biases


class Tracker(Event):
    """Shows a run elsewhere. `begin`, `act` and `close` may fail: see `Guarded`."""

    def check(self) -> None:
        """Raises InputError if a package that it needs is not installed."""

    def is_due(self, state: RunState) -> bool:
        """Due when there are numbers or samples."""
        return bool(state.numbers) or state.samples is not None


def chosen_trackers(trackers: Sequence[Tracker] | None) -> Sequence[Tracker]:
    """The `Tracker`s that `train.trackers` lists; None is TensorBoard alone.

    Raises:
        InputError: if it is something else.
    """
    trackers = [TensorBoard()] if trackers is None else trackers
    if not isinstance(trackers, (list, tuple)):
        raise InputError(
            f"train.trackers must be a list, got {trackers!r}. Write "
            "`train.trackers = [@TensorBoard(), @MLflow()]`."
        )
    for tracker in trackers:
        if not isinstance(tracker, Tracker):
            raise InputError(
                f"train.trackers must hold trackers, got {_described(tracker)}. Write references "
                "with parentheses: `train.trackers = [@TensorBoard(), @MLflow()]`."
            )
    return trackers


def _described(value):
    return f"the function {value.__name__}" if callable(value) else repr(value)


class Guarded(Event):
    """A tracker whose failure does not end the run.

    After its first failure the tracker is not called until the run is resumed. Otherwise a server
    that does not answer would delay each step.
    """

    def __init__(self, tracker: Tracker) -> None:
        """Keeps the `Tracker`."""
        self._tracker = tracker
        self._failed = False

    def begin(self, state: RunState) -> None:
        """Calls the tracker."""
        self._try(self._tracker.begin, state)

    def is_due(self, state: RunState) -> bool:
        """Due when the tracker is due and has not failed."""
        return not self._failed and self._tracker.is_due(state)

    def act(self, state: RunState) -> None:
        """Calls the tracker."""
        self._try(self._tracker.act, state)

    def close(self, state: RunState) -> None:
        """Calls the tracker."""
        self._try(self._tracker.close, state)

    def _try(self, function, state):
        if self._failed:
            return
        try:
            function(state)
        except Exception as error:
            self._failed = True
            reason = (str(error).splitlines() or [""])[0]
            state.say(
                f"{type(self._tracker).__name__} failed and gets no more of this run until it is "
                f"resumed; all numbers are in {state.workdir}: {type(error).__name__}: {reason}"
            )


@gin.configurable
class TensorBoard(Tracker):
    """Event files in `tensorboard/` of the workdir."""

    def begin(self, state: RunState) -> None:
        """Shows the configuration, and drops later steps that a killed process wrote."""
        self._writer = tf.summary.create_file_writer(str(state.workdir / "tensorboard"))
        _mark_start(self._writer, state.step)
        with self._writer.as_default(state.step):
            # Indented text is preformatted in Markdown.
            tf.summary.text("config", textwrap.indent(state.config, "    "))

    def act(self, state: RunState) -> None:
        """Writes the numbers and the samples."""
        with self._writer.as_default(state.step):
            for name, value in state.numbers.items():
                tf.summary.scalar(name, value)
            if state.samples is not None:
                tf.summary.image("samples", state.samples[None])
        self._writer.flush()

    def close(self, state: RunState) -> None:
        """Closes the file."""
        del state
        self._writer.close()


def _mark_start(writer, step):
    """Makes TensorBoard forget what earlier event files hold of steps after `step`.

    TensorBoard ignores the first such mark, so each start writes one, also the first.
    """
    start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
    event = event_pb2.Event(wall_time=time.time(), step=step + 1, session_log=start)
    write_event(writer, event)


class _Service(Tracker):
    """A tracker for a service that knows runs by an id and cannot drop steps.

    A resumed run does not log steps again that were logged before. Neither does a rollback: its new
    numbers are only in `metrics.jsonl`.
    """

    _module = _extra = None

    def check(self) -> None:
        """Raises InputError if the client is not installed."""
        self._client_module()

    def _client_module(self):
        try:
            return importlib.import_module(self._module)
        except ImportError as error:
            raise InputError(
                f"train.trackers has @{type(self).__name__}(), which needs {self._module}, which "
                f"cannot be imported ({error}). Install it: "
                f"pip install 'stugan_tf[{self._extra}]'."
            ) from error

    @property
    def _key(self):
        """The key of the service and its settings in trackers.json."""
        raise NotImplementedError

    def _recall(self, state):
        """Reads the id of the run and its last logged step; None and -1 without a run."""
        self._path = state.workdir / FILE
        found = _read(self._path).get(self._key, {})
        self._id, self._logged = found.get("id"), found.get("step", -1)

    def _note(self, step):
        self._logged = max(step, self._logged)
        stored = _read(self._path) | {self._key: {"id": self._id, "step": self._logged}}
        write_atomically(self._path, (json.dumps(stored, indent=2) + "\n").encode())

    def is_due(self, state: RunState) -> bool:
        """Due when there is something that was not logged before."""
        return state.step > self._logged and super().is_due(state)


def _check_text(name, value):
    if not isinstance(value, str) or not value:
        raise InputError(f"{name} must be a text in quotes, got {value!r}.")


def _read(path):
    """{key: record} of trackers.json. What is damaged there counts as absent."""
    with contextlib.suppress(OSError, ValueError):
        return {key: found for key, found in read_json(path).items() if isinstance(found, dict)}
    return {}


@gin.configurable
class MLflow(_Service):
    """A run of MLflow: parameters, metrics, `config.gin` and the sample grids as artifacts.

    MLflow's own setting, the environment variable MLFLOW_HTTP_REQUEST_MAX_RETRIES, limits the wait
    for a server that does not answer.
    """

    _module, _extra = "mlflow", "mlflow"
    _STATUS = {"finished": "FINISHED", "interrupted": "KILLED", "failed": "FAILED"}  # noqa: RUF012

    def __init__(self, experiment: str = "stugan_tf", tracking_uri: str | None = None) -> None:
        """Keeps the settings; does not connect yet.

        Args:
            experiment: name of the experiment; made if it does not exist.
            tracking_uri: address of a server or of files. None leaves the choice to MLflow, which
                reads the environment variable MLFLOW_TRACKING_URI.
        """
        _check_text("MLflow.experiment", experiment)
        if tracking_uri is not None:
            _check_text("MLflow.tracking_uri", tracking_uri)
        self._experiment, self._uri = experiment, tracking_uri

    @property
    def _key(self):
        return f"MLflow {self._uri or ''} {self._experiment}"

    def begin(self, state: RunState) -> None:
        """Makes a run, or continues the run of the workdir."""
        self._mlflow = self._client_module()
        self._client = self._mlflow.MlflowClient(self._uri)
        self._recall(state)
        if not self._exists():
            self._id, self._logged = self._created(state), -1
            self._note(-1)
        self._client.log_text(self._id, state.config, "config.gin")

    def _exists(self):
        if self._id is None:
            return False
        try:
            self._client.update_run(self._id, status="RUNNING")
        except self._mlflow.MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return False
            raise
        return True

    def _created(self, state):
        entities = importlib.import_module("mlflow.entities")
        run = self._client.create_run(
            self._experiment_id(), run_name=_run_name(state), tags={"workdir": str(state.workdir)}
        )
        parameters = [
            entities.Param(_mlflow_name(name), value[:500])
            for name, value in bindings_of(state.config).items()
        ]
        for start in range(0, len(parameters), 100):  # The limit of a request.
            self._client.log_batch(run.info.run_id, params=parameters[start : start + 100])
        return run.info.run_id

    def _experiment_id(self):
        found = self._client.get_experiment_by_name(self._experiment)
        if found is None:
            try:
                return self._client.create_experiment(self._experiment)
            except self._mlflow.MlflowException:  # Another run made it meanwhile.
                found = self._client.get_experiment_by_name(self._experiment)
                if found is None:
                    raise
        return found.experiment_id

    def act(self, state: RunState) -> None:
        """Logs the numbers and the samples."""
        entities = importlib.import_module("mlflow.entities")
        now = int(1000 * time.time())
        metrics = [
            entities.Metric(_mlflow_name(name), value, now, state.step)
            for name, value in state.numbers.items()
        ]
        for start in range(0, len(metrics), 1000):
            self._client.log_batch(self._id, metrics=metrics[start : start + 1000])
        if state.samples is not None:
            images = f"samples/step_{state.step:08d}.png"
            grid = state.samples
            self._client.log_image(self._id, grid[..., 0] if grid.shape[-1] == 1 else grid, images)
        self._note(state.step)

    def close(self, state: RunState) -> None:
        """Notes how the run ended; a run that is rolled back continues."""
        if state.status in self._STATUS:
            self._client.set_terminated(self._id, self._STATUS[state.status])


def _mlflow_name(name):
    return re.sub(r"[^\w\-. /:]", "_", name)


@gin.configurable
class WandB(_Service):
    """A run of Weights & Biases: configuration, numbers and sample grids."""

    _module, _extra = "wandb", "wandb"

    def __init__(
        self, project: str = "stugan_tf", entity: str | None = None, mode: str | None = None
    ) -> None:
        """Keeps the settings; does not connect yet.

        Args:
            project: name of the project.
            entity: user or team; None is the default of the account.
            mode: 'online', 'offline' (files in the workdir, for `wandb sync`) or 'disabled'. None
                follows the environment variable WANDB_MODE.
        """
        _check_text("WandB.project", project)
        if entity is not None:
            _check_text("WandB.entity", entity)
        if mode not in _MODES:
            raise InputError(f"WandB.mode must be one of {_MODES}, got {mode!r}.")
        self._project, self._entity, self._mode = project, entity, mode

    @property
    def _key(self):
        return f"WandB {self._entity or ''}/{self._project}"

    def begin(self, state: RunState) -> None:
        """Makes a run, or continues the run of the workdir."""
        self._wandb = self._client_module()
        self._recall(state)
        self._run = self._wandb.init(
            project=self._project,
            entity=self._entity,
            mode=self._mode,
            id=self._id,
            resume="allow",
            name=_run_name(state),
            config=bindings_of(state.config),
            dir=str(state.workdir),
            allow_val_change=True,  # A run may be resumed with other trackers or more steps.
        )
        if self._id is None:
            self._id = self._run.id
            self._note(-1)

    def act(self, state: RunState) -> None:
        """Logs the numbers and the samples."""
        found = state.numbers
        if state.samples is not None:
            grid = state.samples
            found["samples"] = self._wandb.Image(grid[..., 0] if grid.shape[-1] == 1 else grid)
        self._run.log(found, step=state.step)
        self._note(state.step)

    def close(self, state: RunState) -> None:
        """Notes how the run ended."""
        if state.status == "interrupted":
            self._run.mark_preempting()
        self._run.finish(exit_code=int(state.status in ("interrupted", "failed")))


def _run_name(state):
    name = state.workdir.absolute().name
    return f"{name}: {state.label}" if state.label else name
