"""Apache Beam: the runner that settings choose, and what its workers share."""

import contextlib
import difflib
import logging
import threading
from collections.abc import Callable, Iterator
from typing import Any

import tensorflow as tf

from stugan_tf.errors import FailedRun, InputError
from stugan_tf.pipelines.settings import Beam

logging.disable(logging.WARNING)  # It warns of clients for Google's cloud that are not there.
try:
    import apache_beam as beam
except ImportError as error:
    raise InputError("Pipelines need Apache Beam: pip install 'stugan_tf[pipelines]'.") from error
finally:
    logging.disable(logging.NOTSET)

TAIL = 2000  # characters of Beam's errors, which end with the reason

# configuration text -> the object built from it in this process
_built: dict[str, Any] = {}
_building = threading.Lock()  # A worker may have several threads.


def pipeline(settings: Beam) -> Any:
    """A `beam.Pipeline` that is run at the end of its `with`.

    Args:
        settings: a `Beam`.
    """
    from apache_beam.options.pipeline_options import PipelineOptions

    options = [f"--runner={settings.runner}", *settings.options]
    runner: Any = settings.runner
    if settings.runner == "DirectRunner":
        # By this name Beam would first try to download and start another runner, Prism.
        from apache_beam.runners.portability.fn_api_runner import FnApiRunner

        runner = FnApiRunner()
        options[0] = "--runner=FnApiRunner"
        if settings.num_workers > 1:
            options += [
                f"--direct_num_workers={settings.num_workers}",
                "--direct_running_mode=multi_processing",
                "--default_sdk_harness_log_level=ERROR",  # They log how they end, line by line.
            ]
    elif settings.num_workers != Beam().num_workers:
        raise InputError(
            f"Beam.num_workers = {settings.num_workers} is for the DirectRunner. For "
            f"{settings.runner} use Beam.options, as Beam's documentation says."
        )
    made = PipelineOptions(options)
    _check_known(made, settings.runner)
    try:
        return beam.Pipeline(runner=runner, options=made)
    except (ValueError, ImportError) as error:
        raise InputError(f"Beam refuses Beam.runner = {settings.runner!r}: {error}") from error


def _check_known(options: Any, runner: str) -> None:
    """Raises InputError if Beam would leave out an option, which it only logs.

    The job server of a cluster may know options that Beam in Python does not. So there an option is
    refused only if it looks like a misspelt one.
    """
    known = options.get_all_options()
    unknown = options.get_all_options(retain_unknown_options=True).keys() - known.keys()
    for name in sorted(unknown):
        near = difflib.get_close_matches(name, known, 1, 0.8)
        if near or runner == "DirectRunner":
            meant = f" Did you mean --{near[0]}?" if near else ""
            raise InputError(f"Beam.options: Beam has no option --{name}.{meant}")


def run(settings: Beam, build: Callable[[Any], None]) -> None:
    """Builds a pipeline by `build(pipeline)` and runs it.

    Raises:
        InputError: if a worker raised one. Beam would show it in hundreds of lines.
        FailedRun: if it failed for another reason.
    """
    try:
        with pipeline(settings) as made:
            build(made)
    except (InputError, FailedRun):
        raise
    except Exception as error:  # Runners wrap errors of workers in classes of their own.
        own = _input_error(error)
        if own is None:
            raise FailedRun(f"Beam's {settings.runner} failed: {str(error)[-TAIL:]}") from error
        raise InputError(own) from error


def shared(text: str, build: Callable[[], Any]) -> Any:
    """The object that `build()` makes from a text, built once in each process.

    A process that has to build it is a worker. There may be many workers, so they use no GPU.
    """
    with _building:
        if text not in _built:
            tf.config.set_visible_devices([], "GPU")
            _built[text] = build()
        return _built[text]


@contextlib.contextmanager
def kept(text: str, built: Any) -> Iterator[None]:
    """While the context is open, `shared` returns `built` in this process."""
    _built[text] = built
    try:
        yield
    finally:
        _built.clear()


def _input_error(error):
    marker = f"{InputError.__name__}: "
    lines = [line for line in str(error).splitlines() if marker in line]
    return lines[-1].partition(marker)[2] if lines else None
