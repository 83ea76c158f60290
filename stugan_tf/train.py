"""Trains a GAN: `python -m stugan_tf.train --gin_file=F [--gin_file=F2 ...] --workdir=DIR`.

The same command started again resumes. Exit codes: 0 done, 1 bad input or failed run, 128 + the
number of the signal that asked the run to save and stop.
"""

import sys

from stugan_tf import command, config  # isort: skip - quiets TensorFlow before it is imported
from absl import flags

from stugan_tf import models  # noqa: F401 - registers them with gin
from stugan_tf.data import data
from stugan_tf.errors import InputError
from stugan_tf.evaluation import evaluator  # noqa: F401 - registers it with gin
from stugan_tf.training import plan
from stugan_tf.training.interruption import Interrupted
from stugan_tf.training.loop import Training
from stugan_tf.training.strategies import NAMES, create_strategy

FLAGS = flags.FLAGS
flags.adopt_module_key_flags(command)  # For --help.
flags.DEFINE_string("workdir", None, "Folder of everything the run writes; resumed if it exists.")
flags.DEFINE_string("strategy", "auto", f"Devices to train on: {', '.join(NAMES)}.")
flags.DEFINE_bool("dry_run", False, "Check everything, print what would be done, and stop.")


def main(_):
    """Builds, checks, prints the plan, trains."""
    if not FLAGS.gin_file:
        raise InputError("--gin_file is missing. Try --gin_file=gin/quickstart.gin.")
    if not FLAGS.workdir and not FLAGS.dry_run:
        raise InputError("--workdir is missing: the folder for checkpoints, logs and samples.")
    config.parse_gin(FLAGS.gin_file, FLAGS.gin_param)
    strategy = create_strategy(FLAGS.strategy)  # First: it may have to choose devices.
    training = Training(data(), strategy)
    config.check_all_used()
    print(training.inspection, plan.describe(training), sep="\n\n")
    if training.scoring:
        print(training.scoring)
    sys.stdout.flush()
    if FLAGS.dry_run:
        return
    try:
        training.run(FLAGS.workdir, config.operative_config())
    except Interrupted as interrupted:
        print(interrupted, file=sys.stderr)
        sys.exit(interrupted.exit_code)


if __name__ == "__main__":
    command.run(main)
