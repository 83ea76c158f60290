"""The frame of every command: gin flags, exit codes, and errors without a traceback.

Import it before TensorFlow: it silences TensorFlow's log. TF_CPP_MIN_LOG_LEVEL=0 shows the log.
"""

import contextlib
import errno
import os
import sys
from collections.abc import Callable, Iterator

from absl import app, flags, logging

from stugan_tf import config
from stugan_tf.errors import InputError
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
if os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3") == "3":
    # No setting silences what TensorFlow writes while it is imported.
    with _standard_error_closed():
        import tensorflow  # noqa: F401

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
        app.run(end)


def _exit_code(main: Callable[[list[str]], None], argv: list[str]) -> int:
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
