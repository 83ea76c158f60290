"""Compiles a pipeline for a cluster.

    python -m stugan_tf.pipelines.compile --gin_file=F --output=pipeline.yaml

The file is for Kubeflow Pipelines (2.0 or later) and for Vertex AI. It holds the configuration,
with all that the gin files include, as the default of a parameter; nothing of the data is read.
"""

import pathlib

from absl import flags

from stugan_tf import command
from stugan_tf.choices import STRATEGIES
from stugan_tf.errors import InputError
from stugan_tf.files import local_path, output_file
from stugan_tf.pipelines import NO_FILE, check_installed

FLAGS = flags.FLAGS
flags.adopt_module_key_flags(command)  # For --help.
flags.DEFINE_string("output", None, "YAML file to write.")
flags.DEFINE_string("pipeline_root", None, "Folder of everything, as the steps see it.")
flags.DEFINE_string("strategy", "auto", f"Devices to train on: {', '.join(STRATEGIES)}.")
flags.DEFINE_string("code_version", "", "As for `run`.")


def _check_flags():
    if not FLAGS.output:
        raise InputError("--output is missing: the YAML file to write.")
    _output()
    if FLAGS.strategy not in STRATEGIES:
        raise InputError(
            f"--strategy must be one of {', '.join(STRATEGIES)}, got {FLAGS.strategy!r}."
        )
    if not FLAGS.gin_file:
        raise InputError(NO_FILE)
    check_installed("apache_beam", "kfp")


def _output() -> pathlib.Path:
    return output_file(FLAGS.output, "--output", [".yaml", ".yml"])


with command.late_imports(__name__, _check_flags):
    from stugan_tf.pipelines import configuration


def main(_):
    """Does what the flags say."""
    output = _output()
    found = configuration.read(FLAGS.gin_file, FLAGS.gin_param)
    cluster = configuration.settings(found.pipeline).cluster
    if not cluster.image:
        raise InputError(
            "Cluster.image is missing: the container image that the steps run in. Build it in a "
            "checkout by `docker build --file=stugan_tf/pipelines/Dockerfile "
            "--tag=REGISTRY/stugan_tf:1 .`, push it, and name it by "
            "--gin_param=\"Cluster.image = 'REGISTRY/stugan_tf:1'\"."
        )
    root = FLAGS.pipeline_root or f"{cluster.mount}/root"
    local_path(root, "--pipeline_root")  # Refuses an address: the steps need a mounted folder.
    if cluster.volume_claim and not f"{root}/".startswith(f"{cluster.mount.rstrip('/')}/"):
        raise InputError(
            f"--pipeline_root={root} is not on the volume, which is mounted at Cluster.mount = "
            f"{cluster.mount!r}: other steps would not see what is there."
        )
    try:
        from stugan_tf.pipelines import kubeflow
    except ImportError as error:
        raise InputError(f"{error.name} is missing: pip install 'stugan_tf[pipelines]'.") from error
    made = kubeflow.build(found, cluster, root, FLAGS.strategy, FLAGS.code_version)
    output.parent.mkdir(parents=True, exist_ok=True)
    kubeflow.compile_to(output, made)
    print(f"{output} expects the image {cluster.image} and works in {root}.")


if __name__ == "__main__":
    command.run(main)
