"""Builds the C++ operations, once for each TensorFlow and compiler, and loads them.

This happens on first use, not at installation. An operation belongs to one version of TensorFlow,
which an isolated build does not know, and the package can be installed and used without a compiler.
A wheel of `make wheel` holds the operations for one TensorFlow; with another one they are built.

`python -m stugan_tf.kernels.library FOLDER` builds them for such a wheel.
"""

import functools
import hashlib
import os
import pathlib
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from typing import Any

import tensorflow as tf
from absl import logging

from stugan_tf.files import cache_folder

SOURCES = pathlib.Path(__file__).parent
_OPERATIONS = "operations.cc"
_INNER_LOOPS = "tiles.cc"
# Name in sparse_convolution.h, lanes, height and width of the larger tile, compiler flags.
_INSTRUCTION_SETS = (
    ("kBaseline", 4, 2, 4, ()),
    ("kX86V3", 8, 2, 4, ("-mavx2", "-mfma")),
    (
        "kX86V4",
        16,
        2,
        4,
        ("-mavx2", "-mfma", "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mavx512cd"),
    ),
)


class KernelsUnavailableError(RuntimeError):
    """The sparse kernels cannot run here. The message says why."""


def load() -> Any:
    """Loads the operations, a module of functions. Builds them if needed.

    Raises:
        KernelsUnavailableError: if this is not Linux on x86-64, or if there is no compiler or no
            folder to build in.
    """
    loaded = try_once()
    if isinstance(loaded, KernelsUnavailableError):
        raise loaded
    return loaded


@functools.cache
def try_once():
    """The operations, or the error; what failed is not tried again in this process."""
    try:
        path = build()
        if path == _prebuilt():
            try:
                return tf.load_op_library(str(path))
            except tf.errors.OpError as error:  # The C library here may be older.
                logging.warning("%s could not be loaded: %s", path, error)
                path = _built()
        return _load_library(path)
    except KernelsUnavailableError as error:
        return error


def build() -> pathlib.Path:
    """Compiles the operations unless that was done before, or a wheel holds them.

    The compiler is g++, or the one that CXX names. STUGAN_TF_KERNEL_FLAGS adds flags, such as
    -fsanitize=address. If one of the two is set, what a wheel holds is not used.

    Returns:
        Path of the shared library.

    Raises:
        KernelsUnavailableError: if they cannot be compiled here.
    """
    if sys.platform != "linux" or platform.machine() != "x86_64":
        raise KernelsUnavailableError(
            f"they are for Linux on x86-64, this is {platform.system()} on {platform.machine()}"
        )
    chosen = os.environ.get("CXX") or os.environ.get("STUGAN_TF_KERNEL_FLAGS")
    return _prebuilt() if not chosen and _prebuilt().exists() else _built()


def _prebuilt():
    """Where a wheel has the operations for the TensorFlow that is installed, if it has them."""
    return SOURCES / "prebuilt" / f"{_fingerprint(())}.so"


def _built():
    """The library in the cache; compiles it if it is not there."""
    compiler = _compiler()
    if shutil.which(compiler[0]) is None:
        raise KernelsUnavailableError(
            f"there is no compiler {compiler[0]!r}; install g++ or set CXX"
        )
    library = cache_folder() / "kernels" / f"{_fingerprint(compiler)}.so"
    try:
        if not library.exists():
            library.parent.mkdir(parents=True, exist_ok=True)
            # Renamed when complete, so that processes which build at once do no harm.
            with tempfile.TemporaryDirectory(dir=library.parent) as folder:
                _compile(compiler, pathlib.Path(folder)).replace(library)
    except OSError as error:
        raise KernelsUnavailableError(
            f"{library.parent} cannot be written to ({error.strerror}); set XDG_CACHE_HOME"
        ) from error
    return library


def _compiler():
    return shlex.split(os.environ.get("CXX") or "g++")


def fingerprint() -> str:
    """A digest of the sources, the compiler and TensorFlow: it names the build."""
    return build().stem


def _fingerprint(compiler):
    """Names the build of a compiler; the one in a wheel, which may be of any, if that is ()."""
    parts = [source.read_bytes() for source in sorted(SOURCES.glob("*.[ch]*"))]
    if compiler:
        command = [*compiler, "--version"]
        parts.append(subprocess.run(command, capture_output=True, check=False).stdout)
    parts += [tf.version.VERSION.encode(), tf.version.GIT_VERSION.encode()]
    parts += [repr((compiler, _flags() if compiler else (), _INSTRUCTION_SETS)).encode()]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]


def _flags():
    extra = shlex.split(os.environ.get("STUGAN_TF_KERNEL_FLAGS", ""))
    return ["-O3", "-std=c++17", "-fPIC", "-DSTUGAN_X86_64", *extra]


def _compile(compiler, folder):
    logging.warning("Building the sparse kernels, once: about 20 seconds.")
    commands = {"operations.o": [_OPERATIONS, *tf.sysconfig.get_compile_flags()]}
    for name, lanes, height, width, flags in _INSTRUCTION_SETS:
        sizes = f"-DLANES={lanes}", f"-DTILE_HEIGHT={height}", f"-DTILE_WIDTH={width}"
        commands[f"{name}.o"] = [_INNER_LOOPS, f"-DINSTRUCTION_SET={name}", *sizes, *flags]
    processes = [
        _start([*compiler, *_flags(), "-w", "-c", str(SOURCES / source), *rest, "-o", target])
        for target, (source, *rest) in ((folder / name, c) for name, c in commands.items())
    ]
    _finish(processes)
    library = folder / "kernels.so"
    objects = [folder / name for name in commands]
    link = [*compiler, *_flags(), "-shared", *objects, *tf.sysconfig.get_link_flags()]
    _finish([_start([*link, "-o", library])])
    return library


def _start(command):
    return subprocess.Popen(
        [str(word) for word in command], stderr=subprocess.STDOUT, stdout=subprocess.PIPE, text=True
    )


def _finish(processes):
    # Wait for all of them: after the first failure the folder that they write to is removed.
    outputs = [process.communicate()[0] for process in processes]
    for process, output in zip(processes, outputs, strict=True):
        if process.returncode:
            log = cache_folder() / "kernels" / "failed_build.txt"
            log.write_text(f"{shlex.join(process.args)}\n{output}")
            raise KernelsUnavailableError(f"they could not be compiled; {log} says why")


def _load_library(path):
    try:
        return tf.load_op_library(str(path))
    except tf.errors.OpError as error:  # A damaged file. The next process builds it again.
        path.unlink(missing_ok=True)
        raise KernelsUnavailableError(
            f"{path} could not be loaded ({error}) and was removed; start again to rebuild it"
        ) from error


def _build_for_wheel(folder: str) -> None:
    """Compiles the operations into a folder, under the name by which `build` finds them."""
    target = pathlib.Path(folder, _prebuilt().name)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as aside:
        shutil.copyfile(_compile(_compiler(), pathlib.Path(aside)), target)
    print(target)


if __name__ == "__main__":
    _build_for_wheel(sys.argv[1])
