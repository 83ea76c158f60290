"""What a run says at its end: its newest picture and its scores."""

import pathlib
from typing import Any

from stugan_tf.evaluation import records
from stugan_tf.evaluation.table import METRICS
from stugan_tf.runs.status import status_of


def picture_and_scores(workdir: pathlib.Path) -> str:
    """The newest sample grid and the newest scores of a run, each on a line; '' without any.

    Args:
        workdir: its folder; of a run with phases, this tells about the newest phase.
    """
    folder = status_of(workdir).folder
    lines = [f"picture: {path}" for path in sorted(folder.glob("samples/step_*.png"))[-1:]]
    found = records.read(folder)
    if found:
        newest = found[-1]
        scores = [
            f"{metric.label} {newest[name]:.4g}"
            for name, metric in METRICS.items()
            if newest.get(name) is not None
        ]
        if scores:  # An evaluator of one's own may know others.
            lines.append(f"scores at step {newest['step']}: {', '.join(scores)}")
        lines += _better_before(found, newest["protocol"]["id"])
    return "\n".join(lines)


def _better_before(found: list[dict[str, Any]], protocol: str) -> list[str]:
    """A line about the best value of the first metric, if an earlier step had it."""
    name = next((name for name in METRICS if found[-1].get(name) is not None), None)
    if name is None:
        return []
    same = [r for r in found if r["protocol"]["id"] == protocol and r.get(name) is not None]
    best = min(same, key=lambda record: METRICS[name].cost(record[name]))
    if best["step"] == found[-1]["step"]:
        return []
    return [f"best {METRICS[name].label}: {best[name]:.4g} at step {best['step']}"]
