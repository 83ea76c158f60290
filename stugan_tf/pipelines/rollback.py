"""Serves an earlier version again.

    python -m stugan_tf.pipelines.rollback --serving=DIR [--version=3]

Later versions are withdrawn: moved aside, with the reason, and not pushed again. To bring one back,
give its --version.
"""

from absl import flags

from stugan_tf import command
from stugan_tf.errors import InputError
from stugan_tf.files import local_path

FLAGS = flags.FLAGS
flags.DEFINE_string("serving", None, "Folder of versions: `serving` in the pipeline root.")
flags.DEFINE_integer("version", None, "Version to serve; by default the one before the served one.")
flags.DEFINE_string("reason", "", "Reason, for the record.")


def _check_flags():
    if not FLAGS.serving:
        raise InputError("--serving is missing: the folder of versions, ROOT/serving by default.")


with command.late_imports(__name__, _check_flags):
    from stugan_tf.pipelines import serving


def main(_):
    """Does what the flags say."""
    folder = local_path(FLAGS.serving, "--serving")
    version, withdrawn = serving.roll_back(folder, FLAGS.version, FLAGS.reason)
    gone = f", {', '.join(map(str, withdrawn))} withdrawn" if withdrawn else ""
    print(f"Version {version} is served from {folder}{gone}.")


if __name__ == "__main__":
    command.run(main)
