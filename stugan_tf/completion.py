"""Scripts by which bash, zsh and fish complete the commands, flags and gin files of `stugan`.

The flags are read from the sources: importing the commands would take seconds.
"""

import ast
import importlib.util
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

SHELLS = ("bash", "zsh", "fish")
_OF_EVERY_COMMAND = "stugan_tf.command"


class Command(NamedTuple):
    """A command of `stugan`.

    Attributes:
        module: the module that is started; '' if it starts none.
        about: what it does, in a few words.
        commands: the commands below it.
    """

    module: str
    about: str
    commands: Mapping[str, "Command"] = {}


def flags_of(module: str) -> list[str]:
    """The flags of a command, with those that the frame adds: `--flag=`, or `--flag` of a bool."""
    spec = importlib.util.find_spec(module)
    assert spec, module
    found = []
    for node in ast.walk(ast.parse(pathlib.Path(spec.origin or "").read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        if node.func.attr.startswith("DEFINE_"):
            value = "" if node.func.attr == "DEFINE_bool" else "="
            found.append(f"--{ast.literal_eval(node.args[0])}{value}")
        elif node.func.attr == "adopt_module_key_flags":
            found += flags_of(_OF_EVERY_COMMAND)
    return sorted(found)


def script(shell: str, commands: Mapping[str, Command], gin_files: Sequence[str]) -> str:
    """The script for one of `SHELLS`.

    Args:
        shell: its name.
        commands: {name: `Command`} of `stugan`.
        gin_files: what completes `--gin_file=`, besides files.
    """
    return {"bash": _bash, "zsh": _zsh, "fish": _fish}[shell](commands, " ".join(gin_files))


def _started(commands: Mapping[str, Command]) -> Iterator[tuple[str, list[str]]]:
    """(words that start a command, its flags) for each command that has flags."""
    for name, command in commands.items():
        if command.module:
            yield name, flags_of(command.module)
        for words, flags in _started(command.commands):
            yield f"{name} {words}", flags


def _cases(commands: Mapping[str, Command]) -> str:
    """Branches of a shell's `case` of the first two words that set `choices`."""
    lines = [
        f"        '{words}{'' if ' ' in words else ' '}'*) choices='{' '.join(flags)}' ;;"
        for words, flags in _started(commands)
    ]
    for name, command in commands.items():
        below = " ".join(command.commands) or " ".join(SHELLS if name == "completion" else ())
        if below:
            lines.append(f"        '{name} '*) choices='{below}' ;;")
    return "\n".join(lines)


def _bash(commands: Mapping[str, Command], gin_files: str) -> str:
    return f"""# eval "$(stugan completion bash)" in ~/.bashrc
_stugan() {{
    local word=${{COMP_WORDS[COMP_CWORD]}} before=${{COMP_WORDS[COMP_CWORD - 1]}} choices=
    # Bash takes the = of --flag=value as a word of its own.
    if [[ $before == = ]]; then
        before=${{COMP_WORDS[COMP_CWORD - 2]}}
    elif [[ $word == = ]]; then
        word=
    else
        before=
    fi
    if [[ $before == --gin_file ]]; then
        choices='{gin_files}'
    elif [[ -z $before ]] && ((COMP_CWORD == 1)); then
        choices='{" ".join(commands)}'
    elif [[ -z $before ]]; then
        case "${{COMP_WORDS[1]}} ${{COMP_WORDS[2]}}" in
{_cases(commands)}
        esac
    fi
    COMPREPLY=($(compgen -W "$choices" -- "$word"))
    if [[ ${{COMPREPLY[0]}} == *= ]]; then compopt -o nospace; fi
}}
complete -o default -F _stugan stugan
"""


def _zsh(commands: Mapping[str, Command], gin_files: str) -> str:
    return f"""# eval "$(stugan completion zsh)" in ~/.zshrc, after compinit
_stugan() {{
    local start="$words[2] $words[3]"
    if ((CURRENT == 2)); then
        compadd {" ".join(commands)}
        return
    fi
    if [[ $PREFIX == --*=* ]]; then
        local flag=${{PREFIX%%=*}}
        compset -P '*='
        [[ $flag == --gin_file ]] && compadd {gin_files}
        _files
        return
    fi
    local choices=
    case $start in
{_cases(commands)}
    esac
    compadd -S '' -- ${{=choices}}
}}
compdef _stugan stugan
"""


def _fish(commands: Mapping[str, Command], gin_files: str) -> str:
    lines = ["# stugan completion fish | source, in ~/.config/fish/config.fish"]
    for name, command in commands.items():
        first = f"complete -c stugan -n __fish_use_subcommand -f -a {name}"
        lines.append(f"{first} -d '{command.about}'")
        for below in command.commands or (SHELLS if name == "completion" else ()):
            seen = f"__fish_seen_subcommand_from {name}"
            lines.append(f"complete -c stugan -n '{seen}' -f -a {below}")
    for words, flags in _started(commands):
        seen = "; and ".join(f"__fish_seen_subcommand_from {word}" for word in words.split())
        for flag in flags:
            value = " -r" if flag.endswith("=") else ""
            value += f" -a '{gin_files}'" if flag == "--gin_file=" else ""
            lines.append(f"complete -c stugan -n '{seen}' -l {flag.strip('-=')}{value}")
    return "\n".join(lines) + "\n"
