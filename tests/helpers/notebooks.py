"""Runs a notebook in this process, without Jupyter, and keeps its outputs.

    python -m tests.helpers.notebooks docs/tutorials/NAME.ipynb

runs it and writes the outputs into the file.
"""

import ast
import base64
import contextlib
import io
import json
import pathlib
import sys


def read(path):
    return json.loads(pathlib.Path(path).read_text(encoding="utf-8"))


def code_cells(notebook):
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def execute(notebook):
    """Runs the code cells in their order and replaces their outputs; an error is raised."""
    names = {"__name__": "__main__"}
    for number, cell in enumerate(code_cells(notebook), start=1):
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            value = _run("".join(cell["source"]), names, f"<cell {number}>")
        cell["execution_count"] = number
        cell["outputs"] = [*_stream(printed.getvalue()), *_result(value, number)]
    return notebook


def _run(source, names, place):
    """Runs a cell; returns the value of its last line if this is an expression."""
    body = ast.parse(source).body
    last = body.pop() if body and isinstance(body[-1], ast.Expr) else None
    exec(compile(ast.Module(body, []), place, "exec"), names)
    if last is None:
        return None
    return eval(compile(ast.Expression(last.value), place, "eval"), names)


def _stream(text):
    if not text:
        return []
    return [{"name": "stdout", "output_type": "stream", "text": text.splitlines(keepends=True)}]


def _result(value, number):
    if value is None:
        return []
    png = getattr(value, "_repr_png_", lambda: None)()
    data = {"text/plain": [f"<{type(value).__name__}>" if png else repr(value)]}
    if png:
        data["image/png"] = base64.b64encode(png).decode()
    return [
        {
            "data": data,
            "execution_count": number,
            "metadata": {},
            "output_type": "execute_result",
        }
    ]


if __name__ == "__main__":
    for path in map(pathlib.Path, sys.argv[1:]):
        notebook = execute(read(path))
        path.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
