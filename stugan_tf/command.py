"""The frame of every command: gin flags, exit codes, and errors without a traceback.

A command has its flags first, then what checks them, and then, in `late_imports`, all that takes
seconds to import. So help is shown, and a mistake is told, before TensorFlow is there.
"""

import contextlib
import errno
import os
import sys
from collections.abc import Callable, Iterable, Iterator

from absl import app, flags, logging

from stugan_tf import config
from stugan_tf.errors import InputError
from stugan_tf.registration import gin_unlocked
from stugan_tf.telling import GuardedStream, open_standard_descriptors, standard_streams_guarded


@contextlib.contextmanager
def _standard_error_closed() -> Iterator[None]:
    saved = os.dup(2)
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)


open_standard_descriptors()
# Processes that this one starts inherit these settings. No command shows a window. Notebooks name a
# backend of Matplotlib that only their own Python has, and Keras imports Matplotlib.
os.environ["MPLBACKEND"] = "Agg"
# Silences TensorFlow's log, if TensorFlow is not there yet; 0 shows it.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# TensorFlow has oneDNN, but leaves it off on processors without VNNI, where it halves the time of a
# training step, too. Once TensorFlow is there it would change other processes only.
if "tensorflow" not in sys.modules:
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

flags.DEFINE_multi_string("gin_file", [], "Path of a gin file; later ones override earlier ones")
flags.DEFINE_multi_string(
    "gin_param", [], "A gin binding such as 'Algorithm.total_steps = 100'; overrides the files"
)

_ADVICE = {
    errno.ENOSPC: "Free some space; the same command started again goes on from there.",
    errno.EDQUOT: "Free some quota; the same command started again goes on from there.",
    errno.EROFS: "Choose a folder that can be written to.",
    errno.EACCES: "Change its permissions or choose another path.",
    errno.EPERM: "Change its permissions or choose another path.",
}


# TensorFlow imports Keras, and Keras imports these if they are there, for what no command does:
# `keras.visualization`, `keras.wrappers`, data frames in `fit`. That took a quarter of the time.
_NOT_FOR_COMMANDS = ("matplotlib", "pandas", "sklearn")
# What parsing the flags of this command left over, between `late_imports` and `run`.
_left_over: list[str] | None = None


@contextlib.contextmanager
def late_imports(module: str, check: Callable[[], object] = lambda: None) -> Iterator[None]:
    """A context for the imports of a command that take seconds, and TensorFlow without its log.

    If the module was started as a command, its flags are parsed before anything is imported. Help
    and wrong flags end the command there.

    Args:
        module: `__name__` of the module.
        check: raises InputError if the flags are wrong whatever the data and the networks are.
    """
    global _left_over
    if module == "__main__":
        with standard_streams_guarded():
            app.define_help_flags()
            left_over = app.parse_flags_with_usage(sys.argv)
            code = _exit_code(lambda _: check(), left_over)
        if code:
            sys.exit(code)
        _left_over = left_over
    try:
        with _hidden(_NOT_FOR_COMMANDS) if module == "__main__" else contextlib.nullcontext():
            import_tensorflow()
        with gin_unlocked():  # A program may start a command after it has parsed gin files.
            yield
    except KeyboardInterrupt:
        if module != "__main__":
            raise
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    except InputError as error:  # A package that the command needs cannot be imported.
        if module != "__main__":
            raise
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)


@contextlib.contextmanager
def _hidden(names: Iterable[str]) -> Iterator[None]:
    """A context in which these modules cannot be imported, unless they have been."""
    hidden = [name for name in names if name not in sys.modules]
    for name in hidden:
        sys.modules[name] = None  # type: ignore[assignment]  # An import then is an error.
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]


def import_tensorflow() -> None:
    """Imports TensorFlow and Keras, and hides what they write to stderr while they are imported.

    No setting silences that. TF_CPP_MIN_LOG_LEVEL=0 shows it.
    """
    quiet = os.environ.get("TF_CPP_MIN_LOG_LEVEL") == "3" and "tensorflow" not in sys.modules
    with _standard_error_closed() if quiet else contextlib.nullcontext():
        import keras  # noqa: F401 - TF_USE_LEGACY_KERAS=1 leaves it to others
        import tensorflow  # noqa: F401


def _parsed(argv: list[str]) -> list[str]:
    """Parses the flags, unless `late_imports` has parsed them."""
    global _left_over
    left_over, _left_over = _left_over, None
    return app.parse_flags_with_usage(argv) if left_over is None else left_over


def run(main: Callable[[list[str]], None], prints_result: bool = False) -> None:
    """Parses the flags, runs `main(argv)` and exits: 0 done, 1 bad input, 130 interrupted.

    A stdout or stderr that cannot be written to does not end the command.

    Args:
        main: the command.
        prints_result: whether its result is what it prints. Then a stdout that could not be written
            is an error; only a reader that had enough, such as `head`, is not.
    """

    def end(argv: list[str]) -> None:
        code = _exit_code(main, argv)
        lost = _lost(output)
        sys.exit(1 if lost and prints_result and code == 0 else code)

    with standard_streams_guarded() as (output, _):
        app.run(end, flags_parser=_parsed)


def started_as(name: str) -> list[str]:
    """How a user starts another command in the way that this one was started.

    Args:
        name: name of a command of `stugan`, such as "train".
    """
    program, *arguments = sys.orig_argv
    script = next((one for one in arguments if not one.startswith("-")), "")
    if os.path.basename(script) == "stugan":
        return ["stugan", name]
    return [program, "-m", f"stugan_tf.{name}"]


def _exit_code(main: Callable[[list[str]], object], argv: list[str]) -> int:
    logging.set_verbosity(logging.WARNING)
    try:
        if argv[1:]:
            raise InputError(
                f"Unexpected arguments: {' '.join(argv[1:])}. Every option starts with `--`; put "
                "values that hold spaces in quotes."
            )
        main(argv)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except Exception as error:
        message = config.message_of(error) or _storage_message(error)
        if message is None:
            raise
        print(f"error: {message}", file=sys.stderr)
        return 1
    return 0


def _lost(output: GuardedStream) -> bool:
    """Whether some of what was printed on stdout is lost, which is told on stderr."""
    output.flush()
    if output.failure is None or getattr(output.failure, "errno", None) == errno.EPIPE:
        return False
    reason = getattr(output.failure, "strerror", None) or output.failure
    print(f"error: not all of stdout could be written: {reason}.", file=sys.stderr)
    return True


def _storage_message(error: Exception) -> str | None:
    """A message about a disk that refuses to write; None for every other error.

    Such an error is known by its text: TensorFlow has its own error classes, and an error that
    passed through gin has lost its `errno`.
    """
    for code, advice in _ADVICE.items():
        if os.strerror(code) in str(error):
            return f"{str(error).splitlines()[0]}. {advice}"
    return None
