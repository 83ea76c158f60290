"""`import stugan_tf as st`: what it offers, and that offering it costs nothing."""

import ast
import importlib
import pathlib
import pkgutil
import subprocess
import sys

import pytest

import stugan_tf as st
from stugan_tf.registration import SAVED

ROOT = pathlib.Path(__file__).parents[1]
HEAVY = ("tensorflow", "keras", "gin", "numpy")


def listed():
    """(module, name) of each line of the table."""
    table = ast.parse((ROOT / "stugan_tf" / "__init__.pyi").read_text())
    for line in table.body:
        if isinstance(line, ast.ImportFrom):
            for alias in line.names:
                assert alias.asname == alias.name  # Else type checkers take it for private.
                yield line.module, alias.name


@pytest.mark.parametrize(("module", "name"), list(listed()))
def test_each_name_is_what_its_module_calls_so(module, name):
    if name == "open_run":
        pytest.importorskip(module)
    if hasattr(importlib.import_module(module), name):
        expected = getattr(importlib.import_module(module), name)
    else:
        expected = importlib.import_module(f"{module}.{name}")
    assert getattr(st, name) is expected


def test_all_and_dir_list_the_table():
    names = [name for _, name in listed()]
    assert st.__all__ == sorted(set(names))
    assert len(names) == len(set(names))
    assert set(names) <= set(dir(st))


def test_no_public_name_hides_a_module():
    assert not set(st.__all__) & {module.name for module in pkgutil.iter_modules(st.__path__)}


def test_a_name_that_is_not_there_is_an_attribute_error():
    with pytest.raises(AttributeError, match=r"'stugan_tf' has no attribute 'sparsfy'"):
        st.sparsfy  # noqa: B018


def test_the_package_and_its_errors_import_nothing_heavy():
    program = (
        "import sys, stugan_tf as st; dir(st); st.InputError\n"
        f"print([name for name in {HEAVY} if name in sys.modules])"
    )
    run = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() == "[]"


def test_a_program_that_has_locked_gin_can_use_it():
    """Parsing locks gin, and our modules register with it when they are imported."""
    program = (
        "import gin, stugan_tf as st\n"
        "gin.parse_config(''); gin.finalize(); st.hinge; st.RigL\n"
        "from stugan_tf.registration import imported; imported('stugan_tf.sparsity.rules', 'GMP')"
    )
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)


def test_all_that_keras_saves_is_found_by_name():
    """Classes that register themselves with Keras are in the table of those that it may load."""
    registered = {
        (node.name, ".".join(path.relative_to(ROOT).with_suffix("").parts))
        for path in (ROOT / "stugan_tf").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ClassDef)
        and any("register_keras_serializable" in ast.unparse(one) for one in node.decorator_list)
    }
    assert registered == set(SAVED.items())
