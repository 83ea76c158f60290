"""A component's result is made once: kept under a name made of all that it depends on.

    ROOT/ingest/0123456789abcdef/       its folder, in which it may go on after a kill
    ROOT/ingest/0123456789abcdef/done.json      written last: the artifact, and what it was made of

On a cluster the root is a volume or bucket that all steps see, so that a step that is tried again,
or another pipeline with the same beginning, finds what is there.
"""

import contextlib
import dataclasses
import datetime
import errno
import fcntl
import hashlib
import json
import pathlib
import time
from collections.abc import Callable

from pipelines import code_version, configuration
from pipelines.artifacts import Artifact, from_json, to_json
from pipelines.configuration import Configuration
from pipelines.settings import Settings
from stugan_tf.files import write_atomically

DONE = "done.json"


@dataclasses.dataclass(frozen=True)
class Context:
    """What all components of a pipeline share.

    Attributes:
        root: folder of everything.
        configuration: a `Configuration`.
        strategy: what training and scoring run on, as for `stugan_tf.train`.
        code: str that stands for the version of the code; None for the code itself.
        verbose: whether what commands say is shown, or written to `log.txt` in their folder.
        say: called with lines for people.
    """

    root: pathlib.Path
    configuration: Configuration
    strategy: str = "auto"
    code: str | None = None
    verbose: bool = False
    say: Callable = lambda line: print(line, flush=True)
    settings: Settings = None

    def __post_init__(self):
        object.__setattr__(self, "root", pathlib.Path(self.root).absolute())
        if self.settings is None:
            found = configuration.settings(self.configuration.pipeline)
            object.__setattr__(self, "settings", found)

    def version_of(self, names):
        """The version of some of our code, and of what the configuration imports."""
        if self.code is not None:
            return self.code
        imported = code_version.of_imports(
            self.configuration.training + self.configuration.evaluation
        )
        return [code_version.of_code(*names), *sorted(imported.items())]

    @property
    def serving(self):
        """The folder of versions that are served."""
        return pathlib.Path(self.settings.push.folder or self.root / "serving").absolute()


@dataclasses.dataclass(frozen=True)
class Component:
    """One step of a pipeline.

    Attributes:
        name: str, that of its folder.
        inputs: names of the components whose artifacts it takes, in this order.
        code: files and folders that its result depends on, see `code_version`.
        depends_on: `(context, *artifacts) -> dict`: what else it depends on, as JSON holds it.
        make: `(context, workplace, *artifacts) -> Artifact`; goes on with what it finds in the
            workplace's folder.
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
        folder: its own.
        id: str, the digest of all that the result depends on.
        lock: file descriptor; who holds it open holds the folder.
        log: for `children.run`.
    """

    folder: pathlib.Path
    id: str
    lock: int
    log: pathlib.Path | None


@dataclasses.dataclass(frozen=True)
class Result:
    """What came of a component: an artifact, and whether it was there before."""

    artifact: Artifact
    was_there: bool


def execute(component, context, artifacts):
    """Makes the artifact of a component unless it is there.

    Args:
        component: a `Component`.
        context: a `Context`.
        artifacts: those it takes, in the order of its `inputs`.

    Returns:
        A `Result`.
    """
    request, folder = place_of(component, context, artifacts)
    found = _finished(component, context, folder)
    if found is not None:
        return Result(found, was_there=True)
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder, context) as lock:
        found = _finished(component, context, folder)
        if found is not None:  # Another pipeline has just made it.
            return Result(found, was_there=True)
        context.say(f"{component.name}: working in {folder}")
        log = None if context.verbose else folder / "log.txt"
        begun, start = _now(), time.monotonic()
        artifact = component.make(context, Workplace(folder, folder.name, lock, log), *artifacts)
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


def place_of(component, context, artifacts):
    """`(request, folder)`: all that a component's result depends on, and where it belongs."""
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


def record_of(folder):
    """What `done.json` in a component's folder says; None if there is none or it is torn."""
    with contextlib.suppress(OSError, ValueError):
        return json.loads((pathlib.Path(folder) / DONE).read_bytes())
    return None


def artifact_in(folder):
    """The artifact in a component's folder, which must be there."""
    return from_json(record_of(folder)["artifact"], folder)


def _finished(component, context, folder):
    record = record_of(folder)
    if record is None:
        return None
    artifact = from_json(record["artifact"], folder)
    return artifact if component.is_intact(context, artifact) else None


@contextlib.contextmanager
def _locked(folder, context):
    """Holds a folder; waits while another process does, a trainer that saves after a kill, say."""
    with open(folder / ".lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            context.say(f"waiting for another process that works in {folder}")
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError as error:  # Buckets that are mounted know no locks.
            if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
                raise
        yield file.fileno()


def _now():
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
