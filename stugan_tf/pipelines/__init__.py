"""Ingest, train, evaluate, export, bless, push: see docs/pipelines.md."""

import importlib.util

from stugan_tf.errors import InputError

NO_FILE = "--gin_file is missing. Try --gin_file=pipelines/digits.gin."


def check_installed(*modules: str) -> None:
    """Raises InputError if a package of the extra for pipelines is not installed."""
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    if missing:
        raise InputError(
            f"Pipelines need {' and '.join(missing)}: install it by "
            "`pip install 'stugan_tf[pipelines]'`."
        )
