"""Exports a trained generator: `python -m stugan_tf.export --workdir=DIR --output=DIR`.

    --format=saved_model      for TensorFlow and TensorFlow Serving
    --format=tflite           for TensorFlow Lite (LiteRT)
    --format=onnx             for ONNX Runtime, OpenVINO and others
    --format=sparse           one file as small as its non-zeros
    --format=html             a page that draws in any browser
    --precision=float16       of the weights; tflite also knows int8

Each export is the next version in its folder, DIR/1, DIR/2 and so on, with a model card.
`stugan_tf.serving.load(DIR)` reads all formats. See docs/export.md.
"""

import numpy as np
from absl import flags

from stugan_tf import command
from stugan_tf.checks import check_positive, check_seed
from stugan_tf.choices import BATCH_NORMS, FORMATS, WEIGHTS, in_words
from stugan_tf.errors import FailedRun, InputError
from stugan_tf.files import local_path

FLAGS = flags.FLAGS
flags.adopt_module_key_flags(command)  # For --help.
flags.DEFINE_string("workdir", None, "Folder of the run.")
flags.DEFINE_string("output", None, "Folder of versions; the export becomes the next version.")
flags.DEFINE_string("checkpoint", "latest", "latest, best or a step.")
flags.DEFINE_enum("format", "saved_model", list(FORMATS), "What to write.")
flags.DEFINE_string(
    "precision",
    "float32",
    "Number format of the weights: "
    + "; ".join(f"{in_words(precisions)} of {name}" for name, precisions in FORMATS.items())
    + ".",
)
flags.DEFINE_multi_integer(
    "batch_size", [1], "For --format=tflite: one signature each; may be given several times."
)
flags.DEFINE_enum("weights", "averaged", WEIGHTS, "Which generator to export.")
flags.DEFINE_enum(
    "batch_norm",
    "inference",
    BATCH_NORMS,
    "Statistics to fold in: moving averages (inference), or the mean of 16 batches of 64 images "
    "(standing). Statistics of each batch are not fixed, so they cannot be exported.",
)
flags.DEFINE_integer("seed", 0, "Seed of the batches of --batch_norm=standing.")
flags.DEFINE_string("title", None, "Title of the model card; by default run, zeros and data.")
flags.DEFINE_string("purpose", None, "What the generator is for, a sentence of the model card.")
flags.DEFINE_string("license", None, "Licence of the generator in the model card, e.g. CC-BY-4.0.")

NUM_COMPARED = 16


def _check_flags():
    """Raises InputError for flags that would be wrong for every run."""
    if not FLAGS.workdir:
        raise InputError("--workdir is missing: the folder of the run to export from.")
    if not FLAGS.output:
        raise InputError("--output is missing: the folder to write to, e.g. --output=exported.")
    if FLAGS.batch_norm == "batch":
        raise InputError(
            "--batch_norm=batch normalises each image by the other images of its batch, so there "
            "are no fixed statistics to fold in. Export with --batch_norm=standing, which comes "
            "close, or with inference."
        )
    for size in FLAGS.batch_size:
        check_positive("--batch_size", size)
    check_seed("--seed", FLAGS.seed)
    _output()


def _output():
    return local_path(FLAGS.output, "--output")


with command.late_imports(__name__, _check_flags):
    import tensorflow as tf

    from stugan_tf.evaluation.sampling import TOLERANCE
    from stugan_tf.layers.masked import all_layers
    from stugan_tf.runs.manifest import process
    from stugan_tf.runs.opening import open_run, sample_seed
    from stugan_tf.serving import artifact, card
    from stugan_tf.serving.folding import fold_into_plain_layers
    from stugan_tf.serving.formats import Settings, format_of
    from stugan_tf.serving.graph import digest


def main(_: list[str]) -> None:
    """Exports what the flags name."""
    batch_sizes = FLAGS.batch_size if FLAGS["batch_size"].present else None
    format_of(FLAGS.format).check(FLAGS.precision, batch_sizes)
    artifact.check_output(_output(), FLAGS.format)
    run = open_run(FLAGS.workdir, FLAGS.checkpoint, FLAGS.gin_param, gin_files=FLAGS.gin_file)
    _Export(run).write(_facts(run))


def _facts(run):
    """What the model card says about the run."""
    own = process()
    facts = {
        "run": run.name,
        "checkpoint": {"step": run.step, "weights": FLAGS.weights, "batch_norm": FLAGS.batch_norm},
        "scores": [record for record in run.evaluations if record["step"] == run.step],
        "training": run.facts,
        "configuration": run.config,
        **{name: own[name] for name in ("time", "versions", "commit")},
    }
    # Readers of a card do not need the names of a machine and of its folders.
    return card.without_places(facts)


def _title(facts, generator):
    """The title of a card: `quickstart, a generator of digits with 80 % zeros`."""
    source = facts["training"].get("data", {}).get("source")
    zeros = 100 * generator["sparsity_under_masks"]
    return (
        f"{facts['run']}, a generator{f' of {source}' if source else ''} with "
        f"{f'{zeros:.3g} %' if zeros else 'no'} zeros"
    )


class _Export:
    """A folded generator, and images of the checkpoint to compare its images with."""

    def __init__(self, run):
        averaged = FLAGS.weights == "averaged"
        self._trained = run.average if averaged else run.generator
        self._interface = run.interface
        sampler = run.sampler(FLAGS.weights, FLAGS.batch_norm)
        seed = sample_seed(FLAGS.seed)
        self._inputs = sampler.inputs(NUM_COMPARED, seed)
        with sampler.statistics_of(seed):
            self._graph = fold_into_plain_layers(self._trained)
            self._digest = digest(self._graph)  # Before a format changes it.
            inputs = map(tf.constant, self._inputs)
            self._expected = run.gan.generate(*inputs, training=False, averaged=averaged).numpy()
        largest = np.abs(self._expected).max()
        if not largest <= 1 + TOLERANCE:
            raise InputError(
                f"The generator's images must be in [-1, 1], but reach {largest:.4g}. End it in a "
                "tanh, or scale its output."
            )

    def write(self, facts):
        """Writes the next version and prints a summary."""
        kind = format_of(FLAGS.format)
        generator = card.describe_generator(self._trained)
        about = {
            "title": FLAGS.title or _title(facts, generator),
            "purpose": FLAGS.purpose,
            "license": FLAGS.license,
            "name": self._trained.name,
            "digest": self._digest,
            "format": kind.name,
            "precision": FLAGS.precision,
            "interface": self._interface.to_json(),
            "generator": generator,
            **facts,
        }
        settings = Settings(FLAGS.precision, tuple(FLAGS.batch_size), about)
        with artifact.new_version(_output(), kind.name) as (folder, number):
            notes = kind.write(folder, self._graph, self._interface, settings)
            largest = self._largest_difference(kind.read(folder, self._interface, {}))
            about |= {"notes": notes, "num_compared": NUM_COMPARED, "largest_difference": largest}
            card.write(folder, about)
            artifact.write_manifest(folder, kind.name, self._interface)
        folder = _output() / str(number)
        size = sum(artifact.sizes(folder).values())
        print(
            f"step {facts['checkpoint']['step']}: {folder} holds the {FLAGS.weights} generator as "
            f"{kind.name}, {FLAGS.precision}, {size:,} bytes. Its images differ from the "
            f"checkpoint's by up to {largest:.3g} of 255 levels.",
            *notes,
            sep="\n",
        )

    def _largest_difference(self, generator):
        """The largest difference of a pixel from the checkpoint's images, in levels of 255.

        Raises:
            FailedRun: if it is above one although nothing was rounded.
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
