"""What a person sees of a run: metrics, TensorBoard, sample grids, progress."""

import numbers
import pathlib
import textwrap
import time

import tensorflow as tf
from tensorboard.compat.proto import event_pb2

from stugan_tf.adapters.tensorflow_internals import write_event
from stugan_tf.files import JsonLines
from stugan_tf.images import image_grid, write_png
from stugan_tf.training.progress import Progress


class Monitor:
    """Writes what happens to a working directory and to stderr; a context manager.

    Opened at step k, it drops what a killed process wrote after the checkpoint of step k.

    Args:
        workdir: Gets `metrics.jsonl`, `tensorboard/` and `samples/`.
        total_steps: The step at which the run will be over.
        start_step: The last step already done: 0, or that of the checkpoint.
        label: What the run is called in its progress.
    """

    def __init__(self, workdir, total_steps, start_step=0, label=""):
        self._workdir = pathlib.Path(workdir)
        self._start_step = start_step
        self._metrics = JsonLines(self._workdir / "metrics.jsonl", start_step)
        self._summaries = tf.summary.create_file_writer(str(self._workdir / "tensorboard"))
        _mark_start(self._summaries, start_step)
        self._progress = Progress(total_steps, start_step, label)

    def advance(self, step):
        """Moves the progress bar; cheap enough for every step."""
        self._progress.advance(step)

    def scalars(self, step, values):
        """Logs numbers or scalar tensors by name."""
        values = {name: float(value) for name, value in values.items()}
        self._metrics.append({"step": step, "time": round(time.time(), 3), **values})
        self.summaries(step, values)
        self._progress.show(step, values)

    def summaries(self, step, values):
        """Shows numbers by name in TensorBoard alone; what is before `/` in a name groups them."""
        with self._summaries.as_default(step):
            for name, value in values.items():
                tf.summary.scalar(name if "/" in name else f"training/{name}", value)
        self._summaries.flush()

    def scores(self, step, scores):
        """Shows what of an evaluation's result is a number, in a line and in TensorBoard."""
        found = {name: value for name, value in scores.items() if isinstance(value, numbers.Real)}
        self.summaries(step, {f"evaluation/{name}": value for name, value in found.items()})
        self.event(step, "  ".join(f"{name} {value:.4g}" for name, value in found.items()))

    def images(self, step, images, columns=None):
        """Writes a grid of `images`, float [n, H, W, C] in [-1, 1]; returns its path.

        There are `columns` in a row, by default as many as make the grid square.
        """
        grid = image_grid(images, columns)
        path = self._workdir / "samples" / f"step_{step:08d}.png"
        write_png(path, grid)
        with self._summaries.as_default(step):
            tf.summary.image("samples", grid[None])
        return path

    def text(self, name, text):
        """Shows a text, such as the configuration, in TensorBoard as it is."""
        with self._summaries.as_default(self._start_step):
            tf.summary.text(name, textwrap.indent(text, "    "))  # Markdown for preformatted

    def event(self, step, message):
        """Says something that happened, on a line of its own."""
        self._progress.message(f"step {step}: {message}")

    def close(self):
        """Ends the bar and closes all files."""
        self._progress.close()
        self._summaries.close()
        self._metrics.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def _mark_start(writer, step):
    """Makes TensorBoard forget what earlier event files hold of steps after `step`.

    It heeds the second such mark and those that follow, so that a first start needs one, too.
    """
    start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
    event = event_pb2.Event(wall_time=time.time(), step=step + 1, session_log=start)
    write_event(writer, event)
