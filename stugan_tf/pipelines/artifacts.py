"""The artifacts that components pass on: typed, small, with an `id` that stands for the content.

An artifact holds only values that JSON can hold, besides the folder that it lies in, so that a
pipeline root can be moved. Components see artifacts only, never each other.
"""

import dataclasses
import pathlib
from typing import Any

from stugan_tf.runs.phases import run_folder

ARTIFACTS: dict[str, type] = {}


def artifact(cls: type) -> Any:
    """Makes a class an artifact and registers it under its name."""
    cls = dataclasses.dataclass(frozen=True, kw_only=True)(cls)
    ARTIFACTS[cls.__name__] = cls
    return cls


@artifact
class Artifact:
    """The attributes of all artifacts.

    Attributes:
        folder: where it lies; not part of its content.
        id: str. A result that was made from artifacts with the same ids need not be made again.
    """

    folder: pathlib.Path
    id: str


@artifact
class Plan(Artifact):
    """The training was checked; `plan.txt` says what it will do."""


@artifact
class Examples(Artifact):
    """Shards of images.

    Attributes:
        fingerprint: str, of the source that they were made from.
        num_images, num_shards: int.
        source: str, for people.
    """

    fingerprint: str
    num_images: int
    num_shards: int
    source: str

    @property
    def gin_file(self) -> pathlib.Path:
        """A file that sets `data.source` to the shards."""
        return self.folder / "data.gin"

    @property
    def statistics(self) -> pathlib.Path:
        """A JSON file with counts, sizes, classes, channels, anomalies."""
        return self.folder / "statistics.json"


@artifact
class References(Artifact):
    """Statistics of the features of real images, in the cache that scores are made with."""

    @property
    def cache_dir(self) -> pathlib.Path:
        """The value of `Evaluator.cache_dir`, shared by all references of a pipeline root."""
        return self.folder.parents[1] / "statistics"


@artifact
class Run(Artifact):
    """A finished training.

    Attributes:
        step: int, its last step.
        commit: str, of the source; None if not known.
    """

    step: int
    commit: str | None

    @property
    def workdir(self) -> pathlib.Path:
        """The workdir of the training."""
        return self.folder / "workdir"

    @property
    def final_phase(self) -> pathlib.Path:
        """The folder of the last phase; the workdir itself if there are no phases."""
        return run_folder(self.workdir)


@artifact
class Scores(Artifact):
    """The scores of an exported generator.

    Attributes:
        scores: {name: number or None}.
        protocol: dict, of the scores.
        of: dict, of the artifact that was scored, see `serving.artifact.facts`: `sha256` of its
            manifest, `format`, `precision`, and `step`, `weights` and `batch_norm`.
    """

    scores: dict
    protocol: dict
    of: dict


@artifact
class Exported(Artifact):
    """A generator for serving.

    Attributes:
        step: int, of the checkpoint.
        version: str, the folder within this one.
        format: str.
        num_bytes: int, of the files that serving needs.
        sparsity: float, of the weights under masks.
        active_weights: int.
        flops: float, theoretical FLOPs of an image.
    """

    step: int
    version: str
    format: str
    num_bytes: int
    sparsity: float
    active_weights: int
    flops: float

    @property
    def path(self) -> pathlib.Path:
        """The folder of the files."""
        return self.folder / self.version


@artifact
class Blessing(Artifact):
    """Whether a model may be pushed, and why.

    Attributes:
        blessed: bool.
        checks: list of {'passed': bool, 'words': str}.
        baseline: int, the version it was compared with; None if there was none.
    """

    blessed: bool
    checks: list
    baseline: int | None

    @property
    def words(self) -> str:
        """The reasons, one per line."""
        return "\n".join(
            f"{'passed' if check['passed'] else 'FAILED'}  {check['words']}"
            for check in self.checks
        )


@artifact
class Pushed(Artifact):
    """A version that is served.

    Attributes:
        version: int.
        serving: str, the folder of versions.
    """

    version: int
    serving: str


def to_json(found: Any) -> dict[str, Any]:
    """An `Artifact` as values that JSON can hold; `from_json` reads them."""
    values = {
        field.name: getattr(found, field.name)
        for field in dataclasses.fields(found)
        if field.name != "folder"
    }
    return {"type": type(found).__name__, **values}


def from_json(values: dict[str, Any], folder: str | pathlib.Path) -> Any:
    """The artifact that `to_json` wrote, in a folder."""
    values = dict(values)
    return ARTIFACTS[values.pop("type")](folder=pathlib.Path(folder), **values)
