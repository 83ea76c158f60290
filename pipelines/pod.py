"""Inside a step of KFP: from its parameters and artifacts to `steps.execute`, and back."""

import json
import pathlib

from stugan_tf import command  # isort: skip - quiets TensorFlow before it is imported

from pipelines import steps
from pipelines.artifacts import from_json, to_json
from pipelines.chain import COMPONENTS
from pipelines.configuration import Configuration

del command


def execute(name, parameters, output, *inputs):
    """Runs a component.

    Args:
        name: of the component.
        parameters: configuration as JSON, root, strategy, version of the code or ''.
        output: KFP's artifact to write.
        *inputs: KFP's artifacts that earlier steps wrote, in the component's order.

    Returns:
        Our artifact.
    """
    text, root, strategy, code_version = parameters
    context = steps.Context(
        root=root,
        configuration=Configuration.from_json(text),
        strategy=strategy,
        code=code_version or None,
        verbose=True,
    )
    artifacts = [read(one, context.root) for one in inputs]
    result = steps.execute(COMPONENTS[name], context, artifacts)
    write(output, result.artifact, context.root)
    context.say(f"{name}: {'unchanged' if result.was_there else 'done'}")
    return result.artifact


def write(output, artifact, root):
    """Writes an artifact of ours as one of KFP's: a small file, and metadata."""
    values = {**to_json(artifact), "folder": artifact.folder.relative_to(root).as_posix()}
    path = pathlib.Path(output.path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values, indent=1))
    plain = {k: v for k, v in values.items() if isinstance(v, (str, int, float)) and k != "type"}
    output.metadata.update(plain)


def read(given, root):
    """What `write` wrote."""
    values = json.loads(pathlib.Path(given.path).read_text())
    return from_json(values, root / values.pop("folder"))


def log_statistics(given, metrics):
    """Shows what was ingested where KFP shows metrics."""
    values = json.loads(pathlib.Path(given.path).read_text())
    metrics.log_metric("images", values["num_images"])
    metrics.log_metric("shards", values["num_shards"])


def log_scores(scores):
    """Shows scores where KFP shows metrics."""
    values = json.loads(pathlib.Path(scores.path).read_text())
    for name, value in values["scores"].items():
        if value is not None:
            scores.log_metric(name, value)


def say_blessing(blessing, reasons):
    """Writes the reasons; returns what the pipeline's condition asks for."""
    verdict = "blessed" if blessing.blessed else "not blessed"
    lines = [f"- {line}" for line in blessing.words.splitlines()]
    pathlib.Path(reasons.path).write_text("\n".join([f"# {verdict.capitalize()}", "", *lines, ""]))
    return verdict
