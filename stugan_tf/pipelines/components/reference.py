"""Shards -> statistics of the features of real images."""

from stugan_tf.pipelines import configuration
from stugan_tf.pipelines.artifacts import References
from stugan_tf.pipelines.components import scoring
from stugan_tf.pipelines.steps import Component


def _depends_on(context, plan, examples):
    del plan, examples
    return {
        "training": configuration.canonical(context.configuration.training),
        "evaluation": configuration.canonical(context.configuration.evaluation),
    }


def _make(context, workplace, plan, examples):
    del plan
    references = References(folder=workplace.folder, id=workplace.id)
    beam = context.settings.beam
    flags = [
        *scoring.flags(context, workplace, examples, references),
        f"--runner={beam.runner}",
        f"--workers={beam.num_workers}",
        *(f"--option={option}" for option in beam.options),
    ]
    training = workplace.folder / "training.gin"
    training.write_text(context.configuration.training)
    workplace.run("stugan_tf.pipelines.statistics", [f"--gin_file={training}", *flags])
    return references


COMPONENT = Component(
    name="reference",
    inputs=("check", "ingest"),
    code=(
        "stugan_tf/data",
        "stugan_tf/evaluation",
        "stugan_tf/arithmetic.py",
        "stugan_tf/pipelines/extraction.py",
        "stugan_tf/pipelines/components/reference.py",
    ),
    depends_on=_depends_on,
    make=_make,
)
