"""What all pictures drawn by Matplotlib share: the check that it is there, colours, PNG bytes."""

import importlib.util
import io
from typing import Any

from stugan_tf.errors import InputError

# Okabe and Ito (2008): told apart by people of all kinds of colour vision, and in print.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = "osD^vPX"


def check_plots() -> None:
    """Raises InputError unless pictures can be drawn."""
    if importlib.util.find_spec("matplotlib") is None:
        raise InputError("Figures need matplotlib: install it by `pip install 'stugan_tf[plots]'`.")


def new_figure(width: float, height: float) -> Any:
    """A Matplotlib `Figure` of this size in inches. Its panels leave room for their labels."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def png(figure: Any, dots: int = 120) -> bytes:
    """A figure as a PNG file, with this number of dots in an inch."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dots)
    return buffer.getvalue()
