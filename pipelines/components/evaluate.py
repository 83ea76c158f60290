"""A training and real images -> scores of one checkpoint."""

from pipelines import configuration
from pipelines.components import scoring
from pipelines.components.train import CODE
from pipelines.steps import Component


def _depends_on(context, examples, references, run):
    del examples, references, run
    return {
        "evaluation": configuration.canonical(context.configuration.evaluation),
        "checkpoint": context.settings.score.checkpoint,
    }


def _make(context, workplace, examples, references, run):
    checkpoint = context.settings.score.checkpoint
    return scoring.score(context, workplace, examples, references, run.workdir, checkpoint)


COMPONENT = Component(
    name="evaluate",
    inputs=("ingest", "reference", "train"),
    code=(*CODE, "stugan_tf/evaluate.py", "pipelines/components/scoring.py"),
    depends_on=_depends_on,
    make=_make,
)
