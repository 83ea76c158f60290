"""Prints each network layer by layer, and draws the curves of a run.

    --gin_file=F                      the networks of a configuration
    --workdir=DIR                     the newest checkpoint of a run; draws DIR/curves.png
    --workdir=A --workdir=B --output=curves.png   a table of runs, and their curves in one picture

Networks have shapes, densities, parameters and theoretical FLOPs. Curves are losses, scores,
densities and exploration rates; they need `pip install 'stugan_tf[plots]'`.
"""

import os
import pathlib
import sys
from typing import Any

from absl import flags

from stugan_tf import command, config
from stugan_tf.errors import InputError
from stugan_tf.files import local_path, output_file, read_json_lines
from stugan_tf.plots import check_plots

FLAGS = flags.FLAGS
flags.adopt_module_key_flags(command)  # For --help.
flags.DEFINE_multi_string(
    "workdir",
    [],
    "Folder of a run; reads its configuration, masks and logs. Given several times, it compares "
    "runs.",
)
flags.DEFINE_string(
    "output", None, "PNG file of the curves; by default curves.png in the folder of the run."
)


def _check_flags() -> None:
    if bool(FLAGS.gin_file) == bool(FLAGS.workdir):
        raise InputError("Give either --gin_file=F or --workdir=DIR.")
    if len(FLAGS.workdir) > 1 and not FLAGS.output:
        raise InputError("--output is missing: the PNG file of the runs that are compared.")
    if len(FLAGS.workdir) > 1 and FLAGS.gin_param:
        raise InputError("--gin_param is for one run or a configuration: leave it out.")
    if FLAGS.output:
        if FLAGS.gin_file:
            raise InputError("--output is for the curves of runs: give --workdir, not --gin_file.")
        output_file(FLAGS.output, "--output", [".png"])
        check_plots()


with command.late_imports(__name__, _check_flags):
    from stugan_tf import models  # noqa: F401 - registers them with gin
    from stugan_tf.data import data
    from stugan_tf.evaluation import evaluator  # noqa: F401 - registers it with gin
    from stugan_tf.methods.method import chosen_method
    from stugan_tf.runs import curves, plan
    from stugan_tf.runs.loop import Training
    from stugan_tf.runs.opening import configuration_file, open_run
    from stugan_tf.runs.phases import table
    from stugan_tf.runs.status import started
    from stugan_tf.training.strategies import create_strategy


def main(_: list[str]) -> None:
    """Prints tables of networks or of runs; draws the curves of runs."""
    if FLAGS.workdir:
        workdirs = [local_path(workdir, "--workdir") for workdir in FLAGS.workdir]
        if len(workdirs) > 1:
            _compare(workdirs)
        else:
            _of_run(workdirs[0])
            _draw(workdirs[0])
        return
    config.parse_gin(FLAGS.gin_file, FLAGS.gin_param)
    strategy = create_strategy("one_device")
    method = chosen_method(config.value_of)
    phase = method.phases[0]
    with config.part(phase.settings):
        print(method.describe(phase, Training(data(), strategy)))


def _compare(workdirs: list[pathlib.Path]) -> None:
    """Prints a table of runs and draws their curves."""
    for workdir in workdirs:
        configuration_file(workdir)
    histories = curves.read(workdirs)
    print(curves.compared(histories))
    curves.write(local_path(FLAGS.output, "--output"), histories)
    print(f"\ncurves: {FLAGS.output}")


def _draw(workdir: pathlib.Path) -> None:
    """Draws the curves of a run. Without --output they are an addition that may be missing."""
    path = local_path(FLAGS.output, "--output") if FLAGS.output else workdir / "curves.png"
    try:
        if not FLAGS.output and not os.access(workdir, os.W_OK):
            raise InputError(f"{workdir} is not writable. Name a file: --output=curves.png.")
        curves.write(path, curves.read([workdir]))
    except InputError as error:
        if FLAGS.output:
            raise
        print(f"no curves: {error}", file=sys.stderr)
        return
    print(f"\ncurves: {path}")


def _of_run(workdir: pathlib.Path) -> None:
    """Prints the networks at the newest checkpoint, and the FLOPs spent on all phases."""
    run = open_run(workdir, None, FLAGS.gin_param)
    step = run.restore_newest()
    phases = table(workdir)
    if phases:
        print(phases, f"\n{run.workdir.name}: ", sep="\n", end="")
    print(f"checkpoint of step {step or 0}\n")
    print(plan.describe(run.training))
    folders = started(workdir) or [run.workdir]
    logged = [_logged(folder) for folder in folders]
    if any(logged):
        print("", plan.flops_so_far(run.training, *filter(None, logged)), sep="\n")


def _logged(folder: pathlib.Path) -> list[dict[str, Any]]:
    """The records of metrics.jsonl that have the sparsity of both networks."""
    names = ("generator_sparsity", "discriminator_sparsity")
    return [
        record
        for record in read_json_lines(folder / "metrics.jsonl")
        if all(isinstance(record.get(name), (int, float)) for name in names)
    ]


if __name__ == "__main__":
    command.run(main, prints_result=True)
