"""The paper's tables and figures as grids of trainings.

`python -m stugan_tf.experiments --name=table1 --preset=cpu --output=DIR [--processes=2]` trains the
runs that are not done yet, then collects the results; started again, the command continues.
`--name=all` is everything in the paper. --gin_file and --gin_param override the settings of all
runs.

Exit codes: 0 done, 1 bad input or failed runs, 128 + the number of the signal that asked to stop.
"""

import pathlib
import shlex
import sys
import time

from absl import flags

from stugan_tf import command
from stugan_tf.checks import check_network_seed, check_positive
from stugan_tf.errors import InputError
from stugan_tf.experiments import recipe
from stugan_tf.experiments.grid import CHOICES, Cell, Grid, cells_of, models_of, select
from stugan_tf.experiments.grids import ABLATIONS, CIFAR, EXTENSIONS, GRIDS
from stugan_tf.experiments.paper_results import paper_results
from stugan_tf.experiments.presets import PRESETS, preset
from stugan_tf.files import local_path, write_atomically
from stugan_tf.plots import check_plots

FLAGS = flags.FLAGS
flags.adopt_module_key_flags(command)  # For --help.
flags.DEFINE_list(
    "name", None, f"Grids to run: {', '.join(['table2', *GRIDS])}; all is everything in the paper."
)
flags.DEFINE_string("preset", "paper", f"Size of the runs: {', '.join(PRESETS)}.")
flags.DEFINE_string("output", None, "Folder of the runs (cells/) and of the results.")
flags.DEFINE_integer("processes", 1, "How many runs to train at a time.")
flags.DEFINE_list("seeds", None, "Seeds of each cell, instead of the preset's.")
flags.DEFINE_list("models", [], "Only these models.")
flags.DEFINE_multi_string(
    "line",
    [],
    "Only rows or curves whose names begin so, such as STU; may be given several times.",
)
flags.DEFINE_list("gpus", [], "Give each process one of these GPUs, such as 0,1,2,3.")
flags.DEFINE_string("classifier", None, "SavedModel that scores the preset cpu.")
flags.DEFINE_enum("score", "last", CHOICES, "Which evaluation of a run counts.")
flags.DEFINE_bool("collect_only", False, "Train nothing; make tables and figures of finished runs.")
flags.DEFINE_bool("dry_run", False, "Train nothing; list the runs and their progress.")
flags.DEFINE_integer("report_seconds", 60, "Seconds between reports on what is running.")

COMPUTED = "table2"


def _check_flags() -> None:
    names = _names()
    check_positive("--processes", FLAGS.processes)
    if not FLAGS.output:
        raise InputError("--output is missing: the folder of the runs and the tables.")
    _output()
    chosen, seeds = preset(FLAGS.preset, FLAGS.classifier), _seeds()
    if FLAGS.collect_only:
        return
    grids = [GRIDS[name] for name in names if name != COMPUTED]
    for grid in grids:
        if not models_of(grid, chosen):
            raise InputError(
                f"--name={grid.name} has no runs at --preset={FLAGS.preset}. Choose "
                f"{' or '.join(f'--preset={name}' for name in _presets_of(grid))}."
            )
    cells = [cell for grid in grids for cell in cells_of(grid, chosen, seeds)]
    if cells:
        select(cells, FLAGS.models, FLAGS.line)


def _output() -> pathlib.Path:
    return local_path(FLAGS.output, "--output")


def _names():
    known = [COMPUTED, *GRIDS]
    if not FLAGS.name:
        raise InputError(f"--name is missing: {', '.join(known)}, or all.")
    beyond = {grid.name for grid in (*EXTENSIONS, *ABLATIONS)}
    names = []
    for name in FLAGS.name:
        if name == "all":
            names += [known_name for known_name in known if known_name not in beyond]
        elif name in known:
            names.append(name)
        else:
            raise InputError(f"--name={name} is not one of {', '.join(known)}, all.")
    return list(dict.fromkeys(names))


def _presets_of(grid):
    """Names of the presets that have runs of a grid."""
    return [name for name, preset in PRESETS.items() if models_of(grid, preset)]


def _seeds():
    if FLAGS.seeds is None:
        return None
    if not FLAGS.seeds or not all(text.isdecimal() for text in FLAGS.seeds):
        raise InputError(f"--seeds={','.join(FLAGS.seeds)}: give integers such as 0,1,2.")
    for text in FLAGS.seeds:
        check_network_seed("--seeds", int(text))
    return tuple(dict.fromkeys(map(int, FLAGS.seeds)))


with command.late_imports(__name__, _check_flags):
    from stugan_tf.experiments import collecting, costs, figures, runs, timing
    from stugan_tf.experiments.scheduler import Job, Scheduler, Stopped


def main(_: list[str]) -> None:
    """Trains and collects the grids that the flags name."""
    names = _names()
    experiment = Experiment(_output())
    grids = [GRIDS[name] for name in names if name != COMPUTED]
    if grids and not FLAGS.dry_run:
        check_plots()
    failed = [] if FLAGS.collect_only else experiment.run(grids)
    if FLAGS.dry_run:
        return
    if COMPUTED in names:
        experiment.compute_table2()
    mixed = [error for grid in grids for error in experiment.collect(grid)]
    _say_what_failed(failed, mixed)


def _say_what_failed(failed, mixed):
    for error in mixed:
        print(f"error: {error}", file=sys.stderr)
    if failed:
        print(f"error: {len(failed)} runs failed:", file=sys.stderr)
        for job in failed:
            print(f"  {job.name}: see {job.folder / 'log.txt'}", file=sys.stderr)
    if failed or mixed:
        sys.exit(1)


class Experiment:
    """Grids in one folder, at the size that the flags choose."""

    def __init__(self, output: pathlib.Path) -> None:
        """Keeps the folder and reads the flags."""
        self._output = output
        self._preset = preset(FLAGS.preset, FLAGS.classifier)
        self._seeds = _seeds()
        self._gin = recipe.gin_folder()
        self._recipe_names = recipe.Names(self._gin, FLAGS.gin_file, FLAGS.gin_param)
        self._names: dict[Cell, str | None] = {}

    def run(self, grids: list[Grid]) -> list[Job]:
        """Trains the runs that are not done. Returns the jobs that failed."""
        cells = [cell for grid in grids for cell in cells_of(grid, self._preset, self._seeds)]
        cells = select(cells, FLAGS.models, FLAGS.line) if cells else []
        recipe.check_files(cells, self._gin)
        jobs: dict[str, Job] = {}
        for cell in cells:
            job = self._job(cell)
            jobs.setdefault(job.name, job)  # A run that several tables share is trained once.
        if FLAGS.dry_run:
            _list(jobs.values())
            return []
        if not jobs:
            return []
        reporter = Reporter(len(jobs), FLAGS.report_seconds)
        scheduler = Scheduler(jobs.values(), FLAGS.processes, reporter, FLAGS.gpus)
        try:
            return scheduler.run()
        except Stopped as stopped:
            print(stopped, file=sys.stderr)
            sys.exit(stopped.exit_code)

    def _job(self, cell):
        name = self._name(cell)
        folder = self._output / "cells" / name
        files = [self._gin / file for file in cell.files] + FLAGS.gin_file
        arguments = [f"--gin_file={file}" for file in files]
        arguments += [f"--gin_param={binding}" for binding in (*cell.bindings, *FLAGS.gin_param)]
        if cell.pretrains:
            arguments.append(f"--shared={self._output / 'shared'}")
        train = [sys.executable, "-m", "stugan_tf.train"]
        workdir = f"--workdir={runs.workdir_of(folder)}"
        return Job(
            name,
            folder,
            [*train, *arguments, workdir],
            lambda: runs.is_done(folder),
            lambda: runs.threads_of(folder),
        )

    def _name(self, cell):
        """The name of the cell's folder; None if it needs a gin file that is missing."""
        if cell not in self._names:
            there = not recipe.missing_files([cell], self._gin)
            self._names[cell] = self._recipe_names.name_of(cell) if there else None
        return self._names[cell]

    def collect(self, grid: Grid) -> list[str]:
        """Writes and prints the results of a grid. Returns errors, as text."""
        folder = self._output / grid.name
        cells = cells_of(grid, self._preset, self._seeds)
        results = collecting.collect(cells, self._name, self._output / "cells")
        write_atomically(folder / "results.csv", collecting.as_csv(results).encode())
        evaluations = collecting.evaluations_as_csv(results)
        write_atomically(folder / "evaluations.csv", evaluations.encode())
        try:
            table = collecting.as_markdown(
                grid, results, paper_results(), FLAGS.score, self._notes()
            )
            write_atomically(folder / "table.md", table.encode())
            print(table)
            protocols = self._protocols(grid, results)
            self._draw(folder, grid, results, protocols)
            if grid.reference:
                self._time(folder, grid, results, protocols)
        except InputError as error:
            return [f"{grid.name}: {error}"]
        print(f"written to {folder}", file=sys.stderr)
        return []

    def _protocols(self, grid, results):
        """{model: id of the protocol of its scores, or None} of a grid."""
        protocols = {}
        for model in models_of(grid, self._preset):
            found = collecting.protocols_of([r for r in results if r.cell.model == model])
            protocols[model] = next(reversed(found), None)
        return protocols

    def _time(self, folder, grid, results, protocols):
        """Writes and prints the results of a grid that is about time."""
        ((_, protocol),) = protocols.items()
        first = cells_of(grid, self._preset, (timing.SEED,))
        measured = timing.step_times(folder, {cell.line: self._name(cell) for cell in first})
        found = timing.curves(results, protocol, self._output / "cells", measured)
        table = timing.as_markdown(grid.reference, found, bool(measured))
        write_atomically(folder / "time.md", f"{table}\n".encode())
        write_atomically(folder / "time.csv", timing.as_csv(found).encode())
        timing.write_figure(folder / "time", grid, found)
        print(table)

    def _draw(self, folder, grid, results, protocols):
        if grid.axis is not None:
            figures.write_figure(folder / grid.name, grid, results, protocols, FLAGS.score)
        figures.write_curves(folder / "curves", grid, results, protocols)

    def compute_table2(self) -> None:
        """Writes and prints Table 2."""
        accounts, found = {}, []
        for model in CIFAR:
            base = self._preset.models[model].base
            accounts[model] = costs.CostRatios(model, costs.networks([self._gin / base], ()))
            found += costs.entries(model, accounts[model])
        known = paper_results() if FLAGS.preset == "paper" else {}
        folder = self._output / COMPUTED
        write_atomically(folder / "results.csv", costs.as_csv(found).encode())
        table = costs.as_markdown(accounts, found, known, self._notes())
        write_atomically(folder / "table.md", table.encode())
        print(table)

    def _notes(self):
        arguments = [a for a in sys.argv[1:] if not a.startswith(("--collect_only", "--dry_run"))]
        about = f"Preset {FLAGS.preset}: {self._preset.description}."
        if FLAGS.preset != "paper":
            about += " The paper's numbers come from its own models, lengths and protocol."
        return [f"`python -m stugan_tf.experiments {shlex.join(arguments)}`", about]


class Reporter:
    """Prints on stderr what is running and what is left."""

    def __init__(self, total: int, seconds: float) -> None:
        """Keeps the number of runs, and the time between reports when nothing has changed."""
        self._total = total
        self._seconds = seconds
        self._said = None
        self._at = 0.0

    def __call__(self, running, waiting, done, failed):
        """See `Scheduler`."""
        state = ([job.name for job in running], len(waiting), len(done), len(failed))
        if state == self._said and time.monotonic() < self._at + self._seconds:
            return
        self._said, self._at = state, time.monotonic()
        print(
            f"{len(done)} of {self._total} runs done, {len(failed)} failed, {len(running)} "
            f"running, {len(waiting)} left",
            file=sys.stderr,
        )
        for job in running:
            print(f"  {job.name}: {runs.progress_text(job.folder, 'starting')}", file=sys.stderr)
        sys.stderr.flush()


def _list(jobs):
    for job in jobs:
        state = "done" if job.is_done() else runs.progress_text(job.folder, "not started")
        print(f"{job.name}: {state}")
        print(f"  {shlex.join(job.command)}")


if __name__ == "__main__":
    command.run(main)
