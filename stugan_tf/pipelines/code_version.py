"""The version of code and libraries that a result depends on, by content.

A commit is not used, because most commits do not touch most components: a change in serving is no
reason to train again.
"""

import functools
import hashlib
import importlib.metadata
import importlib.util
import os
import pathlib

from stugan_tf import config, own_modules

ROOT = pathlib.Path(__file__).resolve().parents[2]
LIBRARIES = ("tensorflow", "keras", "numpy")
SUFFIXES = (".py", ".cc", ".h", ".npz")


@functools.cache
def of_code(*names: str) -> str:
    """A digest of files and of the versions of libraries, 16 hexadecimal digits.

    Args:
        *names: files and folders, relative to the folder that holds the package.
    """
    digest = hashlib.sha256()
    for library in LIBRARIES:
        digest.update(f"{library} {importlib.metadata.version(library)}\n".encode())
    for name in names:
        for path in _files(ROOT / name):
            digest.update(f"{path.relative_to(ROOT).as_posix()}\0".encode())
            digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:16]


def of_imports(text: str) -> dict[str, str]:
    """{module: digest of 16 hexadecimal digits} for the modules that a configuration imports.

    Modules of the user's own count with those that they import, installed ones by themselves.
    """
    names = config.imported(text)
    found = {
        name: hashlib.sha256(source.encode()).hexdigest()[:16]
        for name, source in own_modules.sources(names).items()
    }
    for name in names:
        spec = importlib.util.find_spec(name)
        if spec is None or not spec.origin or not os.path.isfile(spec.origin):
            continue
        source = pathlib.Path(spec.origin)
        paths = _files(source.parent) if source.name == "__init__.py" else [source]
        digest = hashlib.sha256(b"".join(path.read_bytes() for path in paths))
        found[name] = digest.hexdigest()[:16]
    return found


def _files(path):
    if path.is_file():
        return [path]
    files = sorted(found for found in path.rglob("*") if found.suffix in SUFFIXES)
    assert files, path
    return files
