"""How `stugan_tf.evaluate` is told what to score, and what it said."""

from pipelines.artifacts import Scores
from stugan_tf.errors import FailedRun, InputError
from stugan_tf.files import locked, read_json_lines
from stugan_tf.runs.phases import run_folder


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
    if not workdir.is_dir():
        raise InputError(f"{workdir} is gone.")
    flags_of_run = [
        f"--workdir={workdir}",
        f"--checkpoint={checkpoint}",
        f"--strategy={context.strategy}",
    ]
    # Others that score the same run would leave their scores among ours.
    with locked(workdir.parent / ".lock", str(workdir.parent), context.say) as lock:
        flags_of_scores = flags(context, workplace, examples, references)
        workplace.run("stugan_tf.evaluate", [*flags_of_run, *flags_of_scores], keep=[lock])
        found = read_json_lines(run_folder(workdir) / "evaluations.jsonl")
    if not found:
        raise FailedRun(f"stugan_tf.evaluate left no scores in {workdir}.")
    newest = found[-1]  # By its place: clocks of machines differ.
    protocol, step = newest.pop("protocol"), newest.pop("step")
    del newest["time"]
    return Scores(
        folder=workplace.folder, id=workplace.id, step=step, scores=newest, protocol=protocol
    )
