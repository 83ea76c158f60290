"""Runs a pipeline here: `python -m stugan_tf.pipelines.run --gin_file=F --pipeline_root=DIR`.

From data to a served model. If it is stopped, the same command goes on. If it is run again, it
makes only what has changed. Exit codes: 0 done, 1 bad input or failed run, 2 the model was not
blessed and the served version stays. See docs/pipelines.md.
"""

import sys

from absl import flags

from stugan_tf import command
from stugan_tf.choices import STRATEGIES
from stugan_tf.errors import InputError
from stugan_tf.pipelines import NO_FILE, check_installed

FLAGS = flags.FLAGS
flags.adopt_module_key_flags(command)  # For --help.
flags.DEFINE_string("pipeline_root", None, "Folder of everything the pipeline makes.")
flags.DEFINE_string("strategy", "auto", f"Devices to train on: {', '.join(STRATEGIES)}.")
flags.DEFINE_string("until", "push", "Last component to run.")
flags.DEFINE_bool("verbose", False, "Show the output of commands; it is in log.txt too.")
flags.DEFINE_string(
    "code_version",
    None,
    "Name for the version of the code, used instead of its content. While it stays the same, "
    "changed code makes nothing again.",
)
flags.DEFINE_bool(
    "print_training", False, "Go as far as the training, print its command, and stop."
)

NOT_BLESSED = 2


def _check_flags():
    if not FLAGS.pipeline_root:
        raise InputError("--pipeline_root is missing: the folder for everything.")
    if FLAGS.strategy not in STRATEGIES:
        raise InputError(
            f"--strategy must be one of {', '.join(STRATEGIES)}, got {FLAGS.strategy!r}."
        )
    if not FLAGS.gin_file:
        raise InputError(NO_FILE)
    check_installed("apache_beam")


with command.late_imports(__name__, _check_flags):
    import tensorflow as tf

    from stugan_tf.pipelines import chain, configuration, serving
    from stugan_tf.pipelines.components import train
    from stugan_tf.pipelines.steps import Context


def main(_):
    """Does what the flags say."""
    tf.config.set_visible_devices([], "GPU")  # GPUs are for the commands that this one starts.
    context = Context(
        root=FLAGS.pipeline_root,
        configuration=configuration.read(FLAGS.gin_file, FLAGS.gin_param),
        strategy=FLAGS.strategy,
        code=FLAGS.code_version,
        verbose=FLAGS.verbose,
    )
    if FLAGS.print_training:
        print(_training(context))
        return
    outcome = chain.run(context, FLAGS.until)
    blessing = outcome.artifacts.get("bless")
    if blessing is not None:
        print(blessing.words)
    if not outcome.made:
        print("Nothing has changed, so nothing was done.")
    pushed = outcome.artifacts.get("push")
    if pushed is not None:
        print(serving.after_push(pushed.serving, pushed.version))
    elif blessing is not None and not blessing.blessed:
        print("Not blessed: what is served stays as it is.", file=sys.stderr)
        sys.exit(NOT_BLESSED)


def _training(context):
    return train.command_of(context, chain.run(context, "reference").artifacts)


if __name__ == "__main__":
    command.run(main)
