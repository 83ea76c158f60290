"""All commands under one name: `stugan train --gin_file=quickstart.gin`.

`stugan train` is `python -m stugan_tf.train`, and so are the others. `python -m stugan_tf` is
`stugan`, for a Python whose scripts are not on the PATH.
"""

import difflib
import importlib.metadata
import runpy
import sys
from collections.abc import Mapping, Sequence

from stugan_tf import gin_files
from stugan_tf.completion import SHELLS, Command, script
from stugan_tf.errors import InputError
from stugan_tf.tables import columns
from stugan_tf.telling import standard_streams_guarded

COMMANDS = {
    "train": Command("stugan_tf.train", "Train a GAN"),
    "evaluate": Command("stugan_tf.evaluate", "Score checkpoints or an exported generator"),
    "sample": Command("stugan_tf.sample", "Draw images of a generator"),
    "export": Command("stugan_tf.export", "Export a trained generator"),
    "demo": Command("stugan_tf.demo.__main__", "Show exported generators in the browser"),
    "report": Command("stugan_tf.report", "Print networks layer by layer"),
    "shard": Command("stugan_tf.shard", "Write a folder of images as TFRecord shards"),
    "experiments": Command("stugan_tf.experiments.__main__", "Train the tables of the paper"),
}
PIPELINE = {
    "run": Command("stugan_tf.pipelines.run", "Go from data to a served model"),
    "compile": Command("stugan_tf.pipelines.compile", "Write a pipeline for Kubeflow or Vertex AI"),
    "rollback": Command("stugan_tf.pipelines.rollback", "Serve an earlier version again"),
    "lineage": Command("stugan_tf.pipelines.lineage", "Show where a served version comes from"),
    "statistics": Command("stugan_tf.pipelines.statistics", "Compute features by Apache Beam"),
}
OTHERS = {
    "pipeline": f"From data to a served model: {', '.join(PIPELINE)}",
    "list": "List the gin files of the package",
    "completion": f"Print what completes commands and flags in {', '.join(SHELLS)}",
}
_HELP = ("help", "-h", "-help", "--help")


def main() -> None:
    """Runs the command that the arguments name."""
    name, *rest = sys.argv[1:] or [""]
    try:
        if name == "pipeline":
            sub = rest.pop(0) if rest and not rest[0].startswith("-") else "run"
            _start(_chosen(PIPELINE, sub, "stugan pipeline"), rest)
        elif name in COMMANDS:
            _start(COMMANDS[name], rest)
        else:
            with standard_streams_guarded():
                _print(name, rest)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)


def _start(command: Command, flags: Sequence[str]) -> None:
    sys.argv[1:] = flags
    runpy.run_module(command.module, run_name="__main__", alter_sys=True)


def _chosen(commands: Mapping[str, Command], name: str, of: str) -> Command:
    """The command of a name, or an InputError with the nearest one."""
    if name not in commands:
        near = difflib.get_close_matches(name, commands, n=1)
        meant = f"Did you mean '{near[0]}'?" if near else f"There are {', '.join(commands)}."
        raise InputError(f"`{of}` has no command '{name}'. {meant}")
    return commands[name]


def _print(name: str, rest: Sequence[str]) -> None:
    """Prints what needs no command of its own."""
    if name == "" or name in _HELP:
        print(_overview())
        sys.exit(0 if name else 1)
    if name == "--version":
        print(importlib.metadata.version("stugan_tf"))
    elif name == "list" and not rest:
        print(_listed())
    elif name == "completion" and len(rest) == 1 and rest[0] in SHELLS:
        commands = {**COMMANDS, "pipeline": Command("", OTHERS["pipeline"], PIPELINE)}
        commands |= {name: Command("", OTHERS[name]) for name in ("list", "completion")}
        print(script(rest[0], commands, gin_files.all_files()), end="")
    elif name == "completion":
        raise InputError(f"Name a shell: stugan completion {'|'.join(SHELLS)}.")
    elif name == "list":
        raise InputError(f"`stugan list` takes no arguments, got {' '.join(rest)}.")
    else:
        _chosen(COMMANDS | dict.fromkeys(OTHERS, COMMANDS["train"]), name, "stugan")


def _overview() -> str:
    rows = [(f"  {name}", command.about) for name, command in COMMANDS.items()]
    rows += [(f"  {name}", about) for name, about in OTHERS.items()]
    return (
        f"Sparse-to-sparse training of GANs.\n\n{columns(rows)}\n\n"
        "`stugan COMMAND --help` shows the flags of a command. To begin:\n\n"
        "  stugan train --gin_file=quickstart.gin"
    )


def _listed() -> str:
    """The gin files with the first sentence of each."""
    rows = [(file, gin_files.first_sentence(file)) for file in gin_files.all_files()]
    return (
        f"{columns(rows)}\n\nThey lie in {gin_files.folder()}. --gin_file and `include` find them "
        "from anywhere, after your own files of the same names."
    )


if __name__ == "__main__":
    main()
