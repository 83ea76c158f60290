"""How truncation trades variety for quality, as a picture."""

import pathlib
from collections.abc import Collection, Mapping
from typing import Any

from stugan_tf.errors import InputError
from stugan_tf.evaluation.table import METRICS, Metric
from stugan_tf.files import write_atomically
from stugan_tf.plots import check_plots, new_figure, png


def check_curve(metrics: Collection[str]) -> list[tuple[Metric, Metric]]:
    """Finds the pairs of metrics that a truncation curve can show.

    Args:
        metrics: names of the metrics that are computed.

    Returns:
        Pairs (x, y) of `Metric`s.

    Raises:
        InputError: if there is no such pair, or matplotlib is missing.
    """
    check_plots()
    entries = METRICS.values()
    possible = [(METRICS[y.against], y) for y in entries if y.against and y.against in METRICS]
    pairs = [(x, y) for x, y in possible if x.name in metrics and y.name in metrics]
    if not pairs:
        known = ", ".join(f"{y.label} against {x.label}" for x, y in possible)
        raise InputError(
            f"A truncation curve shows one of these pairs: {known}. Put both metrics of a pair "
            "into Evaluator.metrics."
        )
    return pairs


def write_truncation_curve(path: pathlib.Path, scores: Mapping[float, dict[str, Any]]) -> None:
    """Draws a plot for each pair of metrics that `check_curve` finds, with a point per truncation.

    Args:
        path: path of the PNG file.
        scores: {truncation: scores that an `Evaluator` returned}.
    """
    pairs = check_curve(next(iter(scores.values())))
    figure = new_figure(4.5 * len(pairs), 4)
    for axes, (x, y) in zip(figure.subplots(1, len(pairs), squeeze=False)[0], pairs, strict=True):
        points = [(s[x.name], s[y.name]) for _, s in sorted(scores.items())]
        axes.plot(*zip(*points, strict=True), marker="o")
        for truncation, point in zip(sorted(scores), points, strict=True):
            axes.annotate(f" {truncation:g}", point)
        axes.set_xlabel(x.label)
        axes.set_ylabel(y.label)
        axes.grid(alpha=0.3)
    figure.suptitle("Latents cut off at the value beside each point")
    write_atomically(path, png(figure))
