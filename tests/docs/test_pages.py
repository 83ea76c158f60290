"""What the pages say of commands, settings, names, code and messages is true."""

import ast
import importlib
import inspect
import re

import pytest

import stugan_tf as st
import stugan_tf.pipelines.settings
import stugan_tf.runs.loop
from docs_build import code as code_of_pages
from stugan_tf import completion
from stugan_tf.adapters.gin_internals import REGISTRY
from tests.helpers import pages
from tests.helpers.pages import PAGES, ROOT

# Without what exports wrote, and without what was true of former versions.
TEXTS = {
    path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
    for path in PAGES
    if path.name not in ("MODEL_CARD.md", "CHANGELOG.md")
}
# Quotes mistakes.
WITH_MISTAKES = "docs/wrong_uses.md"
OURS = ("stugan_tf", "benchmarks", "pipelines")
OF_ABSL = {"help", "helpfull", "helpshort", "version"}


def each_page(*without):
    return pytest.mark.parametrize("page", [name for name in TEXTS if name not in without])


def started(words):
    """(the module that a command starts, its arguments); '' for what is not a command of ours."""
    while re.match(r"[A-Z_]+=", words[0]):
        words = words[1:]
    program = words[0].rpartition("/")[2]
    if program != "stugan":
        return (words[2], words[3:]) if words[2].split(".")[0] in OURS else ("", [])
    if words[1] in ("list", "completion", "COMMAND") or words[1].startswith("-"):
        return "", []
    if words[1] == "pipeline" and (len(words) == 2 or words[2].startswith("-")):
        words = [words[0], "pipeline", "run", *words[2:]]
    name = " ".join(words[1:3]) if words[1] == "pipeline" else words[1]
    return pages.COMMANDS[name].module, words[1 + len(name.split()) :]


def source_of(module):
    """The source of a module or of its `__main__`."""
    path = ROOT / module.replace(".", "/")
    files = [path.with_suffix(".py"), path / "__main__.py"]
    return next(file.read_text(encoding="utf-8") for file in files if file.exists())


def flags_of(module):
    """The flags of a command, or of a benchmark, which has absl's or argparse's."""
    if module.startswith("stugan_tf"):
        is_package = (ROOT / module.replace(".", "/")).is_dir()
        flags = completion.flags_of(f"{module}.__main__" if is_package else module)
        return {flag.strip("-=") for flag in flags}
    source = source_of(module)
    return {*re.findall(r'"--(\w+)"', source), *re.findall(r'DEFINE_\w+\(\s*"(\w+)"', source)}


@each_page()
def test_commands_in_a_page_exist_and_have_these_flags(page):
    for words in pages.command_lines(TEXTS[page]):
        if words[0] == "make":
            targets = re.findall(r"(?m)^([a-z-]+):", (ROOT / "Makefile").read_text())
            assert {word for word in words[1:] if re.fullmatch(r"[a-z-]+", word)} <= {*targets}
            continue
        module, arguments = started(words)
        if not module:
            continue
        if module.startswith("pipelines"):
            module = f"stugan_tf.{module}"
        given = {a.lstrip("-").split("=")[0] for a in arguments if a.startswith("--")}
        known = flags_of(module) | OF_ABSL
        assert {flag for flag in given if flag.removeprefix("no") not in known} <= known, words


def settings():
    """{name of a configurable: the parameters that gin may bind}, None if these are any."""
    found = {}
    for _, configurable in REGISTRY.items():
        parameters = inspect.signature(configurable.wrapped).parameters.values()
        is_open = any(p.kind is p.VAR_KEYWORD for p in parameters)
        names = {p.name for p in parameters} - set(configurable.denylist or ())
        found[configurable.name] = None if is_open else names
    return found


@each_page(WITH_MISTAKES)
def test_settings_in_a_page_exist(page):
    known = settings()
    text = "\n".join([*pages.code(TEXTS[page]), *pages.inline_code(TEXTS[page])])
    # `data.md`, `tickets.gin` and `digits.py` are files.
    setting = r"(?m)(?<![\w./])(?:\w+/)?(\w+)\.(?!(?:md|gin|py)\b)(\w+)(?= = |$)"
    for name, parameter in re.findall(setting, text):
        if known.get(name) is not None:
            assert parameter in known[name], f"{name}.{parameter}"


@each_page()
def test_public_names_in_a_page_exist(page):
    named = set(re.findall(r"(?<![\w.])st\.(\w+)", TEXTS[page]))
    assert named <= {*st.__all__, "__all__", "__version__"}


@each_page()
def test_python_in_a_page_can_be_read_and_its_imports_exist(page):
    for text in pages.code(TEXTS[page]):
        if not re.match(r"(import|from) ", text) or re.search(r"(?m)^include |^\w+\.\w+ = ", text):
            continue  # For a shell or a gin file.
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ImportFrom) and node.module.startswith("stugan_tf"):
                module = importlib.import_module(node.module)
                for alias in node.names:
                    if not hasattr(module, alias.name):
                        importlib.import_module(f"{node.module}.{alias.name}")


@each_page()
def test_links_from_a_page_lead_to_files_and_to_their_code(page):
    """On GitHub, too. A link with the name of code leads to the file that has it."""
    folder = (ROOT / page).parent
    text = re.sub(r"(?ms)^```.*?^```", "", TEXTS[page])
    for label, target in re.findall(r"\[([^\]]*)\]\(\s*([^()\s]+)\s*\)", text):
        if re.match(r"[a-z]+:", target) or target.startswith("#"):
            continue
        path = (folder / target.split("#")[0]).resolve()
        assert path.exists(), target
        if path.suffix == ".py" and label.startswith("`"):
            name = label.strip("`").removeprefix("st.")
            code_of_pages.lines_of(path.relative_to(ROOT).as_posix(), name)
    for file, symbol in code_of_pages.COMMENT.findall(TEXTS[page]):
        code_of_pages.lines_of(file, symbol)


def test_code_that_is_not_there_is_an_error():
    with pytest.raises(code_of_pages.MissingCodeError, match=r"topology.py has no prune_and_grow"):
        code_of_pages.lines_of("stugan_tf/sparsity/topology.py", "prune_and_grow")
    with pytest.raises(code_of_pages.MissingCodeError, match="There is no"):
        code_of_pages.lines_of("stugan_tf/sparsity/topologie.py", "prune")


def test_code_beside_a_page_is_that_of_the_symbol():
    begin, source = code_of_pages.lines_of("stugan_tf/sparsity/rule.py", "PeriodicRule.is_due")
    assert source.startswith("def is_due(self")
    assert "is_multiple" in source
    assert "next_due" not in source
    lines = (ROOT / "stugan_tf/sparsity/rule.py").read_text().splitlines()
    assert lines[begin - 1].strip() == source.splitlines()[0]


def texts_of_the_package():
    """The literals of the package, with … for each value that an f-string or % puts in."""
    for path in (ROOT / "stugan_tf").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                parts = (p.value if isinstance(p, ast.Constant) else "…" for p in node.values)
                yield "".join(parts)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield re.sub(r"%[sd]", "…", node.value)


def test_messages_that_a_page_explains_are_in_the_source():
    rows = re.findall(r"(?m)^\| `([^`]+)` \|", TEXTS["docs/messages.md"])
    assert len(rows) > 20
    written = "\n".join(texts_of_the_package())
    missing = [
        row
        for row in rows
        if not all(part in written for part in re.split(r"…", row) if len(part.strip(" .:,()")) > 3)
    ]
    assert not missing


def test_commands_are_found_in_code_and_in_the_text_of_a_page():
    text = (
        "Use `stugan list` or `train.seed`:\n\n    make test  # Eight minutes.\n"
        "    TF_CONFIG=x .venv/bin/python -m stugan_tf.train --a=1 \\\n        --b='2 3'\n\n"
        "```sh\nstugan train --c\n```\n"
    )
    assert pages.command_lines(text) == [
        ["stugan", "train", "--c"],
        ["make", "test"],
        ["TF_CONFIG=x", ".venv/bin/python", "-m", "stugan_tf.train", "--a=1", "--b=2 3"],
        ["stugan", "list"],
    ]
    assert started(["python", "-m", "stugan_tf.train", "--a"]) == ("stugan_tf.train", ["--a"])
    assert started(["stugan", "pipeline", "--a"]) == ("stugan_tf.pipelines.run", ["--a"])
    assert "gin_file" in flags_of("stugan_tf.train")
    assert "gin_fil" not in flags_of("stugan_tf.train")
