"""The gin files of a cell, and the name of its folder.

The name ends in a digest of the configuration: of the statements in the gin files, without paths
and comments, of the bindings, and of the modules of the user that the files import. So cells of
several tables with the same configuration are one run, and a changed configuration is another run.
"""

import functools
import hashlib
import io
import pathlib
import tokenize

from gin.config_parser import BindingStatement

from stugan_tf import config, gin_files, own_modules
from stugan_tf.errors import InputError

_DIGITS = 10
# The scores of base files. The evaluation of every preset sets all of this again, so it is not part
# of a name.
_SCORES = "evaluation/efficientnet_lite0.gin"


def gin_folder() -> pathlib.Path:
    """The folder with the gin files of the grids: in the working directory or the package's."""
    own = pathlib.Path("gin")
    return own if (own / "methods").is_dir() else gin_files.folder()


def missing_files(cells, folder):
    """{missing gin file: labels of the lines of the cells that need it}."""
    missing = {}
    for cell in cells:
        for file in cell.files:
            if not (folder / file).is_file():
                missing.setdefault(file, set()).add(cell.line)
    return missing


def check_files(cells, folder):
    """Raises InputError if a cell needs a gin file that is missing."""
    missing = missing_files(cells, folder)
    if missing:
        listed = "\n".join(
            f"  {folder / file}, for {', '.join(sorted(lines))}" for file, lines in missing.items()
        )
        raise InputError(
            f"These gin files are missing:\n{listed}\nAdd them, or choose other rows by --line."
        )


class Names:
    """Names of cells' folders, such as `sngan_cifar10-stu-G0.95-D0.5-s0-1234567890`.

    Each gin file is read once.
    """

    def __init__(self, folder, extra_files=(), extra_bindings=()):
        """Keeps the settings.

        Args:
            folder: folder of the cells' files.
            extra_files: paths of gin files that follow those of each cell.
            extra_bindings: gin bindings that follow those of each cell.
        """
        self._folder = folder
        self._extra_files = [pathlib.Path(file) for file in extra_files]
        self._extra_bindings = tuple(extra_bindings)
        self._texts = {}
        self._modules = {}

    def name_of(self, cell):
        """The name of the folder of a `Cell`, all of whose files exist."""
        files = [self._folder / file for file in cell.files] + self._extra_files
        bindings = (*cell.bindings, *self._extra_bindings)
        own = (self._text_of(self._folder / file) for file in cell.files)
        texts = (
            *(text.replace(self._scores, "") for text in own),
            *map(self._text_of, self._extra_files),
            *bindings,
        )
        digest = hashlib.sha256()
        for text in texts:
            digest.update(text.encode() + b"\0")
        for name, source in self._own_modules(texts).items():
            digest.update(f"{name}\0{source}\0".encode())
        methods = [file.stem for file in files if file.parent.name == "methods"]
        bound = dict(setting for binding in bindings for setting in _bound(binding))
        sparsities = [
            f"{letter}{bound[name]}"
            for letter, name in (
                ("G", "GAN.generator_sparsity"),
                ("D", "GAN.discriminator_sparsity"),
            )
            if name in bound
        ]
        seed = f"s{cell.seed}"
        return "-".join([files[0].stem, *methods, *sparsities, seed, digest.hexdigest()[:_DIGITS]])

    def _own_modules(self, texts):
        """{name: source} of the user's modules that texts of gin import."""
        names = frozenset().union(*map(_imports_in, texts))
        if names not in self._modules:
            self._modules[names] = own_modules.sources(names)
        return self._modules[names]

    def _text_of(self, file):
        if file not in self._texts:
            self._texts[file] = text_of(file)
        return self._texts[file]

    @functools.cached_property
    def _scores(self):
        file = self._folder / _SCORES
        return f"{text_of(file)}\n" if file.is_file() else "\0"


@functools.lru_cache(maxsize=1024)
def _imports_in(text):
    return frozenset(config.imported(text))


@functools.lru_cache(maxsize=1024)  # Cells share most of their bindings.
def _bound(binding):
    """((name, value), ...) of what a gin binding binds without a scope."""
    return tuple(
        (f"{statement.selector}.{statement.arg_name}", statement.value)
        for statement, _ in config.written(bindings=[binding])
        if isinstance(statement, BindingStatement) and not statement.scope
    )


def text_of(file: pathlib.Path) -> str:
    """The statements of a gin file without comments, with included files in place.

    Raises:
        InputError: if an included file is missing or is not gin.
    """
    text = "".join(text for _, text in config.written([file]))
    lines = text.splitlines(keepends=True)
    for token in tokenize.generate_tokens(io.StringIO(text).readline):  # Gin's are Python's.
        if token.type == tokenize.COMMENT:
            row, column = token.start
            lines[row - 1] = lines[row - 1][:column]
    return "\n".join(line.rstrip() for line in lines if line.strip())
