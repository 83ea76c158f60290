"""Trains a GAN: `python -m stugan_tf.train --gin_file=F [--gin_file=F2 ...] --workdir=DIR`.

The same command started again resumes. Exit codes: 0 done, 1 bad input or failed run, 128 + the
number of the signal that asked the run to save and stop.
"""

import contextlib
import sys

from stugan_tf import command, config  # isort: skip - quiets TensorFlow before it is imported
from absl import flags

from stugan_tf import models  # noqa: F401 - registers them with gin
from stugan_tf.data import data
from stugan_tf.errors import InputError
from stugan_tf.evaluation import evaluator  # noqa: F401 - registers it with gin
from stugan_tf.methods.method import chosen_method
from stugan_tf.methods.phases import BuiltTraining
from stugan_tf.runs.interruption import Interrupted
from stugan_tf.runs.loop import Training
from stugan_tf.training.strategies import NAMES, create_strategy

FLAGS = flags.FLAGS
flags.adopt_module_key_flags(command)  # For --help.
flags.DEFINE_string("workdir", None, "Folder of everything the run writes; resumed if it exists.")
flags.DEFINE_string("strategy", "auto", f"Devices to train on: {', '.join(NAMES)}.")
flags.DEFINE_string(
    "shared",
    None,
    "Folder of pre-trainings, for methods that need one: each is made once for all such runs.",
)
flags.DEFINE_bool("dry_run", False, "Check everything, print what would be done, and stop.")


def main(_):
    """Builds, checks, prints the plan, trains."""
    if not FLAGS.gin_file:
        raise InputError("--gin_file is missing. Try --gin_file=gin/quickstart.gin.")
    if not FLAGS.workdir and not FLAGS.dry_run:
        raise InputError("--workdir is missing: the folder for checkpoints, logs and samples.")
    if FLAGS.shared and FLAGS.strategy == "multi_worker":
        raise InputError("--shared is for one process: leave it out, or choose another --strategy.")
    config.parse_gin(FLAGS.gin_file, FLAGS.gin_param)
    strategy = create_strategy(FLAGS.strategy)  # First: it may have to choose devices.
    method = chosen_method(config.value_of)

    @contextlib.contextmanager
    def opened(phase):
        with config.part(phase.settings):
            training = Training(data(), strategy)
            config.check_all_used()
            method.check(training)
            print(training.inspection, method.describe(phase, training), sep="\n\n")
            if training.scoring:
                print(training.scoring)
            sys.stdout.flush()
            yield BuiltTraining(
                training, config.operative_config(), config.operative_config(whole=True)
            )

    if FLAGS.dry_run:
        with opened(method.phases[0]):
            return
    try:
        method.run(FLAGS.workdir, opened, FLAGS.shared)
    except Interrupted as interrupted:
        print(interrupted, file=sys.stderr)
        sys.exit(interrupted.exit_code)


if __name__ == "__main__":
    command.run(main)
