"""A training -> files for serving.

They come before the scores and the blessing, which judge these very files.
"""

from stugan_tf.pipelines.artifacts import Exported
from stugan_tf.pipelines.components.train import CODE
from stugan_tf.pipelines.settings import plain
from stugan_tf.pipelines.steps import Component
from stugan_tf.serving import artifact


def _depends_on(context, examples, run):
    del examples, run
    settings = context.settings
    return {"checkpoint": settings.score.checkpoint, **plain(settings.export)}


def _make(context, workplace, examples, run):
    settings = context.settings.export
    output = workplace.folder / "versions"
    workplace.run(
        "stugan_tf.export",
        [
            f"--workdir={run.workdir}",
            f"--gin_file={examples.gin_file}",
            f"--output={output}",
            f"--checkpoint={context.settings.score.checkpoint}",
            f"--format={settings.format}",
            f"--weights={settings.weights}",
            *settings.flags,
        ],
    )
    version = artifact.versions(output)[-1]  # One that was killed may have left an earlier one.
    card = artifact.read_card(output / str(version))
    generator = card["generator"]
    return Exported(
        folder=workplace.folder,
        id=workplace.id,
        step=card["checkpoint"]["step"],
        version=f"versions/{version}",
        format=settings.format,
        num_bytes=card["bytes"],
        sparsity=generator["sparsity_under_masks"],
        active_weights=generator["active_weights_under_masks"],
        flops=generator["theoretical_flops_per_image"]["sparse"],
    )


def _is_intact(context, exported):
    del context
    return (exported.path / artifact.MANIFEST).is_file()


COMPONENT = Component(
    name="export",
    inputs=("ingest", "train"),
    code=(*CODE, "stugan_tf/serving", "stugan_tf/export.py"),
    depends_on=_depends_on,
    make=_make,
    is_intact=_is_intact,
)
