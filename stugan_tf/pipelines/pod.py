"""Inside a step of KFP: from its parameters and artifacts to `steps.execute`, and back."""

import json
import pathlib
from typing import Any

from stugan_tf.command import late_imports

with late_imports(__name__):
    from stugan_tf.pipelines import steps
    from stugan_tf.pipelines.artifacts import Artifact, Blessing, from_json, to_json
    from stugan_tf.pipelines.chain import COMPONENTS
    from stugan_tf.pipelines.configuration import Configuration


def begin(configuration: str, root: str, strategy: str, code_version: str, plan: Any) -> None:
    """Runs the first component, and writes the parameters of the others beside its artifact.

    Args:
        configuration: a `Configuration` as JSON.
        root: str, folder of everything.
        strategy: name of the strategy for training and scoring.
        code_version: str; '' for the code itself.
        plan: KFP's artifact to write.
    """
    parameters = {
        "configuration": configuration,
        "root": root,
        "strategy": strategy,
        "code_version": code_version,
    }
    context = _context(parameters)
    _execute("check", context, [], plan, parameters=parameters)


def execute(name: str, plan: Any, output: Any, *inputs: Any) -> Any:
    """Runs a component.

    Args:
        name: name of the component.
        plan: KFP's artifact that `begin` wrote.
        output: KFP's artifact to write.
        *inputs: KFP's artifacts that other steps wrote, in the order of the component.

    Returns:
        Our artifact.
    """
    context = _context(_values(plan)["parameters"])
    given = [plan, *inputs] if "check" in COMPONENTS[name].inputs else inputs
    return _execute(name, context, [read(one, context.root) for one in given], output)


def _context(parameters):
    return steps.Context(
        root=parameters["root"],
        configuration=Configuration.from_json(parameters["configuration"]),
        strategy=parameters["strategy"],
        code=parameters["code_version"] or None,
        verbose=True,
    )


def _execute(name, context, artifacts, output, **more):
    result = steps.execute(COMPONENTS[name], context, artifacts)
    write(output, result.artifact, context.root, **more)
    context.say(f"{name}: {'unchanged' if result.was_there else 'done'}")
    return result.artifact


def write(output: Any, artifact: Artifact, root: pathlib.Path, **more: Any) -> None:
    """Writes an artifact of ours as one of KFP's: a small file, and metadata."""
    values: dict[str, Any] = {
        "artifact": to_json(artifact),
        "folder": artifact.folder.relative_to(root).as_posix(),
    }
    path = pathlib.Path(output.path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**values, **more}, indent=1))
    facts = {**values["artifact"], "folder": values["folder"]}
    plain = {k: v for k, v in facts.items() if isinstance(v, (str, int, float)) and k != "type"}
    output.metadata.update(plain)


def read(given: Any, root: pathlib.Path) -> Any:
    """The artifact that `write` wrote."""
    values = _values(given)
    return from_json(values["artifact"], root / values["folder"])


def _values(given):
    return json.loads(pathlib.Path(given.path).read_text())


def log_statistics(given: Any, metrics: Any) -> None:
    """Logs the numbers of images and shards as metrics of KFP."""
    values = _values(given)["artifact"]
    metrics.log_metric("images", values["num_images"])
    metrics.log_metric("shards", values["num_shards"])


def log_scores(scores: Any) -> None:
    """Logs scores as metrics of KFP."""
    for name, value in _values(scores)["artifact"]["scores"].items():
        if value is not None:
            scores.log_metric(name, value)


def say_blessing(blessing: Blessing, reasons: Any) -> str:
    """Writes the reasons; returns 'blessed' or 'not blessed' for the condition of the pipeline."""
    verdict = "blessed" if blessing.blessed else "not blessed"
    lines = [f"- {line}" for line in blessing.words.splitlines()]
    pathlib.Path(reasons.path).write_text("\n".join([f"# {verdict.capitalize()}", "", *lines, ""]))
    return verdict
