"""The command `stugan`, and what each command does before TensorFlow is imported."""

import contextlib
import io
import json
import pathlib
import re
import shutil
import subprocess
import sys

import pytest

from stugan_tf import __main__ as stugan
from stugan_tf import completion, config, gin_files
from stugan_tf.errors import InputError

ALL = {**stugan.COMMANDS, **{f"pipeline {name}": one for name, one in stugan.PIPELINE.items()}}

# Runs each command in a copy of this process: how it ends, what it prints, what it imports.
PROGRAM = """
import contextlib, io, json, os, sys
from stugan_tf import __main__ as stugan, command
HEAVY = ("tensorflow", "keras", "scipy", "sklearn", "matplotlib", "apache_beam", "streamlit")
for arguments in json.loads(sys.argv[1]):
    if os.fork():
        os.wait()
        continue
    output, code = io.StringIO(), None
    sys.argv = ["stugan", *arguments]
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
        try:
            stugan.main()
        except SystemExit as end:
            code = end.code
    heavy = [name for name in HEAVY if name in sys.modules]
    os.write(1, (json.dumps([code, output.getvalue(), heavy]) + chr(10)).encode())
    os._exit(0)
"""


def run(*commands):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps(commands)],
        capture_output=True,
        text=True,
        check=True,
    )
    return [json.loads(line) for line in done.stdout.splitlines()]


def printed(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["stugan", *arguments])
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        stugan.main()
    return output.getvalue()


def test_help_and_wrong_flags_are_told_without_tensorflow():
    words = [name.split() for name in ALL]
    wrong = [[*command, "--gin_fil=x"] for command in words]
    found = run(*([*command, "--help"] for command in words), *wrong, *words)
    helps, misspelt, missing = (
        found[start : start + len(words)] for start in range(0, 3 * len(words), len(words))
    )
    assert not any(heavy for _, _, heavy in found)
    assert all("flags:" in text for _, text, _ in helps)
    unknown = "Unknown command line flag 'gin_fil'"
    assert all(code == 1 and unknown in text for code, text, _ in misspelt)
    assert all(code == 1 and text.startswith("error: ") for code, text, _ in missing)


def test_the_list_has_each_gin_file_with_its_first_sentence(monkeypatch):
    listed = printed(monkeypatch, "list")
    for path in gin_files.folder().rglob("*.gin"):
        line = re.search(
            rf"^{path.relative_to(gin_files.folder())}  +(\w.*)$", listed, re.MULTILINE
        )
        assert path.read_text().replace("\n# ", " ").startswith(f"# {line.group(1)}")
    assert str(gin_files.folder()) in listed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["trian"], "`stugan` has no command 'trian'. Did you mean 'train'?"),
        (["lst"], "`stugan` has no command 'lst'. Did you mean 'list'?"),
        (["x"], "`stugan` has no command 'x'. There are train, evaluate,"),
        (
            ["pipeline", "rolback"],
            "`stugan pipeline` has no command 'rolback'. Did you mean",
        ),
        (["list", "methods"], "`stugan list` takes no arguments, got methods."),
        (["completion"], "Name a shell: stugan completion bash|zsh|fish."),
    ],
)
def test_a_wrong_command_suggests_the_nearest(monkeypatch, capsys, arguments, message):
    monkeypatch.setattr(sys, "argv", ["stugan", *arguments])
    with pytest.raises(SystemExit) as end:
        stugan.main()
    assert end.value.code == 1
    assert capsys.readouterr().err.startswith(f"error: {message}")


@pytest.mark.parametrize("file", ["methods/static.gin", "gin/methods/static.gin"])
def test_a_file_of_the_package_is_found_from_anywhere(tmp_path, monkeypatch, file):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.gin").write_text(f"include '{file}'\n")
    shipped = (gin_files.folder() / "methods/static.gin").read_text()
    for found in (file, "mine.gin"):
        text = "".join(text for _, text in config.written([found]))
        assert (
            text.strip()
            == "\n".join(line for line in shipped.splitlines() if not line.startswith("#")).strip()
        )
    # The user's own file wins.
    (tmp_path / file).parent.mkdir(parents=True)
    (tmp_path / file).write_text("own = 1\n")
    for found in (file, "mine.gin"):
        assert [text for _, text in config.written([found])] == ["own = 1\n"]


@pytest.mark.parametrize(
    ("given", "suggestion"),
    [
        ("statc.gin", "Did you mean 'methods/static.gin'?"),
        ("methods/statc.gin", "Did you mean 'methods/static.gin'?"),
        ("zzz.gin", "`stugan list` shows the files of the package."),
    ],
)
def test_a_misspelt_file_of_the_package_is_suggested(tmp_path, monkeypatch, given, suggestion):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError) as error:
        list(config.written([given]))
    assert str(error.value).endswith(suggestion)
    for named in re.findall(r"'([^']*\.gin)'", suggestion):
        assert (gin_files.folder() / named).is_file()


def test_completion_knows_the_flags_that_the_commands_define():
    """Read from the source, without importing a command."""
    helps = run(*([*name.split(), "--help"] for name in ALL))
    for (_, text, _), command in zip(helps, ALL.values(), strict=True):
        shown = set(re.findall(r"^  --(?:\[no\])?(\w+):", text, re.MULTILINE))
        assert {flag.strip("-=") for flag in completion.flags_of(command.module)} >= shown > set()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["tr"], ["train"]),
        (["train", "--gin_f"], ["--gin_file="]),
        (["train", "--gin_file", "=", "methods/sta"], ["methods/static.gin"]),
        (["sample", "--cl"], ["--class_id=", "--classes"]),
        (["pipeline", "ro"], ["rollback"]),
        (["pipeline", "rollback", "--v"], ["--version="]),
        (["completion", ""], ["bash", "zsh", "fish"]),
        (["train", "--workdir", "=", ""], []),
    ],
)
def test_bash_completes(monkeypatch, words, expected):
    script = printed(monkeypatch, "completion", "bash")
    typed = " ".join(f"'{word}'" for word in ["stugan", *words])
    ask = f"COMP_WORDS=({typed}); COMP_CWORD={len(words)}; _stugan 2>/dev/null"
    done = subprocess.run(
        ["bash", "-c", f'{script}\n{ask}\nprintf "%s\\n" "${{COMPREPLY[@]}}"'],
        capture_output=True,
        text=True,
        check=True,
    )
    found = [line for line in done.stdout.splitlines() if line]
    assert found[: len(expected)] == expected
    assert bool(found) == bool(expected)


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_can_read_their_script(monkeypatch, tmp_path, shell):
    if shutil.which(shell) is None:
        pytest.skip(f"there is no {shell}")
    path = tmp_path / "script"
    path.write_text(printed(monkeypatch, "completion", shell))
    subprocess.run([shell, "-n", path], check=True)


def test_pipelines_are_started_in_a_checkout_by_their_former_name():
    root = pathlib.Path(__file__).parents[1]
    start = [sys.executable, "-m", "pipelines.rollback"]
    done = subprocess.run(start, cwd=root, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("error: --serving is missing")


def test_gin_files_that_name_the_former_module_are_read():
    config.parse_gin((), ["import pipelines.settings", "Ingest.num_shards = 3"])
    assert config.value_of("pipelines.Ingest.num_shards") == 3
    config.parse_gin()
