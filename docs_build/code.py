"""Code of the package that stands beside the text of a page.

A comment in Markdown, `<!-- code: stugan_tf/sparsity/topology.py prune_and_regrow -->`, becomes the
source of the function, method (`Steps.run`) or class in the site. GitHub shows nothing there.
"""

import ast
import re

from docs_build import ROOT

COMMENT = re.compile(r"^<!-- code: (\S+) (\S+) -->$", re.MULTILINE)


class MissingCodeError(Exception):
    """A page asks for code that is not there."""


def with_code(text: str) -> str:
    """The text of a page with the code that it asks for.

    Raises:
        MissingCodeError: if it is not there.
    """
    return COMMENT.sub(lambda found: _block(*found.groups()), text)


def lines_of(file: str, symbol: str) -> tuple[int, str]:
    """The number of the first line of a symbol, and its source.

    Args:
        file: path in the repository.
        symbol: a function or class, or `Class.method`.

    Raises:
        MissingCodeError: if it is not there.
    """
    path = ROOT / file
    if not path.is_file():
        raise MissingCodeError(f"There is no {file}.")
    source = path.read_text(encoding="utf-8")
    node: ast.AST = ast.parse(source)
    for name in symbol.split("."):
        kinds = (ast.FunctionDef, ast.ClassDef)
        body = getattr(node, "body", [])
        found = [one for one in body if isinstance(one, kinds) and one.name == name]
        if not found:
            raise MissingCodeError(f"{file} has no {symbol}.")
        node = found[0]
    assert isinstance(node, (ast.FunctionDef, ast.ClassDef))
    begin = min([node.lineno, *(one.lineno for one in node.decorator_list)])
    lines = source.splitlines()[begin - 1 : node.end_lineno]
    indent = len(lines[0]) - len(lines[0].lstrip())
    return begin, "\n".join(line[indent:] for line in lines)


def _block(file: str, symbol: str) -> str:
    begin, source = lines_of(file, symbol)
    body = f'```python title="{file}" linenums="{begin}"\n{source}\n```'
    indented = "\n".join(f"    {line}".rstrip() for line in body.splitlines())
    return f'??? quote "{symbol}"\n\n{indented}'
