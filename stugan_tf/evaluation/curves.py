"""How truncation trades variety for quality, as a picture."""

import importlib.util
import io

from stugan_tf.errors import InputError
from stugan_tf.evaluation.table import METRICS
from stugan_tf.files import write_atomically


def check_curve(metrics):
    """The pairs (x, y) of `Metric`s that a curve of `metrics` shows.

    Raises:
        InputError: if it cannot be drawn.
    """
    if importlib.util.find_spec("matplotlib") is None:
        raise InputError("Curves need matplotlib: install it by `pip install 'stugan_tf[plots]'`.")
    possible = [(METRICS[y.against], y) for y in METRICS.values() if y.against in METRICS]
    pairs = [(x, y) for x, y in possible if x.name in metrics and y.name in metrics]
    if not pairs:
        known = ", ".join(f"{y.label} against {x.label}" for x, y in possible)
        raise InputError(
            f"A truncation curve shows one of these: {known}. Put both of a pair into "
            "Evaluator.metrics."
        )
    return pairs


def write_truncation_curve(path, scores):
    """Draws a plot for each pair of scores that `check_curve` finds, one point a truncation.

    Args:
        path: of the PNG file.
        scores: {truncation: scores of an `Evaluator`}.
    """
    pairs = check_curve(next(iter(scores.values())))
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.5 * len(pairs), 4), layout="constrained")
    for axes, (x, y) in zip(figure.subplots(1, len(pairs), squeeze=False)[0], pairs, strict=True):
        points = [(s[x.name], s[y.name]) for _, s in sorted(scores.items())]
        axes.plot(*zip(*points, strict=True), marker="o")
        for truncation, point in zip(sorted(scores), points, strict=True):
            axes.annotate(f" {truncation:g}", point)
        axes.set_xlabel(x.label)
        axes.set_ylabel(y.label)
        axes.grid(alpha=0.3)
    figure.suptitle("Latents cut off at the value beside each point")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    write_atomically(path, buffer.getvalue())
