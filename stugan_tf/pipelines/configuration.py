"""Splits gin files into what components need: text of the training, text of the scores, settings.

The file of a pipeline is the file of a training with further settings. Components run commands that
know nothing about pipelines, perhaps on another machine. So the text is split here, with all its
includes. Components ask for the same text again and again: each text is parsed once.
"""

import dataclasses
import functools
import json
import typing
from collections.abc import Sequence

import gin

from stugan_tf import (
    config,
    models,  # noqa: F401 - registers them with gin
)
from stugan_tf.data import Source, data
from stugan_tf.errors import InputError
from stugan_tf.evaluation.evaluator import Evaluator
from stugan_tf.evaluation.table import METRICS
from stugan_tf.former_settings import MOVED
from stugan_tf.methods import method  # noqa: F401 - registers itself with gin
from stugan_tf.pipelines import NO_FILE
from stugan_tf.pipelines import settings as settings_module
from stugan_tf.pipelines.settings import Settings
from stugan_tf.runs import loop  # noqa: F401 - registers itself with gin
from stugan_tf.runs.scoring import if_installed
from stugan_tf.runs.workdir import fixed_lines

_KINDS = typing.get_type_hints(Settings)
_OURS = {
    *(f"pipelines.{kind.__name__}" for kind in _KINDS.values()),
    *(f"import {name}" for pair in MOVED.items() for name in pair),
}


@dataclasses.dataclass(frozen=True)
class Configuration:
    """The whole configuration of a pipeline, as text.

    Attributes:
        training: gin text for `stugan_tf.train`.
        evaluation: gin text for `stugan_tf.evaluate`, in addition to that of the run.
        pipeline: gin text with the settings of components.
    """

    training: str
    evaluation: str
    pipeline: str

    def to_json(self) -> str:
        """The configuration as one line of text; `from_json` reads it."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Configuration":
        """The configuration that `to_json` wrote."""
        return cls(**json.loads(text))


def read(files: Sequence[str], params: Sequence[str] = ()) -> Configuration:
    """The `Configuration` of gin files and bindings; later ones win.

    Raises:
        InputError: if they are wrong in themselves; `stugan_tf.train --dry_run` finds more.
    """
    if not files:
        raise InputError(NO_FILE)
    config.parse_gin(files, params)
    computed = config.value_of("Evaluator.metrics")
    of_training: list[str] = []
    of_pipeline: list[str] = []
    for selector, text in config.statements(files, params):
        (of_pipeline if selector in _OURS else of_training).append(text)
    pipeline = "".join(of_pipeline)
    found = settings(pipeline)
    evaluation = ""
    if found.score.gin_files or found.score.gin_params:
        of_score = found.score.gin_files, found.score.gin_params
        config.parse_gin(*of_score)
        evaluation = "".join(text for _, text in config.statements(*of_score))
        later = config.value_of("Evaluator.metrics")
        computed = computed if later is None else later
    _check_scores(computed, found.bless)
    return Configuration("".join(of_training), evaluation, pipeline)


def _check_scores(computed, bless):
    """Raises InputError if the blessing needs scores that are not computed; None means all."""
    missing = {*bless.at_most, *bless.at_least, *bless.compare} - set(computed or METRICS)
    if missing:
        raise InputError(
            f"Bless asks for {', '.join(sorted(missing))}, but Evaluator.metrics = {computed!r} "
            "does not have it. Add it there, or change Bless.at_most, Bless.at_least and "
            "Bless.compare, which is ['fid'] if not set."
        )


@functools.cache
def settings(pipeline: str) -> Settings:
    """The `Settings` that gin text configures."""
    config.parse_gin((), [pipeline])
    return Settings(
        **{name: getattr(settings_module, kind.__name__)() for name, kind in _KINDS.items()}
    )


@functools.cache
def canonical(text: str) -> str:
    """Gin text without parts that change nothing: comments, order, overridden and free settings.

    Paths and imports stay as they are.
    """
    config.parse_gin((), [text])
    return "\n".join(fixed_lines(gin.config_str()))


def source(training: str) -> Source:
    """The data source that the gin text of a training chooses."""
    config.parse_gin((), [training])
    return data()


@functools.cache
def scores_while_training(training: str) -> bool:
    """Whether a training uses `Evaluator`, so that `Evaluator.cache_dir` may be set."""
    config.parse_gin((), [training])
    chosen = _referred("train.evaluator")
    if chosen and chosen.wrapper is if_installed:
        chosen = _referred("if_installed.evaluator")
    return chosen is not None and chosen.wrapped is Evaluator


def _referred(setting):
    """The configurable that a setting refers to; None if it is not bound to a reference."""
    try:
        return getattr(gin.query_parameter(setting), "configurable", None)
    except ValueError:
        return None
