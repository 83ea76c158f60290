"""Configuration -> plan: the trainer's own check of everything, before anything is made."""

from stugan_tf.files import write_atomically
from stugan_tf.pipelines import configuration
from stugan_tf.pipelines.artifacts import Plan
from stugan_tf.pipelines.components.train import CODE
from stugan_tf.pipelines.steps import Component


def _depends_on(context):
    return {"training": configuration.canonical(context.configuration.training)}


def _make(context, workplace):
    file = workplace.folder / "training.gin"
    write_atomically(file, context.configuration.training.encode())
    flags = [f"--gin_file={file}", "--strategy=one_device", "--dry_run"]
    plan = workplace.folder / "plan.txt"
    plan.unlink(missing_ok=True)
    workplace.run("stugan_tf.train", flags, log=plan.name)
    return Plan(folder=workplace.folder, id=workplace.id)


COMPONENT = Component(name="check", inputs=(), code=CODE, depends_on=_depends_on, make=_make)
