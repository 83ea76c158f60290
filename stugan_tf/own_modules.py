"""The source of the modules that gin files import and that belong to no installed package.

Such a module is a part of a configuration: a criterion, a network or a loss of the user's own.
"""

import ast
import os
import pathlib
import site
import sys
import sysconfig
from collections.abc import Iterable, Iterator

PACKAGE = "stugan_tf"  # Ours is not the user's: run.json has its commit.


def sources(names: Iterable[str], folders: Iterable[pathlib.Path] | None = None) -> dict[str, str]:
    """The source of modules and of the modules that they import, as far as they are the user's own.

    Args:
        names: complete names of modules, such as `mine.networks`.
        folders: where the user's own modules are; by default the working directory and what
            PYTHONPATH adds.

    Returns:
        {name of a module: its source}, by name.
    """
    folders = list(_own_folders() if folders is None else folders)
    found: dict[str, str] = {}
    seen: set[str] = set()
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name in seen or name.split(".")[0] == PACKAGE:
            continue
        seen.add(name)
        path = _path_of(name, folders)
        if path is None:
            continue
        source = path.read_bytes()
        found[name] = source.decode(errors="replace")
        package = name if path.name == "__init__.py" else name.rpartition(".")[0]
        waiting += [*_parents(name), *_imported(source, package)]
    return dict(sorted(found.items()))


def _own_folders() -> Iterator[pathlib.Path]:
    """The working directory and the entries of `sys.path` that are not of Python itself."""
    installed = [sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib")]
    installed += [*site.getsitepackages(), site.getusersitepackages()]
    for entry in dict.fromkeys([os.getcwd(), *sys.path]):
        if os.path.isdir(entry) and not any(
            pathlib.Path(entry).is_relative_to(folder) for folder in installed
        ):
            yield pathlib.Path(entry)


def _path_of(name: str, folders: list[pathlib.Path]) -> pathlib.Path | None:
    for folder in folders:
        place = folder.joinpath(*name.split("."))
        for path in (place / "__init__.py", place.with_name(f"{place.name}.py")):
            if path.is_file():
                return path
    return None


def _parents(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[:length]) for length in range(1, len(parts))]


def _imported(source: bytes, package: str) -> Iterator[str]:
    """Names that may be of modules: all that a source imports, also inside functions."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):  # The training will say so.
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1]
            module = ".".join([*(above if node.level else []), *filter(None, [node.module])])
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names)
