"""Only `stugan_tf/adapters/` uses private names of other libraries."""

import ast
import collections
import pathlib

import gin
import keras
import pytest
import tensorflow as tf

ROOT = pathlib.Path(__file__).parents[2]
FILES = [
    path for path in sorted((ROOT / "stugan_tf").rglob("*.py")) if "adapters" not in path.parts
]
PRIVATE_MODULES = (
    "tensorflow.python",
    "tensorflow.lite.python",
    "tensorflow_model_optimization.python",
    "keras.src",
)
# Of named tuples, `os` and pools of processes.
OF_PYTHON = {"_replace", "_fields", "_asdict", "_make", "_exit", "_processes"}
LIBRARIES = {"keras": keras, "layers": keras.layers, "tf": tf, "gin": gin}


def is_private(name):
    return name.startswith("_") and not name.startswith("__")


def names_of(text):
    """Private names that a file defines, imports of it, and that it takes from objects."""
    tree = ast.parse(text)
    own, taken, modules, overridden = set(), [], [], []
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                own.add(name)
            case ast.Name(id=name, ctx=ast.Store()):
                own.add(name)
            case ast.Attribute(value=ast.Name(id="self" | "cls"), attr=name, ctx=ast.Store()):
                own.add(name)
            case ast.Attribute(attr=name) if is_private(name):
                taken.append((node.lineno, name))
            case ast.Import(names=names):
                modules += [(node.lineno, alias.name) for alias in names]
            case ast.ImportFrom(module=module, names=names, level=0):
                modules += [(node.lineno, f"{module}.{alias.name}") for alias in names]
        if isinstance(node, ast.ClassDef):
            bases = list(filter(None, map(library_class, node.bases)))
            overridden += [
                (found.lineno, found.name)
                for found in node.body
                if isinstance(found, ast.FunctionDef) and is_private(found.name)
                if any(hasattr(base, found.name) for base in bases)
            ]
    return own, taken, modules, overridden


def library_class(node):
    """The class of a library that an expression such as `keras.layers.Layer` names, or None."""
    module, *attributes = ast.unparse(node).split(".")
    found = LIBRARIES.get(module)
    for attribute in attributes:
        found = getattr(found, attribute, None)
    return found


def faults(files):
    """Lines of {name: text} that use private names of others, and why."""
    parts = {name: names_of(text) for name, text in files.items()}
    own = OF_PYTHON.union(*(names for names, *_ in parts.values()))
    found = collections.defaultdict(list)
    for name, (_, taken, modules, overridden) in parts.items():
        found[name] += [(line, used) for line, used in taken if used not in own]
        found[name] += [(line, used) for line, used in modules if used.startswith(PRIVATE_MODULES)]
        found[name] += overridden
    return {name: used for name, used in found.items() if used}


def test_only_adapters_use_private_names_of_other_libraries():
    found = faults({str(path.relative_to(ROOT)): path.read_text() for path in FILES})
    assert not found, "move these to a file in stugan_tf/adapters/, with a test that fails first"


@pytest.mark.parametrize(
    "text",
    [
        "from tensorflow.python.eager import record",
        "import keras.src.ops",
        "def own():\n    from tensorflow.lite.python import schema_py_generated",
        "gin.config._REGISTRY.items()",
        "history = tensor._keras_history",
        "class A(B):\n    def own(self):\n        return self._var_key(1)",
        "class A(keras.optimizers.Optimizer):\n    def _backend_update_step(self):\n        pass",
        "class A(layers.Layer):\n    def _flatten_layers(self):\n        pass",
    ],
)
def test_private_names_of_others_are_seen(text):
    assert faults({"file": text})


@pytest.mark.parametrize(
    "text",
    [
        "import tensorflow as tf\nfrom tensorflow import keras",
        "class A(keras.layers.Layer):\n    def _own(self):\n        return self._own()",
        "class A:\n    def __init__(self):\n        self._own = self.__class__\nA()._own",
        "point._replace(x=1)",
    ],
)
def test_own_private_names_and_public_ones_are_not_meant(text):
    assert not faults({"file": text})
