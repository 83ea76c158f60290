"""Imports point down, from room to room, as docs/design.md section 2 says."""

import ast
import graphlib
import pathlib

ROOT = pathlib.Path(__file__).parents[1]

COMMANDS = ("evaluate", "export", "report", "sample", "shard", "train")
LIBRARY = {"data", "layers", "sparsity"}
METHOD = {*LIBRARY, "models", "training", "evaluation", "serving", "config"}
WHOLE = {*METHOD, "runs", "methods", "command"}

# Room -> rooms that it may import. All may import `anyone()`, which may import nothing else.
ARROWS = {
    **dict.fromkeys(COMMANDS, WHOLE),
    "pipelines": WHOLE,
    "experiments": WHOLE,
    "demo": {"serving", "command"},
    "methods": {*METHOD, "runs"},
    "runs": METHOD,
    "fit": {*LIBRARY, "models", "training", "evaluation", "config"},
    "training": LIBRARY,
    "evaluation": LIBRARY,
    "serving": LIBRARY,
    "models": {"layers"},
    "sparsity": {"layers"},
    "layers": {"kernels"},
    "kernels": set(),
    "data": set(),
    "command": {"config"},
    "config": set(),
}

# (module, room): what nevertheless is imported, and why.
EXCEPTIONS = {
    ("stugan_tf.evaluation.digits_classifier.train", "command"): "the module is a command",
}


def anyone():
    """The files of the package that are not a command: errors, checks, files and the like."""
    files = {path.stem for path in (ROOT / "stugan_tf").glob("*.py")}
    return {*files - {"__init__"} - set(ARROWS), "adapters"}


def room_of(module):
    """`stugan_tf.data.order` is in the room `data`."""
    package, *inside = module.split(".")
    return inside[0] if package == "stugan_tf" and inside else package


def imports():
    """(module, room it imports from, line) of each import of ours, those in functions included."""
    for path in sorted((ROOT / "stugan_tf").rglob("*.py")):
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for node in ast.walk(ast.parse(path.read_text())):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                assert not node.level, f"{path}:{node.lineno}: imports name the whole module"
                names = [f"{node.module}.{alias.name}" for alias in node.names]
            for name in names:
                ours = name.startswith("stugan_tf.")
                # Names of `stugan_tf` itself, such as `__version__`, are in no room.
                if ours and "__" not in name.split(".")[1]:
                    yield module.removesuffix(".__init__"), room_of(name), node.lineno


def test_imports_point_down():
    shared = anyone()
    wrong = [
        f"{module}:{line} imports from {below}"
        for module, below, line in imports()
        if below not in {room_of(module), *ARROWS.get(room_of(module), set()), *shared}
        and (module, below) not in EXCEPTIONS
    ]
    assert not wrong, "\n".join(wrong)


def test_the_map_names_every_room_and_has_no_cycle():
    folders = {path.parent.name for path in (ROOT / "stugan_tf").glob("*/__init__.py")}
    assert folders <= {*ARROWS, "adapters"}
    graphlib.TopologicalSorter(ARROWS).prepare()


def test_no_exception_has_outlived_its_import():
    assert set(EXCEPTIONS) <= {(module, below) for module, below, _ in imports()}
