"""The progress of a run on stderr: a bar on a terminal, lines elsewhere."""

import datetime
import sys
import time

from tqdm import tqdm

# What is worth a place on the line, and its name in the paper.
SHOWN = {
    "d_loss": "d_loss",
    "g_loss": "g_loss",
    "generator_sparsity": "s_G",
    "discriminator_sparsity": "s_D",
}


class Progress:
    """Rate and remaining time count the steps of this process alone."""

    def __init__(self, total_steps, start_step, label=""):
        self._total_steps = total_steps
        self._label = label
        self._last_step, self._last_time = start_step, time.monotonic()
        self._bar = None
        if sys.stderr.isatty():
            self._bar = tqdm(
                total=total_steps,
                initial=start_step,
                desc=label or None,
                unit="step",
                dynamic_ncols=True,
            )

    def advance(self, step):
        """Moves the bar."""
        if self._bar:
            self._bar.update(step - self._bar.n)

    def show(self, step, values):
        """Shows the losses and sparsities among `values`."""
        shown = {label: f"{values[name]:.4g}" for name, label in SHOWN.items() if name in values}
        if self._bar:
            self._bar.set_postfix(shown, refresh=False)
            self.advance(step)
            return
        now = time.monotonic()
        rate = (step - self._last_step) / max(now - self._last_time, 1e-9)
        self._last_step, self._last_time = step, now
        parts = [self._label] if self._label else []
        parts += [f"step {step}/{self._total_steps}", *(f"{k} {v}" for k, v in shown.items())]
        if rate > 0:
            left = datetime.timedelta(seconds=round((self._total_steps - step) / rate))
            parts += [f"{rate:.3g} steps/s", f"{left} left"]
        print("  ".join(parts), file=sys.stderr, flush=True)

    def message(self, text):
        """A line of its own above the bar."""
        if self._bar:
            self._bar.write(text, file=sys.stderr)
        else:
            print(text, file=sys.stderr, flush=True)

    def close(self):
        """Leaves the bar as it stands."""
        if self._bar:
            self._bar.close()
