"""The table of metrics: name, better value, needs and computation of each.

All code that deals with metrics walks this table: evaluators, records, curves, the best checkpoint,
results of experiments, limits of pipelines. A metric of your own is one function and one entry,
in a module that a gin file imports:

    import numpy as np
    from stugan_tf.evaluation.table import Metric, register

    def mean_shift(images):
        return np.linalg.norm(images.real.mean - images.generated.mean)

    register(Metric("mean_shift", best=min, needs={"moments"}, compute=mean_shift))
"""

import dataclasses
import functools
import importlib.util
import inspect
import numbers
from collections.abc import Callable, Collection, Iterable
from typing import Any, NamedTuple

from stugan_tf.checks import check_natural
from stugan_tf.errors import InputError, NotInstalledError
from stugan_tf.evaluation.metrics import (
    InceptionScore,
    check_blocks,
    check_enough,
    frechet_distance,
    kernel_distance,
    neighborhood_scores,
)
from stugan_tf.evaluation.statistics import Statistics

NEEDS = ("moments", "features", "logits")
PRECISION_NEIGHBORS, DENSITY_NEIGHBORS = 3, 5  # as in the papers


class Sizes(NamedTuple):
    """The numbers of an evaluation, known before it samples.

    Attributes:
        num_images: number of generated images.
        num_features: number of features of an image.
        num_real: number of real images; None if only published moments of them are known.
        num_splits: number of parts of the Inception Score.
        num_kept: number of images whose features are kept; 0 if no metric needs them.
    """

    num_images: int
    num_features: int
    num_real: int | None
    num_splits: int
    num_kept: int


class Comparison:
    """The real and the generated images, as metrics see them.

    Attributes:
        real: statistics of the real images; None if no metric needs them.
        generated: statistics of the generated images; None if all metrics are of logits.
    """

    def __init__(
        self, names: Iterable[str], real: Statistics | None, generated: Statistics | None
    ) -> None:
        """Takes the names of all metrics that will be computed, and both statistics."""
        self.real = real
        self.generated = generated
        self._names = frozenset(names)

    @functools.cached_property
    def neighborhoods(self) -> dict[str, float]:
        """`neighborhood_scores`: one pass over the distances for all metrics that need them."""
        precision, density = {"precision", "recall"}, {"density", "coverage"}
        assert self.real is not None
        assert self.generated is not None
        assert self.real.features is not None
        assert self.generated.features is not None
        return neighborhood_scores(
            self.real.features,
            self.generated.features,
            precision_neighbors=PRECISION_NEIGHBORS if precision & self._names else None,
            density_neighbors=DENSITY_NEIGHBORS if density & self._names else None,
        )


@dataclasses.dataclass(frozen=True)
class Metric:
    """One entry of the table.

    Attributes:
        name: name of the metric in `Evaluator.metrics` and in records.
        best: `min` or `max`: which of several values is the best.
        needs: some of 'moments' (mean and covariance of real images, which may be published ones),
            'features' (some features of real and of generated images) and 'logits' (of generated
            images).
        compute: `Comparison -> number`, or a tuple of numbers, one for each column. A number that
            cannot be known is None.
        stream: for a metric of logits, in place of `compute`: `Sizes -> object`. The object has
            `update(logits)`, called with each batch, float32 [B, K], and `result()`, which returns
            the same as `compute`. Logits are not kept: they may take gigabytes.
        columns: names of its numbers in a record, the metric's own name first; by default only it.
        least: the smallest number of kept features, if the metric needs features.
        check: raises InputError for `Sizes` from which the metric cannot be computed.
        settings: names of the `Sizes` that the value depends on, besides the number of images; they
            become part of the protocol.
        label: name in pictures; by default `name` in words.
        against: name of the metric that truncation trades this one for; a curve shows both.
    """

    name: str
    best: Callable[..., Any]
    needs: Collection[str]
    compute: Callable[[Comparison], Any] | None = None
    stream: Callable[[Sizes], Any] | None = None
    columns: tuple[str, ...] = ()
    least: int = 1
    check: Callable[[Sizes], object] = lambda sizes: None
    settings: tuple[str, ...] = ()
    label: str = ""
    against: str | None = None

    def __post_init__(self) -> None:
        """Raises InputError for an entry that cannot work."""
        if not isinstance(self.name, str) or not self.name.isidentifier():
            raise InputError(f"Metric.name must be a word such as 'fid', got {self.name!r}.")
        where = f"Metric {self.name!r}"
        if self.best not in (min, max):
            raise InputError(f"{where}: best must be min or max, got {self.best!r}.")
        if isinstance(self.needs, str) or not set(self.needs) <= set(NEEDS):
            raise InputError(
                f"{where}: needs must be a set with some of {', '.join(NEEDS)}, got {self.needs!r}."
            )
        of_logits = "logits" in self.needs
        if of_logits == (self.stream is None) or of_logits == (self.compute is not None):
            raise InputError(
                f"{where} must have `stream` if it needs logits, and `compute` if it does not."
            )
        _check_takes_one(where, "stream" if of_logits else "compute", self.stream or self.compute)
        _check_takes_one(where, "check", self.check)
        check_natural(f"{where}: least", self.least)
        if not set(self.settings) <= set(Sizes._fields):
            raise InputError(
                f"{where}: settings must be some of {', '.join(Sizes._fields)}, got "
                f"{self.settings!r}."
            )
        columns = self.columns or (self.name,)
        if columns[0] != self.name:
            raise InputError(
                f"{where}: the first of its columns must be {self.name!r}, got {columns!r}."
            )
        object.__setattr__(self, "needs", frozenset(self.needs))
        object.__setattr__(self, "columns", tuple(columns))
        object.__setattr__(self, "label", self.label or self.name.replace("_", " "))

    def cost(self, value: float) -> float:
        """The value, or its negative if the largest value is the best: lower is better."""
        return value if self.best is min else -value

    def named(self, values: Any) -> dict[str, float | None]:
        """Names the computed numbers by column.

        Args:
            values: the result of `compute` or of a stream.

        Returns:
            {column: float or None}.

        Raises:
            InputError: if `values` is not one number for each column.
        """
        values = values if isinstance(values, tuple) else (values,)
        known = [value for value in values if value is not None]
        if len(values) != len(self.columns) or not all(isinstance(v, numbers.Real) for v in known):
            raise InputError(
                f"Metric {self.name!r} must give {len(self.columns)} number(s), "
                f"{', '.join(self.columns)}, got {values!r:.200}."
            )
        floats = (None if value is None else float(value) for value in values)
        return dict(zip(self.columns, floats, strict=True))


def _check_takes_one(where: str, name: str, function: Any) -> None:
    """Raises InputError unless a function can be called with one argument."""
    try:
        inspect.signature(function).bind(None)
    except TypeError:
        what = "the `Comparison` of images" if name == "compute" else "the `Sizes`"
        raise InputError(
            f"{where}: {name} must be a function of one argument, {what}, got {function!r}."
        ) from None


METRICS: dict[str, Metric] = {}  # by name


def register(metric: Metric) -> None:
    """Adds a metric to the table; from then on `Evaluator.metrics` may name it.

    Raises:
        InputError: if it is not a `Metric`, or the table already has one with this name.
    """
    if not isinstance(metric, Metric):
        raise InputError(f"register takes a Metric, got {metric!r:.200}.")
    if metric.name in METRICS:
        raise InputError(
            f"There is already a metric {metric.name!r}. Give yours another name: otherwise their "
            "records would be mixed up."
        )
    METRICS[metric.name] = metric


def _check_fid(sizes: Sizes) -> None:
    check_enough(sizes.num_images, sizes.num_features, "Evaluator.num_images")
    if sizes.num_real is not None:
        check_enough(sizes.num_real, sizes.num_features, "the number of real images")


def _fid(images: Any) -> float:
    real, generated = images.real, images.generated
    return frechet_distance(real.mean, real.covariance, generated.mean, generated.covariance)


def _check_tfgan(name: str) -> None:
    """Raises NotInstalledError unless TF-GAN, which computes a metric, is installed."""
    if importlib.util.find_spec("tensorflow_gan") is None:
        raise NotInstalledError(
            f"{name} is computed by TF-GAN, which is not installed: `pip install "
            "'stugan_tf[evaluation]'`, or leave it out of Evaluator.metrics."
        )


def _check_kid(sizes: Any) -> None:
    _check_tfgan("kid")
    check_blocks(min(sizes.num_kept, sizes.num_real), min(sizes.num_kept, sizes.num_images))


def _kid(images: Any) -> tuple[float, float | None]:
    return kernel_distance(images.real.features, images.generated.features)


def _check_inception_score(sizes: Sizes) -> None:
    _check_tfgan("inception_score")
    _inception_score(sizes)


def _inception_score(sizes: Sizes) -> InceptionScore:
    return InceptionScore(sizes.num_images, sizes.num_splits)


def _of_neighborhoods(name: str, num_neighbors: int, against: str | None = None) -> Metric:
    return Metric(
        name,
        max,
        needs={"features"},
        compute=lambda images: images.neighborhoods[name],
        least=num_neighbors + 1,  # Each of n vectors has n - 1 neighbours.
        settings=("num_kept",),
        against=against,
    )


for _metric in (
    Metric(
        name="fid",
        best=min,
        needs={"moments"},
        compute=_fid,
        check=_check_fid,
        label="FID",
        against="inception_score",
    ),
    Metric(
        name="kid",
        best=min,
        needs={"features"},
        compute=_kid,
        columns=("kid", "kid_std"),
        least=2,
        check=_check_kid,
        settings=("num_kept",),
        label="KID",
    ),
    Metric(
        name="inception_score",
        best=max,
        needs={"logits"},
        stream=_inception_score,
        columns=("inception_score", "inception_score_std"),
        check=_check_inception_score,
        settings=("num_splits",),
        label="Inception Score",
    ),
    _of_neighborhoods("precision", PRECISION_NEIGHBORS, against="recall"),
    _of_neighborhoods("recall", PRECISION_NEIGHBORS),
    _of_neighborhoods("density", DENSITY_NEIGHBORS, against="coverage"),
    _of_neighborhoods("coverage", DENSITY_NEIGHBORS),
):
    register(_metric)

BUILT_IN = tuple(METRICS)  # the package's own, without metrics that users register later
