"""How `stugan_tf.evaluate` is told what to score, and what it said."""

from pipelines import children
from pipelines.artifacts import Scores
from stugan_tf.errors import FailedRun
from stugan_tf.evaluation import records


def flags(context, workplace, examples, references):
    """Flags that follow those of the run: its images, what scores it, where statistics are."""
    found = [f"--gin_file={examples.gin_file}"]
    if context.configuration.evaluation:
        file = workplace.folder / "evaluation.gin"
        file.write_text(context.configuration.evaluation)
        found.append(f"--gin_file={file}")
    return [*found, f"--gin_param=Evaluator.cache_dir = {str(references.cache_dir)!r}"]


def score(context, workplace, examples, references, workdir, checkpoint):
    """Scores a checkpoint by the protocol of this pipeline.

    Args:
        context: see `steps`.
        workplace: see `steps`.
        examples: an `Examples`.
        references: a `References`.
        workdir: path of the run.
        checkpoint: 'latest', 'best' or a step.

    Returns:
        `Scores` in the workplace.
    """
    children.run(
        "stugan_tf.evaluate",
        [
            f"--workdir={workdir}",
            f"--checkpoint={checkpoint}",
            f"--strategy={context.strategy}",
            *flags(context, workplace, examples, references),
        ],
        log=workplace.log,
        keep=[workplace.lock],
    )
    found = records.read(workdir)
    if not found:
        raise FailedRun(f"stugan_tf.evaluate left no scores in {workdir}.")
    newest = dict(max(found, key=lambda record: record["time"]))
    protocol, step = newest.pop("protocol"), newest.pop("step")
    del newest["time"]
    return Scores(
        folder=workplace.folder, id=workplace.id, step=step, scores=newest, protocol=protocol
    )
