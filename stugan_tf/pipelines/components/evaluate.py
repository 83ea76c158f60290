"""An export and real images -> scores of the exported generator."""

from stugan_tf.pipelines import configuration
from stugan_tf.pipelines.components import scoring
from stugan_tf.pipelines.components.train import CODE
from stugan_tf.pipelines.steps import Component
from stugan_tf.serving import artifact


def _depends_on(context, examples, references, run, exported):
    del examples, references, run
    return {
        "evaluation": configuration.canonical(context.configuration.evaluation),
        # An export that was made again may have other bytes under the same id.
        "sha256": artifact.facts(exported.path)["sha256"],
    }


def _make(context, workplace, examples, references, run, exported):
    return scoring.score(context, workplace, examples, references, run, exported.path)


COMPONENT = Component(
    name="evaluate",
    inputs=("ingest", "reference", "train", "export"),
    code=(
        *CODE,
        "stugan_tf/serving",
        "stugan_tf/images.py",
        "stugan_tf/evaluate.py",
        "stugan_tf/pipelines/components/scoring.py",
    ),
    depends_on=_depends_on,
    make=_make,
)
