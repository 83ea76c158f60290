"""Runs `stugan_tf.evaluate` and reads its scores."""

from pipelines.artifacts import Scores
from stugan_tf.errors import FailedRun, InputError
from stugan_tf.files import locked, read_json_lines
from stugan_tf.runs.phases import run_folder


def flags(context, workplace, examples, references):
    """The flags after those of the run: images, evaluator, cache of statistics."""
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
    if not workdir.is_dir():
        raise InputError(f"{workdir} is gone.")
    flags_of_run = [
        f"--workdir={workdir}",
        f"--checkpoint={checkpoint}",
        f"--strategy={context.strategy}",
    ]
    # Another pipeline that scores the same run would leave its scores among ours.
    with locked(workdir.parent / ".lock", str(workdir.parent), context.say) as lock:
        flags_of_scores = flags(context, workplace, examples, references)
        workplace.run("stugan_tf.evaluate", [*flags_of_run, *flags_of_scores], keep=[lock])
        found = read_json_lines(run_folder(workdir) / "evaluations.jsonl")
    if not found:
        raise FailedRun(f"stugan_tf.evaluate left no scores in {workdir}.")
    newest = found[-1]  # by position: clocks of machines differ
    protocol, step = newest.pop("protocol"), newest.pop("step")
    del newest["time"]
    return Scores(
        folder=workplace.folder, id=workplace.id, step=step, scores=newest, protocol=protocol
    )
