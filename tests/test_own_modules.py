"""Modules of the user's own that count as part of a configuration."""

import pytest

from stugan_tf.own_modules import sources


@pytest.fixture
def folder(tmp_path):
    for name, text in {
        "mine.py": "import numpy\nfrom helping import rules\nimport stugan_tf.checks\n",
        "helping/__init__.py": "",
        "helping/rules.py": "from . import numbers_of_mine as n\nfrom .deep import thing\n",
        "helping/numbers_of_mine.py": "def f():\n    import late\n",
        "helping/deep.py": "thing = 1\n",
        "late.py": "import mine\n",
        "broken.py": "def (",
        "unused.py": "",
        "stugan_tf.py": "raise ValueError",
        "no_package/inner.py": "x = 1\n",
    }.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    return tmp_path


def test_a_module_counts_with_the_own_modules_that_it_imports(folder):
    found = sources(["mine"], [folder])
    helping = ["helping", "helping.deep", "helping.numbers_of_mine", "helping.rules"]
    assert list(found) == [*helping, "late", "mine"]
    assert found["helping.deep"] == "thing = 1\n"


def test_what_is_installed_or_absent_does_not_count(folder):
    assert sources(["numpy", "os.path", "absent", "stugan_tf.checks"], [folder]) == {}
    assert sources(["json", "pytest"]) == {}


def test_a_folder_without_init_and_a_module_that_is_broken_count(folder):
    assert list(sources(["no_package.inner", "broken"], [folder])) == ["broken", "no_package.inner"]


def test_by_default_they_are_in_the_working_directory(folder, monkeypatch):
    monkeypatch.chdir(folder)
    assert list(sources(["late"]))[-1] == "mine"
