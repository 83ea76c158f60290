"""Trains a GAN: `python -m stugan_tf.train --gin_file=F [--gin_file=F2 ...] [--workdir=DIR]`.

The same command started again with the same --workdir resumes. Without one, the run gets a new
folder, such as `runs/00007-sngan_cifar10-stu`. Exit codes: 0 done, 1 bad input or failed run, 128 +
the number of the signal that asked the run to save and stop.
"""

import contextlib
import pathlib
import shlex
import sys

from absl import flags

from stugan_tf import command, config
from stugan_tf.choices import STRATEGIES
from stugan_tf.errors import InputError
from stugan_tf.files import local_path

RUNS = pathlib.Path("runs")  # Holds the workdirs of runs that were given none.

FLAGS = flags.FLAGS
flags.adopt_module_key_flags(command)  # For --help.
flags.DEFINE_string(
    "workdir",
    None,
    "Folder of everything the run writes; a run that is there is resumed. By default a new, "
    f"numbered folder in {RUNS}/.",
)
flags.DEFINE_string("strategy", "auto", f"Devices to train on: {', '.join(STRATEGIES)}.")
flags.DEFINE_string(
    "shared",
    None,
    "Folder of pre-trainings, for methods that need one: runs that need the same one share it.",
)
flags.DEFINE_bool("dry_run", False, "Check everything, print the plan, and stop.")


def _check_flags() -> None:
    if not FLAGS.gin_file:
        raise InputError(
            "--gin_file is missing. Try --gin_file=quickstart.gin; `stugan list` shows the others."
        )
    if not FLAGS.workdir and FLAGS.strategy == "multi_worker":
        raise InputError(
            "--workdir is missing: all workers of --strategy=multi_worker need the same folder."
        )
    _folders()
    if FLAGS.shared and FLAGS.strategy == "multi_worker":
        raise InputError("--shared is for one process: leave it out, or choose another --strategy.")


def _folders() -> tuple[pathlib.Path | None, pathlib.Path | None]:
    """The folders --workdir and --shared."""
    workdir = local_path(FLAGS.workdir, "--workdir") if FLAGS.workdir else None
    return workdir, local_path(FLAGS.shared, "--shared") if FLAGS.shared else None


with command.late_imports(__name__, _check_flags):
    from stugan_tf import models  # noqa: F401 - registers them with gin
    from stugan_tf.adapters.host_memory import reuse_freed_memory
    from stugan_tf.data import data
    from stugan_tf.evaluation import evaluator  # noqa: F401 - registers it with gin
    from stugan_tf.methods.method import chosen_method
    from stugan_tf.methods.phases import BuiltTraining
    from stugan_tf.runs.interruption import Interrupted
    from stugan_tf.runs.loop import Training
    from stugan_tf.runs.workdir import numbered
    from stugan_tf.training.strategies import create_strategy


def main(_: list[str]) -> None:
    """Builds, checks, prints the plan, trains."""
    workdir, shared = _folders()
    config.parse_gin(FLAGS.gin_file, FLAGS.gin_param)
    strategy = create_strategy(FLAGS.strategy)  # First, because it may choose devices.
    reuse_freed_memory()
    method = chosen_method(config.value_of)

    where = ""

    @contextlib.contextmanager
    def opened(phase):
        with config.part(phase.settings):
            training = Training(data(), strategy)
            config.check_all_used()
            training.check_trackers()
            method.check(training)
            print(training.inspection, method.describe(phase, training), sep="\n\n")
            if training.scoring:
                print(training.scoring)
            print(where, flush=True)
            yield BuiltTraining(
                training, config.operative_config(), config.operative_config(whole=True)
            )

    if FLAGS.dry_run:
        with opened(method.phases[0]):
            return
    with numbered(RUNS, _name()) if workdir is None else contextlib.nullcontext(workdir) as folder:
        where = f"workdir: {folder}\nto resume: {_resuming(folder)}\n"
        try:
            method.run(folder, opened, shared)
        except Interrupted as interrupted:
            print(interrupted, file=sys.stderr)
            sys.exit(interrupted.exit_code)


def _name() -> str:
    """A name for a new workdir, from the gin files: such as sngan_cifar10-stu."""
    return "-".join(pathlib.Path(file).stem for file in FLAGS.gin_file)[:100]


def _resuming(workdir: pathlib.Path) -> str:
    """The command that resumes a run."""
    arguments = sys.argv[1:] if FLAGS.workdir else [*sys.argv[1:], f"--workdir={workdir}"]
    return shlex.join(["python", "-m", "stugan_tf.train", *arguments])


if __name__ == "__main__":
    command.run(main)
