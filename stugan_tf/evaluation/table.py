"""The table of metrics: what each is called, which value is better, what it needs, how it is made.

All that deals with metrics walks this table: evaluators, records, curves, the best checkpoint,
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
import inspect
import numbers
from collections.abc import Callable
from typing import NamedTuple

from stugan_tf.checks import check_natural
from stugan_tf.errors import InputError
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
    """The numbers of an evaluation, known before it samples."""

    num_images: int  # generated
    num_features: int
    num_real: int | None  # None if only published moments are known of real images
    num_splits: int
    num_kept: int  # of features; 0 if no metric needs them


class Comparison:
    """The real and the generated images, as metrics see them.

    Attributes:
        real: `Statistics`; None if no metric needs them.
        generated: `Statistics`.
    """

    def __init__(self, names, real, generated):
        """Notes both, and the names of all metrics that will be computed."""
        self.real: Statistics | None = real
        self.generated: Statistics = generated
        self._names = frozenset(names)

    @functools.cached_property
    def neighborhoods(self):
        """`neighborhood_scores`: one pass over the distances for all metrics that need them."""
        precision, density = {"precision", "recall"}, {"density", "coverage"}
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
        name: as `Evaluator.metrics` and records have it.
        best: `min` or `max`: which of several values is the best.
        needs: some of 'moments' (mean and covariance of real images, which may be published ones),
            'features' (some features of real and of generated images) and 'logits' (of generated
            images).
        compute: `Comparison -> number`, or a tuple of numbers, one for each column. A number that
            cannot be known is None.
        stream: for a metric of logits, in place of `compute`: `Sizes -> object` with
            `update(logits)` for each float32 [B, K] that comes, and `result()`, which returns what
            `compute` would. Logits are not kept: there may be gigabytes of them.
        columns: names of its numbers in a record, its own first; by default that alone.
        least: how many features must be kept at least, if it needs them.
        check: raises InputError for `Sizes` that it cannot be computed from.
        settings: which of the `Sizes` its value depends on, besides the number of images: they
            become part of the protocol.
        label: for pictures; by default the name in words.
        against: name of the metric that truncation trades it for; a curve shows both.
    """

    name: str
    best: Callable
    needs: frozenset
    compute: Callable | None = None
    stream: Callable | None = None
    columns: tuple = ()
    least: int = 1
    check: Callable = lambda sizes: None
    settings: tuple = ()
    label: str = ""
    against: str | None = None

    def __post_init__(self):
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
            raise InputError(f"{where}: the first of its columns must be itself, got {columns!r}.")
        object.__setattr__(self, "needs", frozenset(self.needs))
        object.__setattr__(self, "columns", tuple(columns))
        object.__setattr__(self, "label", self.label or self.name.replace("_", " "))

    def cost(self, value):
        """The value, or its negative: lower is better."""
        return value if self.best is min else -value

    def named(self, values):
        """What was computed, by column: {name: float or None}.

        Raises:
            InputError: if it is not a number for each column.
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


def _check_takes_one(where, name, function):
    """Raises InputError unless a function can be called with one argument."""
    try:
        inspect.signature(function).bind(None)
    except TypeError:
        what = "the `Comparison` of images" if name == "compute" else "the `Sizes`"
        raise InputError(
            f"{where}: {name} must be a function of one argument, {what}, got {function!r}."
        ) from None


METRICS: dict[str, Metric] = {}  # by name


def register(metric):
    """Adds a `Metric` to the table; `Evaluator.metrics` may name it from then on.

    Raises:
        InputError: if it is not a `Metric`, or the table has one of its name.
    """
    if not isinstance(metric, Metric):
        raise InputError(f"register takes a Metric, got {metric!r:.200}.")
    if metric.name in METRICS:
        raise InputError(
            f"There is a metric {metric.name!r} already. Give yours another name: records of both "
            "would be mixed up."
        )
    METRICS[metric.name] = metric


def _check_fid(sizes):
    check_enough(sizes.num_images, sizes.num_features, "Evaluator.num_images")
    if sizes.num_real is not None:
        check_enough(sizes.num_real, sizes.num_features, "the number of real images")


def _fid(images):
    real, generated = images.real, images.generated
    return frechet_distance(real.mean, real.covariance, generated.mean, generated.covariance)


def _check_kid(sizes):
    check_blocks(min(sizes.num_kept, sizes.num_real), min(sizes.num_kept, sizes.num_images))


def _kid(images):
    return kernel_distance(images.real.features, images.generated.features)


def _inception_score(sizes):
    return InceptionScore(sizes.num_images, sizes.num_splits)


def _of_neighborhoods(name, num_neighbors, against=None):
    return Metric(
        name,
        max,
        needs={"features"},
        compute=lambda images: images.neighborhoods[name],
        least=num_neighbors + 1,  # A vector has one neighbour less than there are vectors.
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
        check=_inception_score,
        settings=("num_splits",),
        label="Inception Score",
    ),
    _of_neighborhoods("precision", PRECISION_NEIGHBORS, against="recall"),
    _of_neighborhoods("recall", PRECISION_NEIGHBORS),
    _of_neighborhoods("density", DENSITY_NEIGHBORS, against="coverage"),
    _of_neighborhoods("coverage", DENSITY_NEIGHBORS),
):
    register(_metric)

BUILT_IN = tuple(METRICS)  # those of the package, whatever is registered later
