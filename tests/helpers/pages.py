"""The pages of the documentation: their code, their commands, and a run of a tutorial.

A tutorial in Markdown is run from its top to its end, in one folder:

- a block with a title, such as ```` ```python title="mine.py" ````, is a file;
- a block of Python without a title is run, and all share their names;
- a block of `sh` has commands, one a line;
- a block of `text` is what the block before prints. Digits may differ.
"""

import contextlib
import io
import pathlib
import re
import shlex
import sys
from typing import NamedTuple

from stugan_tf import __main__ as stugan
from tests.helpers import commands

ROOT = pathlib.Path(__file__).parents[2]
PAGES = sorted([*(ROOT / "docs").rglob("*.md"), *ROOT.glob("*.md"), ROOT / "runtime/README.md"])
COMMANDS = {**stugan.COMMANDS, **{f"pipeline {name}": c for name, c in stugan.PIPELINE.items()}}
_FENCE = re.compile(r'^```(\w*)(?: title="([^"]+)")?\n(.*?)^```$', re.MULTILINE | re.DOTALL)
_INDENTED = re.compile(r"(?:\A|(?<=\n\n))((?: {4}.*\n)(?:(?: {4}.*)?\n)*)")
_COMMAND = re.compile(r"\s*(?:[A-Z_]+=\S+ )*(?:\S*/)?(?:stugan |python3? -m [\w.]+|make )")


class Block(NamedTuple):
    """A fenced block of code; `title` is '' without one."""

    language: str
    title: str
    text: str


def blocks(text):
    """The fenced blocks of a page, in their order."""
    return [Block(*(part or "" for part in found.groups())) for found in _FENCE.finditer(text)]


def code(text):
    """All code of a page, fenced or indented, as texts."""
    indented = _INDENTED.findall(_FENCE.sub("", text))
    fenced = [block.text for block in blocks(text)]
    return fenced + [re.sub(r"(?m)^ {4}", "", block) for block in indented]


def inline_code(text):
    """What stands in backticks in the text of a page."""
    return re.findall(r"`([^`]+)`", _INDENTED.sub("", _FENCE.sub("", text)))


def command_lines(text):
    """The commands in a page: lists of what a shell would split them into."""
    found = []
    for piece in [*code(text), *inline_code(text)]:
        for line in re.sub(r"\\\n\s*", " ", piece).split("\n"):
            if _COMMAND.match(line):
                with contextlib.suppress(ValueError):  # A quote that a placeholder leaves open.
                    found.append(shlex.split(line, comments=True))
    return found


def run(page, folder, monkeypatch):
    """Runs a tutorial in a folder, which is the working directory meanwhile.

    Raises:
        AssertionError: if a command fails, or something else is printed than the page shows.
    """
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(folder))
    names = {"__name__": "__main__"}
    printed = ""
    for block in blocks(page.read_text(encoding="utf-8")):
        if block.title:
            (folder / block.title).write_text(block.text, encoding="utf-8")
        elif block.language == "python":
            with contextlib.redirect_stdout(io.StringIO()) as output:
                exec(compile(block.text, str(page), "exec"), names)
            printed = output.getvalue()
        elif block.language == "sh":
            printed = "".join(map(_command, block.text.splitlines()))
        elif block.language == "text":
            shown, real = (re.sub(r"\d+", "0", text).split() for text in (block.text, printed))
            assert shown == real, f"{page.name} shows\n{block.text}\nbut its code prints\n{printed}"
    for file in folder.glob("*.py"):
        sys.modules.pop(file.stem, None)


def _command(line):
    name, command, *flags = shlex.split(line)
    assert name == "stugan", line
    module = COMMANDS[command].module.removeprefix("stugan_tf.")
    exit_code, printed, errors = commands.call(module, *flags)
    assert exit_code == 0, f"{line}\n{errors}"
    return printed
