"""A blessed export -> a version that is served, with its lineage."""

import json

from stugan_tf.errors import FailedRun
from stugan_tf.pipelines import serving
from stugan_tf.pipelines.artifacts import Pushed
from stugan_tf.pipelines.steps import Component
from stugan_tf.runs.manifest import read_manifest
from stugan_tf.serving import artifact


def _depends_on(context, *artifacts):
    del artifacts
    return {"serving": str(context.serving)}


def _make(context, workplace, examples, run, exported, scores, blessing):
    if not blessing.blessed:
        raise FailedRun(f"The model is not blessed, so it is not pushed.\n{blessing.words}")
    found = artifact.facts(exported.path)
    if found != scores.of:
        raise FailedRun(
            f"{exported.path} is not what was scored, so it is not pushed: it is {found}, and the "
            f"scores are of {scores.of}. Start the same command again: it scores what is there now."
        )
    lineage = lineage_of(context, examples, run, exported, scores, blessing)
    version = serving.push(context.serving, exported.path, lineage)
    return Pushed(
        folder=workplace.folder, id=workplace.id, version=version, serving=str(context.serving)
    )


def lineage_of(context, examples, run, exported, scores, blessing):
    """The record of a version: all that is known of it, even if the pipeline's folders are gone."""
    manifest = read_manifest(run.final_phase)
    manifest.pop("host", None)  # Versions may be published; names of machines need not be.
    artifacts = {
        "ingest": examples,
        "train": run,
        "export": exported,
        "evaluate": scores,
        "bless": blessing,
    }
    return {
        "export": exported.id,
        "baseline": blessing.baseline,
        "step": exported.step,
        "scores": scores.scores,
        "protocol": scores.protocol,
        "scored": scores.of,
        "workdir": run.workdir.relative_to(context.root).as_posix(),
        "blessing": {"checks": blessing.checks},
        "size": {
            "bytes": exported.num_bytes,
            "sparsity": exported.sparsity,
            "active_weights": exported.active_weights,
            "theoretical_flops_per_image": exported.flops,
            "format": exported.format,
        },
        "data": {
            "fingerprint": examples.fingerprint,
            "shards": examples.id,
            "statistics": json.loads(examples.statistics.read_text()),
        },
        "training": manifest,
        "gin": (run.final_phase / "config.gin").read_text(),
        "configuration": {
            "training": context.configuration.training,
            "evaluation": context.configuration.evaluation,
            "pipeline": context.configuration.pipeline,
        },
        "folders": {
            name: one.folder.relative_to(context.root).as_posix() for name, one in artifacts.items()
        },
    }


def _is_intact(context, pushed):
    """Whether the version is there and not withdrawn; `push` refuses a withdrawn one."""
    record = serving.record(context.serving, pushed.version)
    withdrawn = context.serving / serving.WITHDRAWN / str(pushed.version)
    return record is not None and not withdrawn.is_dir()


COMPONENT = Component(
    name="push",
    inputs=("ingest", "train", "export", "evaluate", "bless"),
    code=("stugan_tf/pipelines/serving.py", "stugan_tf/pipelines/components/push.py"),
    depends_on=_depends_on,
    make=_make,
    is_intact=_is_intact,
)
