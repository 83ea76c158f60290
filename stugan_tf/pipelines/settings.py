"""The settings of a pipeline in a gin file, besides those of its training."""

import dataclasses
import numbers
from typing import Any

import gin

from stugan_tf.checks import check_above_zero, check_bool, check_natural, check_positive
from stugan_tf.data.sharding import Encoding
from stugan_tf.errors import InputError
from stugan_tf.evaluation.table import METRICS
from stugan_tf.serving.formats import FORMATS


def configurable(cls: type) -> Any:
    """A frozen dataclass whose fields gin sets."""
    return gin.configurable(module="pipelines")(dataclasses.dataclass(frozen=True)(cls))


@configurable
class Ingest:
    """How a data source becomes shards.

    Attributes:
        num_shards: int; None for about 1024 images in each.
        image_format: 'png', which keeps each pixel, or 'jpeg'.
        quality: int in [1, 100], of JPEG.
        seed: int, of the order of images; a streamed source keeps its own order.
        skip_unreadable: whether images that cannot be read are left out. Otherwise they end the
            pipeline, after all images were tried.
        duplicates: 'keep' or 'drop' images that equal an earlier one of the same class pixel by
            pixel. They are reported in both cases.
    """

    num_shards: int | None = None
    image_format: str = "png"
    quality: int = 95
    seed: int = 0
    skip_unreadable: bool = False
    duplicates: str = "keep"

    def __post_init__(self):
        if self.num_shards is not None:
            check_positive("Ingest.num_shards", self.num_shards)
        check_natural("Ingest.seed", self.seed)
        check_bool("Ingest.skip_unreadable", self.skip_unreadable)
        Encoding(1, 3, self.image_format, self.quality)
        _check_choice("Ingest.duplicates", self.duplicates, ("keep", "drop"))


@configurable
class Beam:
    """Where Apache Beam runs. It changes the speed, never the results.

    Attributes:
        runner: 'DirectRunner', or 'FlinkRunner', 'SparkRunner', 'DataflowRunner', or another that
            Beam knows.
        num_workers: int, for the DirectRunner: 1 works in this process, more are processes of their
            own.
        options: flags of Beam's own command line, such as '--flink_master=localhost:8081'.
    """

    runner: str = "DirectRunner"
    num_workers: int = 1
    options: tuple = ()

    def __post_init__(self):
        check_positive("Beam.num_workers", self.num_workers)
        _check_texts("Beam.options", self.options)
        for option in self.options:
            if not option.startswith("--"):
                raise InputError(f"Beam.options: {option!r} must begin with --.")


@configurable
class Score:
    """Which checkpoint is exported and scored, and how.

    The exported generator is scored as it is: `Evaluator.weights` and `Evaluator.batch_norm` only
    choose what the training itself scores.

    Attributes:
        checkpoint: 'latest', 'best' or a step.
        gin_files: gin files on top of the run's own configuration, as for `stugan_tf.evaluate`.
        gin_params: bindings on top of these.
    """

    checkpoint: str | int = "latest"
    gin_files: tuple = ()
    gin_params: tuple = ()

    def __post_init__(self):
        if not isinstance(self.checkpoint, int):
            _check_choice("Score.checkpoint", self.checkpoint, ("latest", "best"), "a step")
        _check_texts("Score.gin_files", self.gin_files)
        _check_texts("Score.gin_params", self.gin_params)


@configurable
class Export:
    """What is exported for serving, as flags of `stugan_tf.export`.

    Attributes:
        format: a name of `serving.formats.FORMATS`.
        weights: 'averaged' or 'live'.
        flags: further flags, such as '--precision=float16'.
    """

    format: str = "saved_model"
    weights: str = "averaged"
    flags: tuple = ()

    def __post_init__(self):
        _check_choice("Export.format", self.format, tuple(FORMATS))
        _check_choice("Export.weights", self.weights, ("averaged", "live"))
        _check_texts("Export.flags", self.flags)


@configurable
class Bless:
    """The conditions that a model must meet to be pushed.

    Attributes:
        at_most: {score: limit}, e.g. {'fid': 20.0}.
        at_least: {score: limit}.
        compare: names of the scores that must not be worse than those of the served version.
        tolerance: the fraction of that version's score by which it may be worse, 0.02 for 2 %.
        min_sparsity: float, least sparsity of the weights under masks.
        max_active_weights: int, most weights under masks that are not zero.
        max_bytes: int, most bytes of the exported files.
        max_flops: float, most theoretical FLOPs of an image.
    """

    at_most: dict = dataclasses.field(default_factory=dict)
    at_least: dict = dataclasses.field(default_factory=dict)
    compare: tuple = ("fid",)
    tolerance: float = 0.0
    min_sparsity: float | None = None
    max_active_weights: int | None = None
    max_bytes: int | None = None
    max_flops: float | None = None

    def __post_init__(self):
        for field in ("at_most", "at_least"):
            if not isinstance(getattr(self, field), dict):
                raise InputError(
                    f"Bless.{field} must be limits by the name of the score, such as "
                    f"{{'fid': 20.0}}, got {getattr(self, field)!r}."
                )
            for name, limit in getattr(self, field).items():
                _check_number(f"Bless.{field}[{name!r}]", limit)
        _check_texts("Bless.compare", self.compare)
        for field in ("min_sparsity", "max_active_weights", "max_bytes", "max_flops"):
            if getattr(self, field) is not None:
                _check_number(f"Bless.{field}", getattr(self, field))
        unknown = {*self.at_most, *self.at_least, *self.compare} - METRICS.keys()
        if unknown:
            raise InputError(
                f"Bless names {', '.join(sorted(unknown))}, which is not a score. There are "
                f"{', '.join(METRICS)}."
            )
        if self.tolerance != 0:
            check_above_zero("Bless.tolerance", self.tolerance)


@configurable
class Push:
    """Where models are served from.

    Attributes:
        folder: of numbered versions, which TensorFlow Serving watches; None is `serving` in the
            pipeline root.
    """

    folder: str | None = None


@configurable
class Cluster:
    """The resources that the compiled pipeline needs from a cluster.

    Attributes:
        image: container image with stugan_tf, which `compile` needs, see
            stugan_tf/pipelines/Dockerfile.
        cpu: processors of a step, as Kubernetes writes them.
        memory: memory of a step, as Kubernetes writes it.
        accelerator: for training and scoring, e.g. 'nvidia.com/gpu'; None for none.
        num_accelerators: int.
        volume_claim: for Kubeflow: name of a claim that is mounted where the pipeline root is.
            None where it is mounted anyway, as /gcs is on Vertex AI.
        mount: path at which it is mounted; the pipeline root begins with it.
        retries: int, how often a step that failed or was preempted is tried again.
    """

    image: str | None = None
    cpu: str = "4"
    memory: str = "16Gi"
    accelerator: str | None = None
    num_accelerators: int = 1
    volume_claim: str | None = None
    mount: str = "/pipeline"
    retries: int = 3

    def __post_init__(self):
        if self.image is not None and not isinstance(self.image, str):
            raise InputError(f"Cluster.image must be a text in quotes, got {self.image!r}.")
        check_positive("Cluster.num_accelerators", self.num_accelerators)
        check_natural("Cluster.retries", self.retries)


@dataclasses.dataclass(frozen=True)
class Settings:
    """All settings of a pipeline."""

    ingest: Ingest = dataclasses.field(default_factory=Ingest)
    beam: Beam = dataclasses.field(default_factory=Beam)
    score: Score = dataclasses.field(default_factory=Score)
    export: Export = dataclasses.field(default_factory=Export)
    bless: Bless = dataclasses.field(default_factory=Bless)
    push: Push = dataclasses.field(default_factory=Push)
    cluster: Cluster = dataclasses.field(default_factory=Cluster)


def _check_choice(name, value, choices, other=None):
    """Raises InputError unless a value is one of `choices`; `other` says what else is allowed."""
    if value not in choices:
        known = ", ".join([*map(repr, choices), *filter(None, [other])])
        raise InputError(f"{name} must be one of {known}, got {value!r}.")


def _check_texts(name, values):
    """Raises InputError unless `values` is a list of texts."""
    if not isinstance(values, (list, tuple)) or not all(isinstance(one, str) for one in values):
        raise InputError(
            f"{name} must be a list of texts, got {values!r}. Write {name} = [{str(values)!r}] for "
            "a single one."
        )


def _check_number(name, value):
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise InputError(f"{name} must be a number, got {value!r}.")


def plain(settings: Any) -> dict[str, Any]:
    """A settings object as values that JSON can hold, for a digest."""
    return dataclasses.asdict(settings)
