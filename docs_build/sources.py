"""The package as griffe reads it: names, signatures and docstrings, without an import."""

import functools
import re
from collections.abc import Iterator

import griffe

from docs_build import ROOT


@functools.cache
def package() -> griffe.Module:
    """`stugan_tf`, with all its modules."""
    loaded = griffe.load("stugan_tf", search_paths=[ROOT], docstring_parser="google")
    assert isinstance(loaded, griffe.Module)
    return loaded


def sections(*objects: griffe.Object | griffe.Alias) -> dict[str, str]:
    """{argument or attribute: its description} in the docstrings of some objects.

    What stands first counts. "As in `Source`" and "the arguments are those of `tfds_images`" are
    followed.
    """
    kinds = (griffe.DocstringSectionKind.parameters, griffe.DocstringSectionKind.attributes)
    found: dict[str, str] = {}
    for one in objects:
        if not one.docstring:
            continue
        for section in one.docstring.parsed:
            if section.kind in kinds:
                for item in section.value:
                    for name in item.name.split(", "):
                        text = " ".join(item.description.split())
                        elsewhere = re.fullmatch(r"(?:as in|see) `(\w+)`\.?", text)
                        if elsewhere:
                            text = sections(*_called(elsewhere.group(1))).get(name, text)
                        found.setdefault(name, text)
        for name in re.findall(r"arguments are those of `(\w+)`", one.docstring.value):
            found = {**sections(*_called(name)), **found}
    return found


def _called(name: str) -> list[griffe.Object]:
    """What the package calls `name`: a class or function of a module, or none."""
    return [
        module.members[name]
        for module in all_modules()
        if isinstance(module.members.get(name), (griffe.Class, griffe.Function))
    ]


def all_modules() -> list[griffe.Module]:
    """The package and all its modules, by name."""

    def below(module: griffe.Module) -> Iterator[griffe.Module]:
        yield module
        for member in module.modules.values():
            if isinstance(member, griffe.Module):
                yield from below(member)

    return sorted(below(package()), key=lambda module: module.path)


def summary(one: griffe.Object | griffe.Alias) -> str:
    """The first line of a docstring, '' without one."""
    return one.docstring.value.split("\n", 1)[0] if one.docstring else ""
