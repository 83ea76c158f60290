"""The reference of settings: what gin files can bind, read from the sources."""

import ast
import dataclasses
import functools
import re
from collections.abc import Mapping, Sequence
from typing import Any

import griffe

from docs_build.sources import all_modules, sections, summary

# {page: (title, what its settings are about, their modules in the order in which they are shown)}
PAGES: Mapping[str, tuple[str, str, Sequence[str]]] = {
    "data": ("Data", "Where images come from.", ["stugan_tf.data"]),
    "networks": (
        "Networks",
        "Generator, discriminator and their initial weights.",
        ["stugan_tf.training.gan", "stugan_tf.models", "stugan_tf.layers"],
    ),
    "topology": (
        "Sparsity",
        "Masks: how many weights each layer has, and how they move. Averages of the generator.",
        [
            "stugan_tf.sparsity.sparsify",
            "stugan_tf.sparsity.distributions",
            "stugan_tf.sparsity.exploration",
            "stugan_tf.sparsity.rules",
            "stugan_tf.sparsity.criteria",
            "stugan_tf.sparsity.schedules",
            "stugan_tf.sparsity.averaging",
            "stugan_tf.sparsity",
        ],
    ),
    "training": (
        "Algorithm 1",
        "Batches, losses, optimizers and all else that a step does.",
        ["stugan_tf.training"],
    ),
    "runs": (
        "Runs",
        "What happens around the steps: logs, checkpoints, trackers, phases.",
        ["stugan_tf.runs", "stugan_tf.methods"],
    ),
    "scores": ("Scores", "Metrics and the networks behind them.", ["stugan_tf.evaluation"]),
    "pipelines": ("Pipelines", "From data to a served model.", ["stugan_tf.pipelines"]),
}
REQUIRED = "required"


@dataclasses.dataclass(frozen=True)
class Setting:
    """What a gin file can bind: `configurable.name = value`.

    Attributes:
        name: of the parameter.
        type: as annotated, else that of the default; '' if neither says it.
        default: as it would be written in a gin file, or `REQUIRED`.
        meaning: what the docstring says.
    """

    name: str
    type: str
    default: str
    meaning: str


@dataclasses.dataclass(frozen=True)
class Configurable:
    """A function or class that gin files can refer to.

    Attributes:
        name: as gin knows it.
        path: where it is defined.
        about: the first line of its docstring.
        settings: what can be bound.
    """

    name: str
    path: str
    about: str
    settings: tuple[Setting, ...]


@functools.cache
def configurables() -> tuple[Configurable, ...]:
    """All configurables, in the order of their modules and lines."""
    found = []
    for module in all_modules():
        for member in module.members.values():
            if isinstance(member, (griffe.Function, griffe.Class)):
                call = _decoration(member)
                if call is not None:
                    found.append(_configurable(member, call, module))
    return _with_references(found)


def page_of(configurable: Configurable) -> str:
    """The page of `PAGES` that shows a configurable: that of the longest module."""
    lengths = {
        page: max(
            (len(m) for m in modules if f"{configurable.path}.".startswith(f"{m}.")), default=0
        )
        for page, (_, _, modules) in PAGES.items()
    }
    page = max(lengths, key=lambda name: lengths[name])
    assert lengths[page], configurable.path
    return page


def page_text(page: str) -> str:
    """A page in Markdown."""
    title, about, modules = PAGES[page]
    shown = [one for one in configurables() if page_of(one) == page]
    shown.sort(
        key=lambda one: [one.path.startswith(f"{module}.") for module in modules].index(True)
    )
    lines = [f"# Settings: {title}", "", about, ""]
    for one in shown:
        lines += [f"## {one.name} {{ #{one.name} }}", "", one.about, ""]
        if one.settings:
            lines += ["| setting | type | default | meaning |", "| --- | --- | --- | --- |"]
            lines += [_row(one.name, setting) for setting in one.settings]
        else:
            lines.append(f"Has no settings: write `@{one.name}`.")
        lines.append("")
    return "\n".join(lines)


def without_meaning() -> list[str]:
    """The settings that no docstring explains, such as `Exploration.stop`."""
    return [f"{c.name}.{s.name}" for c in configurables() for s in c.settings if not s.meaning]


def _row(name: str, setting: Setting) -> str:
    # In code a | is no border, and a backslash before it would be shown.
    cells = (f"`{name}.{setting.name}`{{.nowrap}}", _code(setting.type), _code(setting.default))
    return f"| {' | '.join(cells)} | {_plain(setting.meaning)} |"


def _plain(text: str) -> str:
    """A text in which nothing is Markdown but its code."""
    pieces = re.split(r"(`[^`]*`)", text)
    return "".join(p if p.startswith("`") else re.sub(r"([*<_|])", r"\\\1", p) for p in pieces)


def _code(text: str) -> str:
    return f"`{text}`" if text and text != REQUIRED else text


def _decoration(member: griffe.Function | griffe.Class) -> ast.expr | None:
    """The decorator that registers a member with gin; None if there is none."""
    for decorator in member.decorators:
        node = ast.parse(str(decorator.value), mode="eval").body
        function = node.func if isinstance(node, ast.Call) else node
        # `pipelines.settings.configurable` also makes a dataclass of its class.
        if ast.unparse(function) in ("gin.configurable", "configurable"):
            return node
    return None


def _configurable(
    member: griffe.Function | griffe.Class, call: ast.expr, module: griffe.Module
) -> Configurable:
    name, denied = member.name, []
    if isinstance(call, ast.Call):
        if call.args:
            name = ast.literal_eval(call.args[0])
        for keyword in call.keywords:
            if keyword.arg == "denylist":
                denied = ast.literal_eval(_constant(keyword.value, module))
    if isinstance(member, griffe.Function):
        parameters, documented = list(member.parameters), sections(member)
    else:
        parameters, documented = _of_class(member)
    settings = tuple(
        Setting(
            parameter.name,
            _type(parameter),
            _default(parameter.default, module),
            documented.get(parameter.name, ""),
        )
        for parameter in parameters
        if parameter.name not in ("self", *denied)
        and parameter.kind
        not in (griffe.ParameterKind.var_positional, griffe.ParameterKind.var_keyword)
    )
    return Configurable(name, member.path, summary(member), settings)


def _constant(node: ast.expr, module: griffe.Module) -> ast.expr:
    """A literal, or what the module calls by this name."""
    if isinstance(node, ast.Name):
        return ast.parse(str(module[node.id].value), mode="eval").body
    return node


def _of_class(cls: griffe.Class) -> tuple[list[griffe.Parameter], dict[str, str]]:
    """What a class is made with, and what the docstrings of it and its bases say."""
    lineage = [cls, *cls.mro()]
    for base in lineage:
        initializer = base.members.get("__init__")
        if isinstance(initializer, griffe.Function) and initializer.lineno != base.lineno:
            return list(initializer.parameters), sections(initializer, *lineage)
        if _is_dataclass(base):
            break
    fields: dict[str, griffe.Parameter] = {}
    for base in filter(_is_dataclass, reversed(lineage)):
        for member in base.members.values():
            if (
                isinstance(member, griffe.Attribute)
                and member.annotation is not None
                and not str(member.annotation).startswith("ClassVar")
                and "property" not in member.labels
            ):
                fields[member.name] = griffe.Parameter(
                    member.name, annotation=member.annotation, default=member.value
                )
    return list(fields.values()), sections(*lineage)


def _is_dataclass(cls: griffe.Class) -> bool:
    decorators = [str(decorator.value) for decorator in cls.decorators]
    return any("dataclass" in one or one == "configurable" for one in decorators)


def _type(parameter: griffe.Parameter) -> str:
    if parameter.annotation is not None:
        return str(parameter.annotation)
    try:
        value: Any = ast.literal_eval(str(parameter.default))
    except (ValueError, SyntaxError):
        return ""
    return "" if value is None else type(value).__name__


def _default(default: Any, module: griffe.Module) -> str:
    """A default as gin would write it; `module` is where it stands."""
    if default is None or str(default) == "gin.REQUIRED":
        return REQUIRED
    node = ast.parse(str(default), mode="eval").body
    if isinstance(node, ast.Name) and isinstance(module.members.get(node.id), griffe.Attribute):
        node = _constant(node, module)
    if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("field"):
        factories = [k.value for k in node.keywords if k.arg == "default_factory"]
        if factories:
            name = ast.unparse(factories[0])
            return {"dict": "{}", "list": "[]"}.get(name, f"@{name.rpartition('.')[2]}()")
        return next(ast.unparse(k.value) for k in node.keywords if k.arg == "default")
    return ast.unparse(node)


def _with_references(found: Sequence[Configurable]) -> tuple[Configurable, ...]:
    """Writes defaults that are configurables as references: `@sema`."""
    names = {one.path.rpartition(".")[2]: one.name for one in found}

    def written(default: str) -> str:
        name = default.rpartition(".")[2].removesuffix("()")
        call = "()" if default.endswith("()") else ""
        return f"@{names[name]}{call}" if name in names else default

    return tuple(
        dataclasses.replace(
            one,
            settings=tuple(
                dataclasses.replace(setting, default=written(setting.default))
                for setting in one.settings
            ),
        )
        for one in found
    )
