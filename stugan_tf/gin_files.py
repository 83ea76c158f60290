"""The gin files that come with the package: `gin/` of a checkout, `stugan_tf/gin/` of a wheel."""

import functools
import pathlib
import re

_PACKAGE = pathlib.Path(__file__).parent


@functools.cache
def folder() -> pathlib.Path:
    """The folder of the gin files."""
    packed = _PACKAGE / "gin"
    return packed if packed.is_dir() else _PACKAGE.parent / "gin"


def all_files() -> list[str]:
    """The paths of the gin files below `folder()`, such as `methods/static.gin`."""
    files = [path.relative_to(folder()).as_posix() for path in folder().rglob("*.gin")]
    return sorted(files, key=lambda file: (file.count("/"), file))


def folders_for(file: pathlib.Path) -> list[pathlib.Path]:
    """The folders below which a relative path may be a file of the package.

    `methods/static.gin` and `gin/methods/static.gin` are the same file.
    """
    return [folder().parent if file.parts[:1] == ("gin",) else folder()]


def first_sentence(file: str) -> str:
    """The first sentence of the comment at the top of a file of the package."""
    comment = []
    for line in (folder() / file).read_text(encoding="utf-8").splitlines():
        if not line.startswith("#") or line.startswith("#  "):  # A command.
            break
        comment.append(line.removeprefix("#").strip())
    # "et al. 2023" and "Fig. 2" do not end a sentence.
    return re.split(r"(?<=\.)\s+(?=[A-Z])", " ".join(comment))[0].rstrip(":.")
