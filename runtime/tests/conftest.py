"""Builds the library once, and writes sparse files from graphs."""

import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT.parent)]


def pytest_configure():
    """Builds the library, unless STUGAN_RUNTIME_LIBRARY names one that is built."""
    if os.environ.get("STUGAN_RUNTIME_LIBRARY"):
        return
    build = ROOT / "build"
    configure = ["-S", ROOT, "-B", build, "-DSTUGAN_EMULATE_HALVES=ON"]
    for command in (configure, ["--build", build, "--parallel"]):
        subprocess.run(
            [sys.executable, "-m", "cmake", *command], check=True, stdout=subprocess.DEVNULL
        )
    os.environ["STUGAN_RUNTIME_LIBRARY"] = str(build / "libstugan.so")
