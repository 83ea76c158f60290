"""What MkDocs calls while it builds the site, see mkdocs.yml.

What a strict build must not pass is logged as a warning here: dead links, code that is not there,
public names and settings without a docstring.
"""

import re
from collections.abc import Mapping
from typing import Any

from mkdocs.plugins import get_plugin_logger
from mkdocs.structure.files import File, Files

from docs_build import ROOT, api, code, commands, gin_pages, links, notebooks, settings

_log = get_plugin_logger("docs_build")


def on_files(files: Files, config: Any) -> Files:
    """Adds the pages that are not in docs/: other pages of the repository, and generated ones."""
    pages: dict[str, str | bytes] = {
        site: (ROOT / file).read_text(encoding="utf-8") for file, site in links.OUTSIDE.items()
    }
    for path in sorted((ROOT / "docs" / "tutorials").glob("*.ipynb")):
        pages[f"tutorials/{path.stem}.md"], pictures = notebooks.as_markdown(path)
        pages |= {f"tutorials/{name}": content for name, content in pictures.items()}
    pages |= {f"reference/{name}.md": api.page_text(name) for name in api.PAGES}
    pages |= {f"reference/settings/{name}.md": settings.page_text(name) for name in settings.PAGES}
    pages["reference/commands.md"] = commands.page_text()
    pages["reference/gin_files.md"] = gin_pages.page_text()
    for path in api.without_docstring():
        _log.warning(f"{path} is public and has no docstring.")
    for setting in settings.without_meaning():
        _log.warning(f"No docstring says what the setting {setting} means.")
    for name, content in pages.items():
        files.append(File.generated(config, name, content=content))
    return files


def on_page_markdown(markdown: str, page: Any, **others: Any) -> str:
    """Makes the links those of the site, and puts code beside the text."""
    del others
    name = page.file.src_uri
    try:
        return code.with_code(_highlighted(links.in_site(markdown, name)))
    except (links.DeadLinkError, code.MissingCodeError) as error:
        _log.warning(f"{name}: {error}")
        return markdown


def _highlighted(text: str) -> str:
    """Names the language of code that is indented, not fenced."""
    indented = r"(?:\A|(?<=\n\n))((?: {4}.*\n)(?:(?: {4}.*)?\n)*)"
    return "".join(
        piece if piece.startswith("```") else re.sub(indented, _fence, piece)
        for piece in links.FENCED.split(text)
    )


def _fence(block: re.Match[str]) -> str:
    lines = block.group().rstrip("\n").split("\n")
    body = "\n".join(line[4:] for line in lines)
    languages: Mapping[str, str] = {
        r"(?m)^(import|from) [\w.]+|^(class|def) |^@": "python",
        r"(?m)^(include '|[\w/.]+ = )": "ini",
        r"(?m)^(\.venv/bin/)?(pip|make|python|stugan|docker|tensorboard|saved_model_cli) ": "sh",
    }
    language = next((name for shape, name in languages.items() if re.search(shape, body)), "text")
    return f"```{language}\n{body}\n```\n\n"
