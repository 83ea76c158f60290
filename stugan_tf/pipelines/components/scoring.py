"""Runs `stugan_tf.evaluate` on an exported generator, and reads its scores.

What is scored is what would be served, not the checkpoint that it was made of.
"""

import json

from stugan_tf.errors import InputError
from stugan_tf.pipelines.artifacts import Scores


def flags(context, workplace, examples, references):
    """The flags that follow the run's own: images, evaluator, cache of statistics."""
    found = [f"--gin_file={examples.gin_file}"]
    if context.configuration.evaluation:
        file = workplace.folder / "evaluation.gin"
        file.write_text(context.configuration.evaluation)
        found.append(f"--gin_file={file}")
    return [*found, f"--gin_param=Evaluator.cache_dir = {str(references.cache_dir)!r}"]


def score(context, workplace, examples, references, run, folder):
    """Scores an exported generator by the protocol of this pipeline.

    Args:
        context: see `steps`.
        workplace: see `steps`.
        examples: an `Examples`.
        references: a `References`.
        run: a `Run`, whose configuration has the evaluator.
        folder: path of the artifact.

    Returns:
        `Scores` in the workplace.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} is gone.")
    output = workplace.folder / "scores.json"
    output.unlink(missing_ok=True)
    flags_of_artifact = [
        f"--workdir={run.workdir}",
        f"--artifact={folder}",
        f"--output={output}",
        f"--strategy={context.strategy}",
    ]
    flags_of_scores = flags(context, workplace, examples, references)
    workplace.run("stugan_tf.evaluate", [*flags_of_artifact, *flags_of_scores])
    return Scores(folder=workplace.folder, id=workplace.id, **json.loads(output.read_bytes()))
