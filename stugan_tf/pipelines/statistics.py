"""Computes features of real images by Apache Beam, into the cache that scores use.

    python -m stugan_tf.pipelines.statistics --gin_file=F [--gin_param=...] [--workers=2]

F configures `data` and `Evaluator`. The results equal those that `stugan_tf.evaluate` would compute
itself, up to the last digits, and it finds them there. After a kill the same command goes on with
the ranges that are not finished.
"""

import json

from absl import flags

from stugan_tf import command, config
from stugan_tf.errors import InputError
from stugan_tf.pipelines import check_installed

FLAGS = flags.FLAGS
flags.adopt_module_key_flags(command)  # For --help.
flags.DEFINE_string("runner", None, "Runner of Apache Beam; by default the DirectRunner.")
flags.DEFINE_integer(
    "workers", None, "Processes of the DirectRunner; by default one.", lower_bound=1
)
flags.DEFINE_multi_string("option", [], "Flag of Apache Beam's own command line.")


def _check_flags():
    if not FLAGS.gin_file:
        raise InputError("--gin_file is missing: a file that configures data and Evaluator.")
    check_installed("apache_beam")


with command.late_imports(__name__, _check_flags):
    from stugan_tf.pipelines import beams, extraction
    from stugan_tf.pipelines.settings import Beam


def main(_):
    """Does what the flags say."""
    config.parse_gin(FLAGS.gin_file, FLAGS.gin_param)
    text = "".join(text for _, text in config.statements(FLAGS.gin_file, FLAGS.gin_param))
    runner = Beam(
        FLAGS.runner or Beam.runner, FLAGS.workers or Beam.num_workers, tuple(FLAGS.option)
    )
    evaluator = extraction.evaluator(text)

    def compute(*arguments):
        return extraction.real_statistics(*arguments, text=text, runner=runner)

    with beams.kept(text, evaluator):
        evaluator.prepare(compute)
    print(json.dumps(evaluator.protocol))


if __name__ == "__main__":
    command.run(main)
