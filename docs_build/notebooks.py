"""Notebooks as Markdown, with the outputs that are stored in them."""

import base64
import json
import pathlib
from collections.abc import Mapping
from typing import Any


def as_markdown(path: pathlib.Path) -> tuple[str, Mapping[str, bytes]]:
    """A notebook as a page.

    Args:
        path: the `.ipynb` file.

    Returns:
        The page, and {name: content} of its pictures, which lie beside it.
    """
    notebook = json.loads(path.read_text(encoding="utf-8"))
    parts: list[str] = []
    pictures: dict[str, bytes] = {}
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(source)
            continue
        parts.append(f"```python\n{source}\n```")
        for output in cell["outputs"]:
            png = output.get("data", {}).get("image/png")
            if png:
                name = f"{path.stem}_{len(pictures)}.png"
                pictures[name] = base64.b64decode(png)
                parts.append(f"![Output]({name})")
            else:
                parts.append(f'```text title="Output"\n{_text(output).rstrip()}\n```')
    parts.append(f"[This page as a notebook]({path.name})")
    return "\n\n".join(parts) + "\n", pictures


def _text(output: Mapping[str, Any]) -> str:
    return "".join(output.get("text") or output["data"]["text/plain"])
