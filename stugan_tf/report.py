"""Prints each network layer by layer: shapes, densities, parameters, theoretical FLOPs.

`python -m stugan_tf.report --gin_file=F` reports on the networks of a configuration.
`python -m stugan_tf.report --workdir=DIR` reports on the newest checkpoint of a run.
"""

import pathlib
from typing import Any

from absl import flags

from stugan_tf import command, config
from stugan_tf.errors import InputError
from stugan_tf.files import local_path, read_json_lines

FLAGS = flags.FLAGS
flags.adopt_module_key_flags(command)  # For --help.
flags.DEFINE_string("workdir", None, "Folder of a run; reads its configuration and masks.")


def _check_flags() -> None:
    if bool(FLAGS.gin_file) == bool(FLAGS.workdir):
        raise InputError("Give either --gin_file=F or --workdir=DIR.")


with command.late_imports(__name__, _check_flags):
    from stugan_tf import models  # noqa: F401 - registers them with gin
    from stugan_tf.data import data
    from stugan_tf.evaluation import evaluator  # noqa: F401 - registers it with gin
    from stugan_tf.methods.method import chosen_method
    from stugan_tf.runs import plan
    from stugan_tf.runs.loop import Training
    from stugan_tf.runs.opening import open_run
    from stugan_tf.runs.phases import table
    from stugan_tf.runs.status import started
    from stugan_tf.training.strategies import create_strategy


def main(_: list[str]) -> None:
    """Builds the networks and prints their tables."""
    if FLAGS.workdir:
        _of_run(local_path(FLAGS.workdir, "--workdir"))
        return
    config.parse_gin(FLAGS.gin_file, FLAGS.gin_param)
    strategy = create_strategy("one_device")
    method = chosen_method(config.value_of)
    phase = method.phases[0]
    with config.part(phase.settings):
        print(method.describe(phase, Training(data(), strategy)))


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
