"""Shards -> a finished training, by `stugan_tf.train`, which resumes an unfinished one."""

import shlex

from stugan_tf.errors import FailedRun
from stugan_tf.files import write_atomically
from stugan_tf.pipelines import configuration
from stugan_tf.pipelines.artifacts import Run
from stugan_tf.pipelines.steps import Component, place_of
from stugan_tf.runs.manifest import read_manifest
from stugan_tf.runs.status import status_of

CODE = (
    "stugan_tf/adapters",
    "stugan_tf/data",
    "stugan_tf/evaluation",
    "stugan_tf/kernels",
    "stugan_tf/layers",
    "stugan_tf/methods",
    "stugan_tf/models",
    "stugan_tf/runs",
    "stugan_tf/sparsity",
    "stugan_tf/training",
    "stugan_tf/arithmetic.py",
    "stugan_tf/config.py",
    "stugan_tf/latents.py",
    "stugan_tf/randomness.py",
    "stugan_tf/train.py",
)


def _depends_on(context, plan, examples, references):
    del plan, examples, references
    return {"training": configuration.canonical(context.configuration.training)}


def _make(context, workplace, plan, examples, references):
    del plan
    run = Run(folder=workplace.folder, id=workplace.id, step=0, commit=None)
    if not _is_intact(context, run):  # Others, such as several workers, may have trained it.
        flags = flags_of(context, workplace.folder, examples, references)
        workplace.run("stugan_tf.train", flags)
    if not status_of(run.workdir).is_over:
        raise FailedRun(f"The training in {run.workdir} ended before its last step.")
    manifest = read_manifest(run.final_phase)
    return Run(
        folder=workplace.folder,
        id=workplace.id,
        step=manifest["finished"]["step"],
        commit=manifest["commit"],
    )


def command_of(context, artifacts):
    """The command that trains, which several workers start themselves.

    Args:
        context: a `steps.Context`.
        artifacts: {name of a component: its artifact}, for the components before.
    """
    taken = [artifacts[name] for name in COMPONENT.inputs]
    _, folder = place_of(COMPONENT, context, taken)
    folder.mkdir(parents=True, exist_ok=True)
    return shlex.join(["python", "-m", "stugan_tf.train", *flags_of(context, folder, *taken[1:])])


def flags_of(context, folder, examples, references):
    """The flags of `stugan_tf.train`."""
    file = folder / "training.gin"
    write_atomically(file, context.configuration.training.encode())
    flags = [
        f"--gin_file={file}",
        f"--gin_file={examples.gin_file}",
        f"--workdir={folder / 'workdir'}",
        f"--strategy={context.strategy}",
    ]
    if configuration.scores_while_training(context.configuration.training):
        flags.append(f"--gin_param=Evaluator.cache_dir = {str(references.cache_dir)!r}")
    return flags


def _is_intact(context, run):
    del context
    return status_of(run.workdir).keeps_its_end


COMPONENT = Component(
    name="train",
    inputs=("check", "ingest", "reference"),
    code=CODE,
    depends_on=_depends_on,
    make=_make,
    is_intact=_is_intact,
)
