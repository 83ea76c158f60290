"""A component's result is made once and kept under a digest of everything it depends on.

    ROOT/ingest/0123456789abcdef/           its folder, in which it goes on after a kill
    ROOT/ingest/0123456789abcdef/done.json  written last: the artifact, and what it was made from

On a cluster the root is a volume or bucket that all steps see. So a step that is tried again, or
another pipeline with the same beginning, finds the results.
"""

import dataclasses
import datetime
import hashlib
import json
import pathlib
import time
from collections.abc import Callable, Sequence
from typing import Any

from stugan_tf.files import local_path, locked, write_atomically
from stugan_tf.pipelines import children, code_version, configuration
from stugan_tf.pipelines.artifacts import Artifact, from_json, to_json
from stugan_tf.pipelines.configuration import Configuration
from stugan_tf.pipelines.settings import Settings

DONE = "done.json"


@dataclasses.dataclass(frozen=True)
class Context:
    """What the components of a pipeline share.

    Attributes:
        root: folder of everything.
        configuration: a `Configuration`.
        strategy: name of the strategy for training and scoring, as for `stugan_tf.train`.
        code: str that stands for the version of the code; None for the code itself.
        verbose: whether the output of commands is shown, besides `log.txt` in their folder.
        say: function that gets lines for people.
    """

    root: pathlib.Path
    configuration: Configuration
    strategy: str = "auto"
    code: str | None = None
    verbose: bool = False
    say: Callable = lambda line: print(line, flush=True)
    settings: Settings = None  # type: ignore[assignment] # Of the configuration, if not given.

    def __post_init__(self):
        object.__setattr__(self, "root", local_path(self.root, "--pipeline_root").absolute())
        if self.settings is None:
            found = configuration.settings(self.configuration.pipeline)
            object.__setattr__(self, "settings", found)

    def version_of(self, names: Sequence[str]) -> Any:
        """The version of some of our code, and of the modules that the configuration imports."""
        if self.code is not None:
            return self.code
        imported = code_version.of_imports(
            self.configuration.training + self.configuration.evaluation
        )
        return [code_version.of_code(*names), *sorted(imported.items())]

    @property
    def serving(self) -> pathlib.Path:
        """The folder of versions that are served."""
        folder = self.settings.push.folder or self.root / "serving"
        return local_path(folder, "Push.folder").absolute()


@dataclasses.dataclass(frozen=True)
class Component:
    """One step of a pipeline.

    Attributes:
        name: str, also the name of its folder.
        inputs: names of the components whose artifacts it takes, in this order.
        code: files and folders that its result depends on, see `code_version`.
        depends_on: `(context, *artifacts) -> dict`: all else that it depends on, as JSON values.
        make: `(context, workplace, *artifacts) -> Artifact`; goes on with what it finds in the
            folder of the workplace.
        is_intact: `(context, artifact) -> bool`: whether a result is still there.
    """

    name: str
    inputs: tuple[str, ...]
    code: tuple[str, ...]
    depends_on: Callable
    make: Callable
    is_intact: Callable = lambda context, artifact: True


@dataclasses.dataclass(frozen=True)
class Workplace:
    """Where a component works.

    Attributes:
        folder: its own folder.
        id: str, the digest of everything the result depends on.
        lock: file descriptor; a process that holds it open holds the folder.
        verbose: as in the `Context`.
    """

    folder: pathlib.Path
    id: str
    lock: int
    verbose: bool

    def run(self, module: str, flags: Sequence[str], log: str = "log.txt") -> None:
        """Runs a command that holds this folder even if this process is killed.

        Args:
            module: str.
            flags: list of str.
            log: name of a file in the folder.
        """
        children.run(module, flags, log=self.folder / log, show=self.verbose, keep=[self.lock])


@dataclasses.dataclass(frozen=True)
class Result:
    """The result of a component: an artifact, and whether it was there before."""

    artifact: Artifact
    was_there: bool


def execute(component: Component, context: Context, artifacts: Sequence[Artifact]) -> Result:
    """Makes the artifact of a component unless it is there.

    Args:
        component: a `Component`.
        context: a `Context`.
        artifacts: the artifacts it takes, in the order of its `inputs`.

    Returns:
        A `Result`.
    """
    request, folder = place_of(component, context, artifacts)
    found = _finished(component, context, folder)
    if found is not None:
        return Result(found, was_there=True)
    # It may be held by a trainer that saves after a kill.
    with locked(folder / ".lock", str(folder), context.say) as lock:
        found = _finished(component, context, folder)
        if found is not None:  # Another pipeline has just made it.
            return Result(found, was_there=True)
        context.say(f"{component.name}: working in {folder}")
        begun, start = _now(), time.monotonic()
        workplace = Workplace(folder, folder.name, lock, context.verbose)
        artifact = component.make(context, workplace, *artifacts)
        record = {
            "artifact": to_json(artifact),
            "made_of": {
                name: artifact.folder.relative_to(context.root).as_posix()
                for name, artifact in zip(component.inputs, artifacts, strict=True)
            },
            "request": request,
            "begun": begun,
            "seconds": round(time.monotonic() - start, 1),
        }
        write_atomically(folder / DONE, (json.dumps(record, indent=1) + "\n").encode())
    return Result(artifact, was_there=False)


def place_of(
    component: Component, context: Context, artifacts: Sequence[Artifact]
) -> tuple[dict[str, Any], pathlib.Path]:
    """`(request, folder)`: everything a component's result depends on, and where it belongs."""
    request = {
        "component": component.name,
        "code": context.version_of(component.code),
        "inputs": {
            name: artifact.id for name, artifact in zip(component.inputs, artifacts, strict=True)
        },
        "settings": component.depends_on(context, *artifacts),
    }
    text = json.dumps(request, sort_keys=True)
    key = hashlib.sha256(text.encode()).hexdigest()[:16]
    return request, context.root / component.name / key


def artifact_in(folder: str | pathlib.Path) -> Artifact | None:
    """The artifact that a component's folder holds by its `done.json`.

    None if there is none, or if another version of our code wrote it in another form.
    """
    try:
        record = json.loads((pathlib.Path(folder) / DONE).read_bytes())
        return from_json(record["artifact"], folder)
    except (OSError, ValueError, LookupError, TypeError):
        return None


def _finished(component, context, folder):
    artifact = artifact_in(folder)
    return artifact if artifact is not None and component.is_intact(context, artifact) else None


def _now():
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
