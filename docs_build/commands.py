"""The reference of the commands: what each of them says of its flags.

    python -m docs_build.commands

prints `{command: its flags as XML}` as JSON. Each command is started in a copy of this process.
"""

import contextlib
import io
import json
import os
import re
import subprocess
import sys
import traceback
import xml.etree.ElementTree
from collections.abc import Iterator

from docs_build import ROOT
from stugan_tf import __main__ as stugan
from stugan_tf.completion import Command


def all_commands() -> dict[str, Command]:
    """{what follows `stugan`: the command} for each command that has flags."""
    below = {f"pipeline {name}": command for name, command in stugan.PIPELINE.items()}
    return {**stugan.COMMANDS, **below}


def page_text() -> str:
    """The page in Markdown."""
    start = [sys.executable, "-m", "docs_build.commands"]
    printed = subprocess.run(start, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True).stdout
    lines = ["# Commands", ""]
    lines += ["`stugan train` and `python -m stugan_tf.train` are the same, and so are the others."]
    lines += ["`stugan list` shows the gin files of the package, `stugan completion bash` (`zsh`,"]
    lines += [
        "`fish`) prints what completes commands and flags: [Installation](../install.md).",
        "",
    ]
    for name, flags in json.loads(printed).items():
        command = all_commands()[name]
        module = command.module.removesuffix(".__main__")
        lines += [
            f"## stugan {name}",
            "",
            f"{command.about}. `python -m {module}` is the same.",
            "",
        ]
        lines += ["| flag | default | meaning |", "| --- | --- | --- |", *_rows(flags), ""]
    return "\n".join(lines)


def _rows(flags: str) -> Iterator[str]:
    """Rows of the flags of a command itself, in the order of their names."""
    for flag in xml.etree.ElementTree.fromstring(flags).iter("flag"):
        if flag.findtext("key") == "yes":
            name, default = flag.findtext("name"), flag.findtext("default") or ""
            is_switch = flag.findtext("type") == "bool"
            shown = f"--{name}" if is_switch else f"--{name}="
            default = "" if default.strip() in ("", "None", "[]", "false") else f"`{default}`"
            meaning = " ".join((flag.findtext("meaning") or "").split())
            meaning = re.sub(r";? ?repeat this option to specify a list of values$", "", meaning)
            if "multi" in (flag.findtext("type") or ""):
                meaning = f"{meaning.rstrip('.')}. May be repeated."
            yield f"| `{shown}`{{.nowrap}} | {default} | {_escaped(meaning)} |"


def _escaped(text: str) -> str:
    return re.sub(r"([|<*])", r"\\\1", text)


def _flags_of(words: list[str]) -> str:
    """What a command prints for `--helpxml`, which it does before it imports TensorFlow."""
    reader, writer = os.pipe()
    if os.fork() == 0:
        try:
            output = io.StringIO()
            sys.argv = ["stugan", *words, "--helpxml"]
            with contextlib.redirect_stdout(output), contextlib.suppress(SystemExit):
                stugan.main()
            with os.fdopen(writer, "w") as file:
                file.write(output.getvalue())
        except Exception:
            traceback.print_exc()
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as file:
        text = file.read()
    os.wait()
    if not text:
        sys.exit(f"stugan {' '.join(words)} --helpxml printed nothing.")
    return text


if __name__ == "__main__":
    import stugan_tf.command  # noqa: F401 - once, before the copies are made

    print(json.dumps({name: _flags_of(name.split()) for name in all_commands()}))
