"""The pipeline: its components, their order, and the artifacts that each passes on."""

import dataclasses
from typing import Any

from stugan_tf.errors import InputError
from stugan_tf.pipelines.components import (
    bless,
    check,
    evaluate,
    export,
    ingest,
    push,
    reference,
    train,
)
from stugan_tf.pipelines.steps import Context, execute

COMPONENTS = {
    module.COMPONENT.name: module.COMPONENT
    for module in (check, ingest, reference, train, export, evaluate, bless, push)
}


@dataclasses.dataclass(frozen=True)
class Outcome:
    """The result of a pipeline.

    Attributes:
        artifacts: {name of a component: its artifact}.
        made: names of the components that did something.
    """

    artifacts: dict
    made: list[str]


def run(context: Context, until: str = "push") -> Outcome:
    """Runs all components in their order. Results that are there are not made again.

    Args:
        context: a `steps.Context`.
        until: name of the last component to run.

    Returns:
        An `Outcome`; without `push` if the model was not blessed.
    """
    if until not in COMPONENTS:
        raise InputError(f"--until must be one of {', '.join(COMPONENTS)}, got {until!r}.")
    artifacts: dict[str, Any] = {}
    made: list[str] = []
    for component in COMPONENTS.values():
        if component.name == "push" and not artifacts["bless"].blessed:
            break
        result = execute(component, context, [artifacts[name] for name in component.inputs])
        artifacts[component.name] = result.artifact
        if not result.was_there:
            made.append(component.name)
        context.say(f"{component.name}: {'unchanged' if result.was_there else 'done'}")
        if component.name == until:
            break
    return Outcome(artifacts, made)
