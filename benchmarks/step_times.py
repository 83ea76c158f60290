r"""How long a generator step takes in each run of a grid that compares by time.

    python -m benchmarks.step_times --name=time_to_quality --preset=cpu --classifier=PATH \
        --output=runs/ttq [--rounds=5] [--steps=10] [--line=TEXT ...] [--gin_param=BINDING ...]

Give what the grid's own command (`python -m stugan_tf.experiments`) is given, and leave the machine
alone for some minutes. The trainings of all lines are built in one process. In turn they make
`--steps` steps and one with a topology update, with their data and averages, so that all meet the
same moments of the machine. OUTPUT/NAME/step_times.json receives the seconds a step of each round,
with the topology update spread over its interval. The grid's command uses it: seconds of training
are then steps times the median. So the runs themselves may share the machine, and need not all be
made on one. Of several measurements of a line the last one counts.
"""

import json
import statistics
import sys

from absl import app, flags

from benchmarks.twins import seconds
from stugan_tf import (
    config,
    models,  # noqa: F401 - registers them with gin.
)
from stugan_tf.data import data
from stugan_tf.evaluation import evaluator  # noqa: F401 - registers it with gin.
from stugan_tf.experiments import recipe, timing
from stugan_tf.experiments.grid import cells_of, select
from stugan_tf.experiments.grids import EXTENSIONS
from stugan_tf.experiments.presets import PRESETS, preset
from stugan_tf.files import local_path, write_atomically
from stugan_tf.kernels import tuning
from stugan_tf.runs.loop import Training
from stugan_tf.tables import markdown
from stugan_tf.training.strategies import create_strategy

_GRIDS = {grid.name: grid for grid in EXTENSIONS if grid.reference}
_NAME = flags.DEFINE_enum("name", "time_to_quality", list(_GRIDS), "The grid.")
_PRESET = flags.DEFINE_enum("preset", "cpu", list(PRESETS), "Its size.")
_CLASSIFIER = flags.DEFINE_string("classifier", None, "As of the grid's command.")
_OUTPUT = flags.DEFINE_string("output", None, "Folder of the grid's runs.", required=True)
_ROUNDS = flags.DEFINE_integer("rounds", 5, "Turns of each line.", 1)
_STEPS = flags.DEFINE_integer("steps", 10, "Steps of a turn.", 1)
_LINE = flags.DEFINE_multi_string("line", [], "As of the grid's command.")
_GIN_FILE = flags.DEFINE_multi_string("gin_file", [], "As of the grid's command.")
_GIN_PARAM = flags.DEFINE_multi_string("gin_param", [], "As of the grid's command.")


class Turns:
    """The training of one cell, which makes some steps at a time."""

    def __init__(self, cell, strategy):
        folder = recipe.gin_folder()
        files = [folder / file for file in cell.files] + _GIN_FILE.value
        config.parse_gin(files, (*cell.bindings, *_GIN_PARAM.value))
        self._training = training = Training(data(), strategy)
        self._batches = iter(training.distributed_batches(0))
        self._step = 0
        total = training.algorithm.total_steps
        self._updates = [
            step
            for step in range(1, total)
            if any(player.is_due(step, total) for player in training.players.values())
        ]
        self._share = len(self._updates) / total
        self()  # The updates are compiled.

    def __call__(self):
        """Makes the steps of a turn. Returns the seconds a step."""
        while self._step + _STEPS.value in self._updates:  # The last step would be one of them.
            self._step += 1
        plain = seconds(self._run, self._step, _STEPS.value) / _STEPS.value
        self._step += _STEPS.value
        if not self._updates:
            return plain
        changing = seconds(self._run, self._updates[0] - 1, 1)
        return plain + self._share * (changing - plain)

    def _run(self, step, num_steps):
        self._training.steps.run(self._batches, step, num_steps)
        self._training.steps.pop_metrics()  # Waits for the steps.


def main(_):
    grid, strategy, turns = _GRIDS[_NAME.value], create_strategy("auto"), {}
    cells = cells_of(grid, preset(_PRESET.value, _CLASSIFIER.value), (timing.SEED,))
    names = recipe.Names(recipe.gin_folder(), _GIN_FILE.value, _GIN_PARAM.value)
    records = {}
    for cell in select(cells, [], _LINE.value):
        records[cell.line] = {"cell": names.name_of(cell), "machine": tuning.machine()}
        turns[cell.line] = Turns(cell, strategy)
        print(f"built: {cell.line}", flush=True)
    times = {line: [] for line in turns}
    for number in range(1, _ROUNDS.value + 1):
        for line, turn in turns.items():
            times[line].append(turn())
            milliseconds = f"{1e3 * times[line][-1]:.1f} ms a step"
            print(f"round {number} of {_ROUNDS.value}: {line}: {milliseconds}", flush=True)
    path = local_path(_OUTPUT.value, "--output") / grid.name / timing.STEP_TIMES
    path.parent.mkdir(parents=True, exist_ok=True)
    known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    known |= {line: {**records[line], "seconds": found} for line, found in times.items()}
    write_atomically(path, f"{json.dumps(known, indent=1)}\n".encode())
    rows = [
        [line, *(f"{1e3 * t:.1f}" for t in (statistics.median(found), min(found), max(found)))]
        for line, found in times.items()
    ]
    print(markdown(["ms a step", "median", "least", "greatest"], rows), f"\nwritten to {path}")


if __name__ == "__main__":
    sys.exit(app.run(main))
