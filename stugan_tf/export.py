"""Exports a trained generator: `python -m stugan_tf.export --workdir=DIR --output=DIR`.

    --format=saved_model      for TensorFlow and TensorFlow Serving
    --format=tflite           for TensorFlow Lite (LiteRT)
    --format=sparse           one file as small as its non-zeros
    --precision=float16       of the weights; tflite also knows int8

Each export is the next version in its folder, DIR/1, DIR/2 and so on, with a model card.
`stugan_tf.serving.load(DIR)` reads all formats. See docs/export.md.
"""

from stugan_tf import command, config  # isort: skip - quiets TensorFlow before it is imported
import json
import pathlib

import numpy as np
import tensorflow as tf
from absl import flags

from stugan_tf import models  # noqa: F401 - registers them with gin
from stugan_tf.checks import check_positive, check_seed
from stugan_tf.data import data
from stugan_tf.errors import FailedRun, InputError
from stugan_tf.evaluation import evaluator, records  # evaluator registers itself with gin
from stugan_tf.evaluation.sampling import BATCH_NORMS, TOLERANCE, Sampler
from stugan_tf.layers.masked import all_layers
from stugan_tf.randomness import Purpose, fold
from stugan_tf.runs.checkpoints import Checkpoints
from stugan_tf.runs.loop import Training
from stugan_tf.runs.manifest import process
from stugan_tf.runs.phases import run_folder
from stugan_tf.runs.restoring import configuration_file, named_steps
from stugan_tf.serving import artifact, card
from stugan_tf.serving.folding import fold_into_plain_layers
from stugan_tf.serving.formats import FORMATS, Settings, format_of, in_words
from stugan_tf.serving.interface import Interface
from stugan_tf.training.strategies import create_strategy

del evaluator

FLAGS = flags.FLAGS
flags.adopt_module_key_flags(command)  # For --help.
flags.DEFINE_string("workdir", None, "Folder of the run.")
flags.DEFINE_string("output", None, "Folder of versions; the export becomes the next one.")
flags.DEFINE_string("checkpoint", "latest", "latest, best or a step.")
flags.DEFINE_enum("format", "saved_model", list(FORMATS), "What to write.")
flags.DEFINE_string(
    "precision",
    "float32",
    "Of the weights: "
    + "; ".join(f"{in_words(one.precisions)} of {name}" for name, one in FORMATS.items())
    + ".",
)
flags.DEFINE_multi_integer(
    "batch_size", [1], "Of --format=tflite: a signature for each; give it several times."
)
flags.DEFINE_enum("weights", "averaged", ["averaged", "live"], "Which generator to export.")
flags.DEFINE_enum(
    "batch_norm",
    "inference",
    BATCH_NORMS,
    "Fold in moving statistics, or the mean of those of 16 batches of 64 images. (Those of each "
    "batch itself are not fixed, so cannot be exported.)",
)
flags.DEFINE_integer("seed", 0, "Of the batches of --batch_norm=standing.")

NUM_COMPARED = 16
BLOCK = 64  # as `sample` has it, whose standing statistics are these


def main(_):
    """Does what the flags say."""
    _check_flags()
    workdir = run_folder(FLAGS.workdir)
    config.parse_gin([configuration_file(workdir), *FLAGS.gin_file], FLAGS.gin_param)
    strategy = create_strategy("one_device")
    training = Training(data(), strategy)
    config.check_all_used()
    training.gan.set_execution("dense")
    checkpoints = Checkpoints(workdir / "checkpoints", training.state())
    (step,) = named_steps(workdir, checkpoints, FLAGS.checkpoint)
    checkpoints.restore(step)
    export = _Export(training, strategy)
    export.write(_facts(workdir, step))


def _check_flags():
    """Raises InputError for what is wrong whatever was trained."""
    if not FLAGS.workdir:
        raise InputError("--workdir is missing: the folder of the run whose generator to export.")
    if not FLAGS.output:
        raise InputError("--output is missing: the folder to write to, e.g. --output=exported.")
    if FLAGS.batch_norm == "batch":
        raise InputError(
            "--batch_norm=batch normalises each image by its neighbours in a batch, so there are "
            "no fixed statistics to fold in. Export with --batch_norm=standing, which comes close "
            "to it, or inference."
        )
    batch_sizes = FLAGS.batch_size if FLAGS["batch_size"].present else None
    format_of(FLAGS.format).check(FLAGS.precision, batch_sizes)
    for size in FLAGS.batch_size:
        check_positive("--batch_size", size)
    check_seed("--seed", FLAGS.seed)
    artifact.check_output(FLAGS.output, FLAGS.format)


def _facts(workdir, step):
    """What the card says of the run."""
    manifest = {}
    if (workdir / "run.json").is_file():
        manifest = json.loads((workdir / "run.json").read_text())
        manifest.pop("host", None)  # No reader of a card needs the name of a machine.
    own = process()
    return {
        "checkpoint": {"step": step, "weights": FLAGS.weights, "batch_norm": FLAGS.batch_norm},
        "scores": [record for record in records.read(workdir) if record["step"] == step],
        "training": manifest,
        "configuration": configuration_file(workdir).read_text(),
        **{name: own[name] for name in ("time", "versions", "commit")},
    }


class _Export:
    """A generator, folded, and images of the checkpoint to compare with."""

    def __init__(self, training, strategy):
        gan = training.gan
        averaged = FLAGS.weights == "averaged"
        self._trained = gan.averaged.model if averaged else gan.generator
        self._interface = Interface.of_gan(gan, training.source)
        sampler = Sampler(gan, strategy, BLOCK, averaged, FLAGS.batch_norm)
        seed = fold((FLAGS.seed, 0), Purpose.SAMPLES)
        self._inputs = sampler.inputs(NUM_COMPARED, seed)
        with sampler.statistics_of(seed):
            self._graph = fold_into_plain_layers(self._trained)
            inputs = map(tf.constant, self._inputs)
            self._expected = gan.generate(*inputs, training=False, averaged=averaged).numpy()
        largest = np.abs(self._expected).max()
        if not largest <= 1 + TOLERANCE:
            raise InputError(
                f"The generator makes images of up to {largest:.4g}, but they must be in [-1, 1]. "
                "Let it end in a tanh, or scale what it makes."
            )

    def write(self, facts):
        """Writes the next version, and says what it is."""
        kind = format_of(FLAGS.format)
        about = {
            "name": self._trained.name,
            "format": kind.name,
            "precision": FLAGS.precision,
            "interface": self._interface.to_json(),
            "generator": card.describe_generator(self._trained),
            **facts,
        }
        settings = Settings(FLAGS.precision, tuple(FLAGS.batch_size), about)
        with artifact.new_version(FLAGS.output, kind.name) as (folder, number):
            notes = kind.write(folder, self._graph, self._interface, settings)
            generator = kind.read(folder, self._interface, {})
            largest = self._largest_difference(generator)
            about |= {"notes": notes, "num_compared": NUM_COMPARED, "largest_difference": largest}
            card.write(folder, about)
            artifact.write_manifest(folder, kind.name, self._interface)
        folder = pathlib.Path(FLAGS.output) / str(number)
        size = sum(artifact.sizes(folder).values())
        print(
            f"step {facts['checkpoint']['step']}: {folder} holds the {FLAGS.weights} generator as "
            f"{kind.name}, {FLAGS.precision}, {size:,} bytes. Its images differ from the "
            f"checkpoint's by up to {largest:.3g} of 255 levels.",
            *notes,
            sep="\n",
        )

    def _largest_difference(self, generator):
        """Of pixels, in levels of 255.

        Raises:
            FailedRun: if that is more than one although nothing was rounded.
        """
        images = np.concatenate(list(generator.batches(*self._inputs)))
        largest = 127.5 * float(np.abs(images - self._expected).max())
        exact = {layer.compute_dtype for layer in all_layers(self._trained)} <= {"float32"}
        if not np.isfinite(largest) or (exact and FLAGS.precision == "float32" and largest > 1):
            raise FailedRun(
                f"The exported generator's images differ from the checkpoint's by {largest:.3g} of "
                "255 levels, so it was not written. Please report this with the configuration."
            )
        return largest


if __name__ == "__main__":
    command.run(main)
