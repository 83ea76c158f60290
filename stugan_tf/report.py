"""Prints each network layer by layer: shapes, densities, parameters, theoretical FLOPs.

`python -m stugan_tf.report --gin_file=F` of what would be trained.
`python -m stugan_tf.report --workdir=DIR` of the newest checkpoint of a run.
"""

from stugan_tf import command, config  # isort: skip - quiets TensorFlow before it is imported
from absl import flags

from stugan_tf import models  # noqa: F401 - registers them with gin
from stugan_tf.data import data
from stugan_tf.errors import InputError
from stugan_tf.evaluation import evaluator  # noqa: F401 - registers it with gin
from stugan_tf.files import read_json_lines
from stugan_tf.methods.method import chosen_method
from stugan_tf.runs import plan
from stugan_tf.runs.checkpoints import Checkpoints
from stugan_tf.runs.loop import Training
from stugan_tf.runs.phases import run_folder, started, table
from stugan_tf.runs.restoring import configuration_file
from stugan_tf.training.strategies import create_strategy

FLAGS = flags.FLAGS
flags.adopt_module_key_flags(command)  # For --help.
flags.DEFINE_string("workdir", None, "Folder of a run; its configuration and masks are read.")


def main(_):
    """Builds the networks and prints their tables."""
    if bool(FLAGS.gin_file) == bool(FLAGS.workdir):
        raise InputError("Give either --gin_file=F or --workdir=DIR.")
    files = FLAGS.gin_file
    if FLAGS.workdir:
        workdir = run_folder(FLAGS.workdir)
        files = [configuration_file(workdir)]
    config.parse_gin(files, FLAGS.gin_param)
    strategy = create_strategy("one_device")
    method = chosen_method(config.value_of)
    phase = method.phases[0]
    with config.part(phase.settings):
        training = Training(data(), strategy)
        if FLAGS.workdir:
            step = Checkpoints(workdir / "checkpoints", training.state()).restore_newest()
            phases = table(FLAGS.workdir)
            if phases:
                print(phases, f"\n{workdir.name}: ", sep="\n", end="")
            print(f"checkpoint of step {step or 0}\n")
        print(method.describe(phase, training))
        folders = started(FLAGS.workdir) or [workdir] if FLAGS.workdir else []
        logged = [read_json_lines(folder / "metrics.jsonl") for folder in folders]
        if any(logged):
            print("", plan.flops_so_far(training, *filter(None, logged)), sep="\n")


if __name__ == "__main__":
    command.run(main)
