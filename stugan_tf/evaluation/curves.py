"""How truncation trades variety for quality, as a picture."""

import importlib.util
import io

from stugan_tf.errors import InputError
from stugan_tf.files import write_atomically

PAIRS = (("inception_score", "fid"), ("recall", "precision"), ("coverage", "density"))


def check_curve(metrics):
    """The pairs of `metrics` that a curve shows; InputError if it cannot be drawn."""
    if importlib.util.find_spec("matplotlib") is None:
        raise InputError("Curves need matplotlib: install it by `pip install 'stugan_tf[plots]'`.")
    pairs = [pair for pair in PAIRS if all(name in metrics for name in pair)]
    if not pairs:
        raise InputError(
            "A truncation curve shows FID against Inception Score, precision against recall, or "
            "density against coverage: put both of a pair into Evaluator.metrics."
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
        points = [(s[x], s[y]) for _, s in sorted(scores.items())]
        axes.plot(*zip(*points, strict=True), marker="o")
        for truncation, point in zip(sorted(scores), points, strict=True):
            axes.annotate(f" {truncation:g}", point)
        axes.set_xlabel(x.replace("_", " "))
        axes.set_ylabel("FID" if y == "fid" else y)
        axes.grid(alpha=0.3)
    figure.suptitle("Latents cut off at the value beside each point")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    write_atomically(path, buffer.getvalue())
