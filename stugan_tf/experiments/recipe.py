"""What a cell is made of, and the name that follows from it.

A name ends in a digest of the configuration: of the gin files' statements, not of their paths or
comments, and of the bindings. So cells of several tables that ask for the same run are one run, and
one whose configuration has changed since is another.
"""

import functools
import hashlib
import io
import pathlib
import re
import tokenize

from stugan_tf.errors import InputError

_DIGITS = 10


def gin_folder():
    """The folder `gin/` that file names of grids are below: here, or of the checkout."""
    folders = [pathlib.Path("gin"), pathlib.Path(__file__).parents[2] / "gin"]
    for folder in folders:
        if (folder / "methods").is_dir():
            return folder
    raise InputError(
        "There is no folder gin/ with the configurations of the experiments; looked in "
        f"{', '.join(str(folder.absolute()) for folder in folders)}. Start from a checkout."
    )


def missing_files(cells, folder):
    """{gin file that a cell needs and that is not there: labels of the cells' lines}."""
    missing = {}
    for cell in cells:
        for file in cell.files:
            if not (folder / file).is_file():
                missing.setdefault(file, set()).add(cell.line)
    return missing


def check_files(cells, folder):
    """Raises InputError if a cell needs a gin file that is not there."""
    missing = missing_files(cells, folder)
    if missing:
        listed = "\n".join(
            f"  {folder / file}, for {', '.join(sorted(lines))}" for file, lines in missing.items()
        )
        raise InputError(
            f"These gin files are missing:\n{listed}\nAdd them, or choose other rows by --line."
        )


def name_of(cell, folder, extra_files=(), extra_bindings=()):
    """The name of a cell's folder, such as `sngan_cifar10-stu-G0.95-D0.5-s0-1234567890`.

    Args:
        cell: a `Cell`, all of whose files exist.
        folder: where its files are.
        extra_files: paths of gin files that follow the cell's.
        extra_bindings: gin bindings that follow the cell's.
    """
    files = [folder / file for file in cell.files] + [pathlib.Path(file) for file in extra_files]
    bindings = (*cell.bindings, *extra_bindings)
    digest = hashlib.sha256()
    for text in (*(statements(file) for file in files), *bindings):
        digest.update(text.encode() + b"\0")
    methods = [file.stem for file in files if file.parent.name == "methods"]
    parts = [files[0].stem, *methods]
    for name, letter in (("generator", "G"), ("discriminator", "D")):
        values = [b.split("=")[1].strip() for b in bindings if b.startswith(f"GAN.{name}_sparsity")]
        parts += [f"{letter}{value}" for value in values[-1:]]
    parts += [f"s{cell.seed}", digest.hexdigest()[:_DIGITS]]
    return "-".join(parts)


def statements(path):
    """A gin file without comments, with what it includes in place.

    Raises:
        InputError: if an included file is not there.
    """
    lines = []
    for line in _without_comments(path.read_text()).splitlines():
        included = re.match(r"include\s+['\"](.+)['\"]", line)
        if included:
            beside = path.parent / included[1]
            file = beside if beside.is_file() else pathlib.Path(included[1])
            if not file.is_file():
                raise InputError(f"{path} includes {included[1]}, which is not there.")
            lines.append(statements(file))
        elif line.strip():
            lines.append(line.rstrip())
    return "\n".join(lines)


@functools.cache  # Few files make many cells.
def _without_comments(text):
    """Gin's tokens are Python's, so a `#` in a string is none."""
    lines = text.splitlines(keepends=True)
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            row, column = token.start
            lines[row - 1] = lines[row - 1][:column] + "\n"
    return "".join(lines)
