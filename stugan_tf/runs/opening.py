"""Opens the run in a folder: to look at it, to draw images, to score it or to export it.

    run = open_run("runs/quickstart")
    images = run.generate(16, seed=0)  # uint8 [16, H, W, C]

The gin configuration of the caller stays as it is, and several runs can be open at once.
"""

import contextlib
import functools
import os
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from stugan_tf import config, models  # noqa: F401 - the models register themselves with gin
from stugan_tf.checks import check_above_zero, check_positive, check_seed
from stugan_tf.choices import BATCH_NORMS, WEIGHTS
from stugan_tf.data import data
from stugan_tf.data.inspection import Inspection
from stugan_tf.data.recorded import RecordedSource
from stugan_tf.data.source import Source
from stugan_tf.errors import InputError
from stugan_tf.evaluation import (
    evaluator,  # noqa: F401 - registers itself with gin
    records,
)
from stugan_tf.evaluation.sampling import Sampler
from stugan_tf.files import local_path, read_json_lines
from stugan_tf.randomness import Purpose, fold
from stugan_tf.runs.checkpoints import Checkpoints
from stugan_tf.runs.loop import Training
from stugan_tf.runs.manifest import read_manifest
from stugan_tf.runs.phases import run_folder
from stugan_tf.runs.status import Status, started, status_of
from stugan_tf.serving.interface import Interface
from stugan_tf.serving.numbering import BLOCK
from stugan_tf.training.strategies import create_strategy

NEEDS_LABELS = (
    "needs a conditional GAN, and this one was trained without labels (GAN.conditional = False). "
    "Leave it out."
)


def open_run(
    workdir: str | os.PathLike[str],
    checkpoint: str | int | None = "latest",
    gin_params: Sequence[str] = (),
    *,
    gin_files: Sequence[str | os.PathLike[str]] = (),
    strategy: str = "one_device",
    execution: str | None = "dense",
    uses: Sequence[str] = (),
) -> "Run":
    """Builds the networks of a run and restores a checkpoint.

    The run's run.json describes its data (image shape, classes), so the data itself need not be
    there.

    Args:
        workdir: folder of a run. For a method of several phases, the folder above them: this opens
            the last phase that has a checkpoint.
        checkpoint: 'latest', 'best' or a step. None restores no checkpoint; call `Run.restore`.
        gin_params: bindings that override those of the run, e.g. `['Evaluator.num_images = 100']`.
        gin_files: paths of gin files that override the run's configuration; `gin_params` override
            them.
        strategy: name of a strategy, see `create_strategy`.
        execution: how masked layers compute, see `Training`; None keeps the run's setting. 'dense'
            draws the same images each time, because it needs no measurement.
        uses: names of configurables that the caller will call inside `Run.configured`. Their
            bindings count as used.

    Returns:
        A `Run`.

    Raises:
        InputError: if there is no run, no such checkpoint, or a binding is wrong.
    """
    for name, given in (("gin_params", gin_params), ("gin_files", gin_files)):
        if isinstance(given, (str, os.PathLike)):
            raise InputError(
                f"{name} of open_run must be a list, got {given!r}. Write [{given!r}]."
            )
    folder = run_folder(local_path(workdir, "--workdir"))
    file = configuration_file(folder)
    with _plain_errors():
        configuration = config.Configuration([file, *gin_files], gin_params)
        run = Run(folder, configuration, strategy, execution, uses)
    if checkpoint is not None:
        run.restore(checkpoint)
    return run


class Run:
    """A run that `open_run` has opened.

    Attributes:
        workdir: absolute path of its folder; of several phases, the folder of the opened one.
        step: step of the restored checkpoint; None before one is restored.
        training: the `Training`, whose variables hold the restored checkpoint.
        gan: the `GAN` of the training.
        strategy: the `tf.distribute.Strategy` that the networks were built for.
        source: the data that the run was trained on, usually a `RecordedSource`.
        interface: the `Interface` of its generator: shapes, and the class names at training time.
    """

    def __init__(
        self,
        folder: pathlib.Path,
        configuration: config.Configuration,
        strategy: str = "one_device",
        execution: str | None = "dense",
        uses: Sequence[str] = (),
    ) -> None:
        """Builds the networks; see `open_run`."""
        self.workdir = folder.absolute()
        self.step: int | None = None
        self._configuration = configuration
        self._sampler: tuple[Any, Sampler] | None = None  # (settings, Sampler)
        with self.configured():
            self.strategy = create_strategy(strategy)  # First, because it may choose devices.
            self.source = _source_of(folder, self._open_data)
            self.training = Training(self.source, self.strategy)
            config.check_all_used(["data", *uses], checked=configuration_file(folder))
        self.gan = self.training.gan
        if execution is not None:
            self.gan.set_execution(execution)
        self.interface = Interface.of_gan(self.gan, self.source)
        self._checkpoints = Checkpoints(self.workdir / "checkpoints", self.training.state())

    @contextlib.contextmanager
    def configured(self) -> Iterator[None]:
        """Inside this context, gin has the configuration of this run; outside it is unchanged."""
        with self._configuration.active():
            yield

    def setting(self, name: str) -> Any:
        """The value bound to 'name.parameter', or None."""
        with self.configured():
            return config.value_of(name)

    @property
    def config(self) -> str:
        """The operative configuration that the run was trained with, as gin text."""
        return configuration_file(self.workdir).read_text(encoding="utf-8")

    @property
    def generator(self) -> keras.Model:
        """The trained generator, a Keras model that makes images in [-1, 1]."""
        return self.gan.generator

    @property
    def discriminator(self) -> keras.Model:
        """The trained discriminator, a Keras model that makes logits [B, 1]."""
        return self.gan.discriminator

    @property
    def average(self) -> keras.Model:
        """The averaged generator, a Keras model; `generate` draws from it by default."""
        return self.gan.averaged.model

    @property
    def name(self) -> str:
        """The name of the folder; of a phase, the name of the folder above it comes first."""
        above = self.workdir.parent
        is_phase = self.workdir in [folder.absolute() for folder in started(above)]
        return f"{above.name}/{self.workdir.name}" if is_phase else self.workdir.name

    @property
    def status(self) -> Status:
        """Where the run stands now."""
        return status_of(self.workdir)

    @property
    def facts(self) -> dict[str, Any]:
        """The present content of run.json: data, seed, versions, commit, resumes."""
        return read_manifest(self.workdir)

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """The present records of metrics.jsonl, dictionaries with `step`."""
        return read_json_lines(self.workdir / "metrics.jsonl")

    @property
    def evaluations(self) -> list[dict[str, Any]]:
        """The present records of evaluations.jsonl, by step; see `records.read`."""
        return records.read(self.workdir)

    @property
    def checkpoints(self) -> list[int]:
        """The steps of the present checkpoints, ascending."""
        return self._checkpoints.steps()

    @functools.cached_property
    def real_images(self) -> Source:
        """The source of real images for scores: the training data of the run.

        If the gin_params or gin_files of `open_run` name other data, the source reads that.
        """
        own = config.Configuration([configuration_file(self.workdir)])
        with own.active():
            before = config.settings_of("data")
        with self.configured():
            now = config.settings_of("data")
        return self.source if before == now else self._open_data()

    def _open_data(self) -> Source:
        with _plain_errors(), self.configured():
            return data()

    def steps(self, which: str, several: bool = False) -> list[int]:
        """The steps of the checkpoints that `which` names, see `named_steps`."""
        return named_steps(self.workdir, self._checkpoints, which, several)

    def restore(self, checkpoint: str | int = "latest") -> int:
        """Restores another checkpoint.

        Args:
            checkpoint: 'latest', 'best' or a step.

        Returns:
            The step of the checkpoint.

        Raises:
            InputError: if there is no such checkpoint, or it is damaged.
        """
        (step,) = self.steps(str(checkpoint))
        self._checkpoints.restore(step)
        self.gan.check_zeros()
        self.step = step
        return step

    def restore_newest(self) -> int | None:
        """Restores the newest intact checkpoint; returns its step, or None without checkpoints."""
        self.step = self._checkpoints.restore_newest()
        if self.step is not None:
            self.gan.check_zeros()
        return self.step

    def sampler(
        self,
        weights: str = "averaged",
        batch_norm: str = "inference",
        truncation: float | None = None,
    ) -> Sampler:
        """A `Sampler` that draws in blocks of 64 images; for the arguments see `generate`."""
        settings = (weights, batch_norm, truncation)
        if self._sampler is None or self._sampler[0] != settings:  # One is compiled at first use.
            averaged = weights == "averaged"
            made = Sampler(self.gan, self.strategy, BLOCK, averaged, batch_norm, truncation)
            self._sampler = settings, made
        return self._sampler[1]

    def generate(
        self,
        n: int,
        seed: int = 0,
        class_id: int | str | Sequence[int | str] | None = None,
        truncation: float | None = None,
        weights: str = "averaged",
        batch_norm: str = "inference",
    ) -> np.ndarray:
        """Draws images; `python -m stugan_tf.sample` shows the same images for the same choices.

        Image number i does not depend on `n`.

        Args:
            n: number of images.
            seed: seed of the latents, and of labels that are drawn.
            class_id: for a conditional GAN, the number or the name of the class to draw, or a list
                of them that are taken in turn. None draws random labels.
            truncation: absolute value at which latents are truncated, e.g. 0.7. None does not
                truncate.
            weights: 'averaged' or 'live'.
            batch_norm: 'inference', 'batch' or 'standing', see `Sampler`.

        Returns:
            uint8 [n, H, W, C].

        Raises:
            InputError: if an argument is wrong, or no checkpoint was restored.
        """
        check_positive("n", n)
        check_seed("seed", seed)
        if truncation is not None:
            check_above_zero("truncation", truncation)
        for name, value, known in (
            ("weights", weights, WEIGHTS),
            ("batch_norm", batch_norm, BATCH_NORMS),
        ):
            if value not in known:
                raise InputError(f"{name} must be one of {', '.join(known)}, got {value!r}.")
        chosen = [] if class_id is None else np.atleast_1d(class_id).tolist()
        if chosen and not self.interface.conditional:
            raise InputError(f"class_id {NEEDS_LABELS}")
        if class_id is not None and not chosen:
            raise InputError("class_id is an empty list. Name a class, or leave it out.")
        chosen = self.interface.numbers_of(chosen, "class_id")
        if self.step is None:
            raise InputError("No checkpoint was restored: call `restore` first.")
        sampler = self.sampler(weights, batch_norm, truncation)
        return sampler.numbered(n, sample_seed(seed), chosen)


def sample_seed(seed: int) -> tf.Tensor:
    """The seed of latents and labels of pictures, int64 [2], made of the seed a user gives."""
    return fold((seed, 0), Purpose.SAMPLES)


@contextlib.contextmanager
def _plain_errors() -> Iterator[None]:
    """Turns bad input into an InputError without the lines that gin adds about its calls."""
    try:
        yield
    except Exception as error:
        message = config.message_of(error)
        if message is None:
            raise
        raise InputError(message) from error


def _source_of(folder: pathlib.Path, open_data: Callable[[], Source]) -> Source:
    """The training data of a run: as run.json describes it, else the data itself."""
    record = Inspection.from_record(read_manifest(folder).get("data"))
    if record is not None:
        return RecordedSource(record, open_data)
    try:
        return open_data()
    except (InputError, OSError) as error:
        raise InputError(
            f"{folder / 'run.json'} does not say what data the run was trained on, and that data "
            f"cannot be read: {error} Restore the data, or run.json from a backup."
        ) from error


def configuration_file(workdir: pathlib.Path) -> pathlib.Path:
    """The path of the configuration file of the run in a folder.

    Raises:
        InputError: if no run was started there.
    """
    file = workdir / "config.gin"
    if not file.is_file():
        raise InputError(f"{workdir} is not the folder of a run: it has no config.gin.")
    return file


def named_steps(
    workdir: pathlib.Path,
    checkpoints: Checkpoints,
    which: str,
    several: bool = False,
    flag: str = "--checkpoint",
) -> list[int]:
    """The steps of the checkpoints that a flag names, ascending.

    Args:
        workdir: folder of the run, for messages.
        checkpoints: the `Checkpoints` of the run.
        which: 'latest', 'best' or a step as text; also 'all' if `several` is True.
        several: whether 'all' is allowed.
        flag: name of the flag, for messages.

    Raises:
        InputError: if there is no such checkpoint.
    """
    there = checkpoints.steps()
    if not there:
        raise InputError(f"{workdir} has no checkpoint yet. Train it first.")
    if which == "all" and several:
        return there
    if which == "latest":
        return there[-1:]
    if which == "best":
        best = checkpoints.best()
        if best is None:
            raise InputError(
                f"No checkpoint in {workdir} was scored during training, so none is the best. "
                "Train with train.evaluator and train.best_by, or choose a step: "
                f"{', '.join(map(str, there))}."
            )
        return [best]
    if not which.isdecimal() or int(which) not in there:
        names = "neither latest, best nor all, nor" if several else "neither latest nor best, nor"
        raise InputError(
            f"{flag}={which} is {names} a step that was kept: {', '.join(map(str, there))}."
        )
    return [int(which)]
