"""Builds the WebAssembly module of pages: `make wasm`.

It is part of stugan_tf, so that `export --format=html` needs no compiler: `stugan.wasm`, and
`stugan.wasm.json`, which says of what and by which compiler. It needs CMake, and Zig from the path
or from the wheel `ziglang`. The first build takes minutes: Zig compiles its C++ library.

    python runtime/build_wasm.py           # builds it
    python runtime/build_wasm.py --check   # says whether it is that of the sources here
"""

import argparse
import hashlib
import importlib.util
import json
import pathlib
import shutil
import subprocess
import sys
import tempfile

RUNTIME = pathlib.Path(__file__).parent
ROOT = RUNTIME.parent
MODULE = ROOT / "stugan_tf" / "serving" / "web" / "stugan.wasm"
RECORD = MODULE.with_name("stugan.wasm.json")
TARGET = "wasm32-wasi"
_KERNELS = ("layout.h", "machine.h", "sparse_convolution.h", "tiles.cc", "tiling.h")


def sources() -> dict[str, str]:
    """The SHA-256 of each file that the module is made of, by its path in the repository."""
    paths = [RUNTIME / "CMakeLists.txt", RUNTIME / "cmake" / "zig.cmake"]
    paths += [path for folder in ("src", "include") for path in (RUNTIME / folder).glob("*")]
    paths += [ROOT / "stugan_tf" / "kernels" / name for name in _KERNELS]
    return {path.relative_to(ROOT).as_posix(): digest(path) for path in sorted(paths)}


def digest(path: pathlib.Path) -> str:
    """The SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def changed() -> list[str]:
    """What is not as it was when the module was built: paths in the repository."""
    record = json.loads(RECORD.read_text(encoding="utf-8"))
    now, then = sources(), record["sources"]
    differing = [path for path in now | then if now.get(path) != then.get(path)]
    return differing + ([] if digest(MODULE) == record["sha256"] else [MODULE.name])


def zig() -> str | None:
    """Path of Zig, or None."""
    if found := shutil.which("zig"):
        return found
    wheel = importlib.util.find_spec("ziglang")
    return str(pathlib.Path(wheel.origin).with_name("zig")) if wheel and wheel.origin else None


def build(target: str, folder: pathlib.Path) -> pathlib.Path:
    """Builds the library for another target by Zig.

    Args:
        target: name of the target, such as 'aarch64-linux-musl'.
        folder: where to build.

    Returns:
        Path of the library or the module.

    Raises:
        FileNotFoundError: if there is no Zig.
        subprocess.CalledProcessError: if it cannot be built.
    """
    compiler = zig()
    if compiler is None:
        raise FileNotFoundError("There is no Zig. Install it: pip install ziglang")
    settings = {
        "CMAKE_TOOLCHAIN_FILE": RUNTIME / "cmake" / "zig.cmake",
        "STUGAN_TARGET": target,
        "STUGAN_ZIG": compiler,
    }
    configure = ["-S", RUNTIME, "-B", folder, *(f"-D{name}={to}" for name, to in settings.items())]
    for command in (configure, ["--build", folder]):
        subprocess.run([sys.executable, "-m", "cmake", *command], check=True)
    return folder / ("stugan.wasm" if target.startswith("wasm") else "libstugan.so")


def main() -> int:
    """Builds or checks, and returns 0 if all is right."""
    arguments = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    arguments.add_argument("--check", action="store_true", help="build nothing, compare digests")
    if arguments.parse_args().check:
        for path in changed():
            print(f"{path} has changed. Run `make wasm`.")
        return 1 if changed() else 0
    made_of = sources()
    with tempfile.TemporaryDirectory() as folder:
        shutil.copyfile(build(TARGET, pathlib.Path(folder)), MODULE)
    version = subprocess.run([zig(), "version"], check=True, capture_output=True, text=True).stdout
    record = {
        "compiler": f"zig {version.strip()}",
        "sha256": digest(MODULE),
        "size": MODULE.stat().st_size,
        "sources": made_of,
    }
    RECORD.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    print(f"{MODULE}: {record['size']:,} bytes, built by {record['compiler']}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
