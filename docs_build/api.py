"""The reference of the public names: which page shows which, and what lacks a docstring."""

import ast
import functools
from collections.abc import Iterator, Mapping, Sequence

import griffe

from docs_build import ROOT
from docs_build.sources import package, summary

# {page: (title, what its names are for, the modules they come from)}
PAGES: Mapping[str, tuple[str, str, Sequence[str]]] = {
    "fit": (
        "Sparse training in `fit`",
        "Masks for any Keras model, the optimizer that moves them, and GANs trained by `fit`.",
        ["stugan_tf.fit", "stugan_tf.sparsity.sparsify", "stugan_tf.sparsity.at_initialization"],
    ),
    "rules": (
        "Topology rules",
        "When and how masks change.",
        [
            "stugan_tf.sparsity.rule",
            "stugan_tf.sparsity.rules",
            "stugan_tf.sparsity.exploration",
            "stugan_tf.sparsity.pruning",
            "stugan_tf.sparsity.density_adjustment",
        ],
    ),
    "masks": (
        "Masks and the method's functions",
        "Densities, masks, criteria, schedules, averages: tensors in, tensors out.",
        ["stugan_tf.sparsity", "stugan_tf.layers"],
    ),
    "training": (
        "Training",
        "What Algorithm 1 is made of.",
        ["stugan_tf.training", "stugan_tf.models"],
    ),
    "data": ("Data", "Where images come from.", ["stugan_tf.data"]),
    "scores": ("Scores", "Metrics and the networks behind them.", ["stugan_tf.evaluation"]),
    "runs": (
        "Runs, artifacts and images",
        "Trained runs, exported generators, and what is drawn of them.",
        ["stugan_tf.runs", "stugan_tf.serving", "stugan_tf.images", "stugan_tf.latents"],
    ),
    "errors": ("Errors", "What is raised if a user's input cannot work.", ["stugan_tf.errors"]),
}


@functools.cache
def public() -> Mapping[str, str]:
    """{name: its full path} of each public name, as `__init__.pyi` lists them."""
    table = ast.parse((ROOT / "stugan_tf" / "__init__.pyi").read_text(encoding="utf-8"))
    return {
        alias.name: f"{line.module}.{alias.name}"
        for line in table.body
        if isinstance(line, ast.ImportFrom)
        for alias in line.names
    }


def resolved(name: str) -> griffe.Object:
    """What a public name stands for."""
    found = package()[public()[name].removeprefix("stugan_tf.")]
    return found.final_target if isinstance(found, griffe.Alias) else found


def page_of(name: str) -> str:
    """The page that shows a public name: that of the longest module."""
    path = f"{public()[name]}."
    lengths = {
        page: max((len(m) for m in modules if path.startswith(f"{m}.")), default=0)
        for page, (_, _, modules) in PAGES.items()
    }
    page = max(lengths, key=lambda one: lengths[one])
    assert lengths[page], path
    return page


def page_text(page: str) -> str:
    """A page in Markdown, for mkdocstrings."""
    title, about, _ = PAGES[page]
    names = [name for name in public() if page_of(name) == page]
    lines = [f"# {title}", "", about, "", "| name | |", "| --- | --- |"]
    for name in names:
        about = summary(resolved(name)).replace("|", "\\|")
        lines.append(f"| [`st.{name}`][{resolved(name).path}] | {about} |")
    for name in names:
        lines += ["", f"::: {resolved(name).path}", "    options:", f"      heading: st.{name}"]
        lines.append(f"      toc_label: {name}")
    return "\n".join(lines) + "\n"


def without_docstring() -> list[str]:
    """The public names, and the public members of public classes, that have no docstring."""
    return [one.path for name in public() for one in _shown(resolved(name)) if not one.docstring]


def _shown(one: griffe.Object) -> Iterator[griffe.Object]:
    yield one
    if isinstance(one, (griffe.Class, griffe.Module)):
        for member in one.members.values():
            is_shown = isinstance(member, (griffe.Function, griffe.Class)) or (
                isinstance(member, griffe.Attribute) and "property" in member.labels
            )
            if is_shown and not member.name.startswith("_"):
                yield from _shown(member)
