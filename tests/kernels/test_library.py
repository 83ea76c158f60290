import concurrent.futures
import errno
import functools
import os
import pathlib
import platform
import shutil
import stat
import sys
import textwrap

import pytest

from stugan_tf.kernels import library

# A compiler that answers in no time: what it builds is no library.
COMPILER = """
    #!/bin/sh
    case "$*" in --version) echo version 1; exit ;; esac
    while [ "$1" != -o ]; do shift; done
    echo not a library > "$2"
"""
FAILING = """
    #!/bin/sh
    case "$*" in --version) echo version 1; exit ;; esac
    echo "tiles.cc: no such instruction"
    exit 1
"""


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache, and nothing loaded or set by the user."""
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("STUGAN_TF_KERNEL_FLAGS", raising=False)
    forget(monkeypatch)
    return tmp_path / "cache" / "stugan_tf" / "kernels"


@pytest.fixture
def use_compiler(cache, tmp_path, monkeypatch):
    def use(script):
        path = tmp_path / "compiler"
        path.write_text(textwrap.dedent(script).lstrip())
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setenv("CXX", str(path))

    return use


def forget(monkeypatch):
    """As in a new process: `load` tries once in each."""
    monkeypatch.setattr(library, "try_once", functools.cache(library.try_once.__wrapped__))


def test_without_a_compiler_the_error_names_it_and_what_to_set(cache, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler -O3")
    for _ in range(2):
        with pytest.raises(
            library.KernelsUnavailableError,
            match=r"no compiler 'no-such-compiler'; install g\+\+ or set CXX",
        ):
            library.load()
    assert not cache.exists()


def test_an_empty_cxx_means_the_usual_compiler(cache, monkeypatch):
    monkeypatch.setenv("CXX", "")
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(library.KernelsUnavailableError, match=r"no compiler 'g\+\+'"):
        library.load()


def test_on_another_platform_the_error_says_which_it_is_for(monkeypatch):
    forget(monkeypatch)
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    with pytest.raises(
        library.KernelsUnavailableError, match=r"for Linux on x86-64, this is .* on aarch64"
    ):
        library.load()


def test_a_failed_build_leaves_a_log_and_says_where(cache, use_compiler):
    use_compiler(FAILING)
    with pytest.raises(library.KernelsUnavailableError, match="could not be compiled") as caught:
        library.load()
    log = cache / "failed_build.txt"
    assert str(log) in str(caught.value)
    assert "tiles.cc: no such instruction" in log.read_text()
    assert "-std=c++17" in log.read_text()
    assert list(cache.iterdir()) == [log]


def test_a_failed_build_ends_when_all_its_compilers_have(cache, use_compiler):
    """They would else write into a folder that is being removed."""
    use_compiler(
        COMPILER.replace(
            "while", 'case "$*" in *operations.cc*) exit 1 ;; esac\n    sleep 0.3; while'
        )
        + '    touch "$0.done"\n'
    )
    with pytest.raises(library.KernelsUnavailableError, match="could not be compiled"):
        library.load()
    assert pathlib.Path(f"{os.environ['CXX']}.done").exists()
    assert [path.name for path in cache.iterdir()] == ["failed_build.txt"]


def test_a_folder_that_cannot_be_written_to_is_named(cache, use_compiler, tmp_path):
    use_compiler(COMPILER)
    (tmp_path / "cache").write_text("a file where a folder must be")
    with pytest.raises(
        library.KernelsUnavailableError, match=rf"{cache} cannot be .*; set XDG_CACHE_HOME"
    ):
        library.load()


def test_a_folder_that_cannot_be_looked_into_is_named(cache, use_compiler, monkeypatch):
    """Of another user's home, say: `exists` raises. (Tests may run as root, who may look.)"""
    use_compiler(COMPILER)

    def refuse(path):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(pathlib.Path, "exists", refuse)
    with pytest.raises(library.KernelsUnavailableError, match=r"\(Permission denied\); set XDG"):
        library.load()


def test_a_damaged_library_is_removed_and_built_anew_by_the_next_process(
    cache, use_compiler, monkeypatch
):
    use_compiler(COMPILER)
    path = library.build()
    assert path.read_text() == "not a library\n"
    with pytest.raises(library.KernelsUnavailableError, match="was removed; start again") as caught:
        library.load()
    assert str(path) in str(caught.value)
    assert not path.exists()
    # This process stays without: its layers compute in one way from start to end.
    with pytest.raises(library.KernelsUnavailableError, match="start again"):
        library.load()
    assert not path.exists()
    forget(monkeypatch)
    assert library.build() == path
    assert path.exists()


def test_what_was_built_is_not_built_again(cache, use_compiler):
    use_compiler(COMPILER)
    path = library.build()
    path.write_text("kept")
    assert library.build() == path
    assert path.read_text() == "kept"


def test_whatever_changes_the_result_changes_the_name(cache, use_compiler, tmp_path, monkeypatch):
    sources = tmp_path / "sources"
    shutil.copytree(library.SOURCES, sources)
    use_compiler(COMPILER)
    names = [library.fingerprint()]
    monkeypatch.setattr(library, "SOURCES", sources)
    assert library.fingerprint() == names[0]
    for name in ("operations.cc", "tiles.cc", "pattern.h", "sparse_convolution.h"):
        with open(sources / name, "a", encoding="utf-8") as file:
            file.write("// A change.\n")
        names.append(library.fingerprint())
    (sources / "another.h").write_text("")
    names.append(library.fingerprint())
    use_compiler(COMPILER.replace("version 1", "version 2"))
    names.append(library.fingerprint())
    monkeypatch.setenv("STUGAN_TF_KERNEL_FLAGS", "-g")
    names.append(library.fingerprint())
    monkeypatch.setattr(library.tf.version, "VERSION", "another")
    names.append(library.fingerprint())
    assert len(set(names)) == len(names) == 9


def test_builds_at_once_do_no_harm(cache, use_compiler):
    use_compiler(COMPILER.replace("while", "sleep 0.2\n    while"))
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        paths = list(pool.map(lambda _: library.build(), range(4)))
    assert list(cache.iterdir()) == [paths[0]]
    assert len(set(paths)) == 1
    assert paths[0].read_text() == "not a library\n"


def test_the_flags_of_the_user_reach_every_command(cache, use_compiler, monkeypatch):
    use_compiler(FAILING)
    monkeypatch.setenv("STUGAN_TF_KERNEL_FLAGS", "-fsanitize=address '-DNAME=a b'")
    with pytest.raises(library.KernelsUnavailableError):
        library.load()
    assert "-fsanitize=address '-DNAME=a b'" in (cache / "failed_build.txt").read_text()
