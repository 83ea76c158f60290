"""Opens the run of a folder: to look at it, to draw from it, to score or to export it.

    run = open_run("runs/quickstart")
    images = run.generate(16, seed=0)  # uint8 [16, H, W, C]

The gin configuration of the caller stays as it is, and several runs can be open at once.
"""

import contextlib
import functools

import numpy as np

from stugan_tf import config, models  # noqa: F401 - the models register themselves with gin
from stugan_tf.checks import check_above_zero, check_positive, check_seed
from stugan_tf.data import data
from stugan_tf.data.inspection import Inspection
from stugan_tf.data.recorded import RecordedSource
from stugan_tf.errors import InputError
from stugan_tf.evaluation import (
    evaluator,  # noqa: F401 - registers itself with gin
    records,
)
from stugan_tf.evaluation.sampling import BATCH_NORMS, Sampler
from stugan_tf.files import local_path, read_json_lines
from stugan_tf.randomness import Purpose, fold
from stugan_tf.runs.checkpoints import Checkpoints
from stugan_tf.runs.loop import Training
from stugan_tf.runs.manifest import read_manifest
from stugan_tf.runs.phases import run_folder
from stugan_tf.runs.status import status_of
from stugan_tf.serving.interface import Interface
from stugan_tf.training.strategies import create_strategy

BLOCK = 64  # images computed at once; batch statistics are those of a block
WEIGHTS = ("averaged", "live")
NEEDS_LABELS = (
    "needs a conditional GAN, and this one was trained without labels (GAN.conditional = False). "
    "Leave it out."
)


def open_run(
    workdir,
    checkpoint="latest",
    gin_params=(),
    *,
    gin_files=(),
    strategy="one_device",
    execution="dense",
    uses=(),
):
    """Builds the networks of a run and gives them the weights of a checkpoint.

    What the run was trained on is read from its run.json: the data need not be there.

    Args:
        workdir: folder of a run, or of phases: then the last that has a checkpoint is opened.
        checkpoint: 'latest', 'best' or a step; None restores none, see `Run.restore`.
        gin_params: bindings that replace those of the run, e.g. `['Evaluator.num_images = 100']`.
        gin_files: paths of gin files; they hold before `gin_params`.
        strategy: name of a strategy, see `create_strategy`.
        execution: how masked layers compute, see `Training`; None is as configured. 'dense' is not
            measured first, so that the same images come out each time.
        uses: names of configurables that the caller is going to call in `Run.configured`: their
            bindings have a use.

    Returns:
        A `Run`.

    Raises:
        InputError: if there is no run, no such checkpoint, or a binding is wrong.
    """
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
        workdir: absolute path of its folder, of several phases that of the one opened.
        step: of the checkpoint that was restored; None before that.
        training: the `Training`; its variables are those of the checkpoint.
        gan: the `GAN` in it.
        strategy: the `tf.distribute.Strategy` it was made for.
        source: what it was trained on, usually a `RecordedSource`.
        interface: the `Interface` of its generator: shapes, and classes by their names of then.
    """

    def __init__(self, folder, configuration, strategy="one_device", execution="dense", uses=()):
        """Builds what is configured; see `open_run`."""
        self.workdir = folder.absolute()
        self.step = None
        self._configuration = configuration
        self._sampler = None  # (settings, Sampler)
        with self.configured():
            self.strategy = create_strategy(strategy)  # First: it may have to choose devices.
            self.source = _source_of(folder, self._open_data)
            self.training = Training(self.source, self.strategy)
            config.check_all_used(also=["data", *uses])
        self.gan = self.training.gan
        if execution is not None:
            self.gan.set_execution(execution)
        self.interface = Interface.of_gan(self.gan, self.source)
        self._checkpoints = Checkpoints(self.workdir / "checkpoints", self.training.state())

    @contextlib.contextmanager
    def configured(self):
        """Inside, gin's configuration is that of this run; outside it is as it was."""
        with self._configuration.active():
            yield

    def setting(self, name):
        """What is bound to 'name.parameter', or None."""
        with self.configured():
            return config.value_of(name)

    @property
    def config(self):
        """The operative configuration the run was trained by, as text for gin."""
        return configuration_file(self.workdir).read_text()

    @property
    def generator(self):
        """The trained generator, a Keras model to images in [-1, 1]."""
        return self.gan.generator

    @property
    def discriminator(self):
        """The trained discriminator, a Keras model to logits [B, 1]."""
        return self.gan.discriminator

    @property
    def average(self):
        """The averaged generator, a Keras model; what `generate` draws from by default."""
        return self.gan.averaged.model

    @property
    def status(self):
        """Where the run stands now, a `Status`."""
        return status_of(self.workdir)

    @property
    def facts(self):
        """What run.json says now: data, seed, versions, commit, resumes."""
        return read_manifest(self.workdir)

    @property
    def metrics(self):
        """The records of metrics.jsonl as they are now, dictionaries with `step`."""
        return read_json_lines(self.workdir / "metrics.jsonl")

    @property
    def evaluations(self):
        """The records of evaluations.jsonl as they are now, by step; see `records.read`."""
        return records.read(self.workdir)

    @property
    def checkpoints(self):
        """The steps of the checkpoints that are there now, ascending."""
        return self._checkpoints.steps()

    @functools.cached_property
    def real_images(self):
        """The source to compare generated images with: what the run was trained on.

        If gin_params or gin_files of `open_run` chose other data, it is that.
        """
        own = config.Configuration([configuration_file(self.workdir)])
        with own.active():
            before = config.settings_of("data")
        with self.configured():
            now = config.settings_of("data")
        return self.source if before == now else self._open_data()

    def _open_data(self):
        with _plain_errors(), self.configured():
            return data()

    def steps(self, which, several=False):
        """The steps of the checkpoints of a name, see `named_steps`."""
        return named_steps(self.workdir, self._checkpoints, which, several)

    def restore(self, checkpoint="latest"):
        """Gives the networks the weights of another checkpoint.

        Args:
            checkpoint: 'latest', 'best' or a step.

        Returns:
            Its step.

        Raises:
            InputError: if there is no such checkpoint, or it is damaged.
        """
        (step,) = self.steps(str(checkpoint))
        self._checkpoints.restore(step)
        self.step = step
        return step

    def restore_newest(self):
        """Restores the newest intact checkpoint; returns its step, or None if there is none."""
        self.step = self._checkpoints.restore_newest()
        return self.step

    def sampler(self, weights="averaged", batch_norm="inference", truncation=None):
        """A `Sampler` of the generator in blocks of 64 images; for the arguments see `generate`."""
        settings = (weights, batch_norm, truncation)
        if self._sampler is None or self._sampler[0] != settings:  # One is compiled at first use.
            averaged = weights == "averaged"
            made = Sampler(self.gan, self.strategy, BLOCK, averaged, batch_norm, truncation)
            self._sampler = settings, made
        return self._sampler[1]

    def generate(
        self,
        n,
        seed=0,
        class_id=None,
        truncation=None,
        weights="averaged",
        batch_norm="inference",
    ):
        """Draws images, the same that `python -m stugan_tf.sample` shows for these choices.

        Image number i does not depend on `n`.

        Args:
            n: how many.
            seed: of latents and, where they are drawn, labels.
            class_id: the class of a conditional GAN to draw, or a list of them, taken in turn; None
                draws labels.
            truncation: latents are cut off here, e.g. 0.7; None is nowhere.
            weights: 'averaged' or 'live'.
            batch_norm: 'inference', 'batch' or 'standing', see `Sampler`.

        Returns:
            uint8 [n, H, W, C].

        Raises:
            InputError: for a wrong argument, or before a checkpoint was restored.
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
        check_classes("class_id", chosen, self.interface)
        if self.step is None:
            raise InputError("No checkpoint was restored: call `restore` first.")
        sampler, folded = self.sampler(weights, batch_norm, truncation), sample_seed(seed)
        # Whole blocks, so that even batch statistics do not depend on `n`.
        latents, labels = sampler.inputs(-(-n // BLOCK) * BLOCK, folded)
        if chosen:
            labels = np.resize(np.int32(chosen), len(labels))
        return np.concatenate(list(sampler.images_of(latents, labels, folded)))[:n]


def sample_seed(seed):
    """Int [2]: the seed of latents and labels of pictures, of a seed that a user gives."""
    return fold((seed, 0), Purpose.SAMPLES)


def check_classes(name, numbers, interface):
    """Raises InputError unless all numbers are classes of a generator; `name` is what gave them."""
    for number in numbers:
        if type(number) is not int or not 0 <= number < interface.num_classes:
            names = ", ".join(interface.numbered_names())
            raise InputError(f"{name}={number} is not one of the classes: {names}.")


@contextlib.contextmanager
def _plain_errors():
    """What the user got wrong, as an InputError without what gin adds about its calls."""
    try:
        yield
    except Exception as error:
        message = config.message_of(error)
        if message is None:
            raise
        raise InputError(message) from error


def _source_of(folder, open_data):
    """What the run in a folder was trained on: as its run.json says, else as the data is now."""
    record = Inspection.from_record(read_manifest(folder).get("data"))
    if record is not None:
        return RecordedSource(record, open_data)
    try:
        return open_data()
    except (InputError, OSError) as error:
        raise InputError(
            f"{folder / 'run.json'} does not say what data the run was trained on, and that data "
            f"cannot be read: {error} Bring the data back, or restore "
            "run.json from a backup."
        ) from error


def configuration_file(workdir):
    """The path of the configuration of the run in `workdir`, a `pathlib.Path`.

    Raises:
        InputError: if no run was ever started there.
    """
    file = workdir / "config.gin"
    if not file.is_file():
        raise InputError(f"{workdir} is not the folder of a run: it has no config.gin.")
    return file


def named_steps(workdir, checkpoints, which, several=False):
    """The steps of the checkpoints that a flag names, ascending.

    Args:
        workdir: of the run, for messages.
        checkpoints: its `Checkpoints`.
        which: 'latest', 'best' or a step as text; 'all', too, where it is allowed.
        several: whether it is.

    Raises:
        InputError: if there is none of that name.
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
            f"--checkpoint={which} is {names} a step that was kept: {', '.join(map(str, there))}."
        )
    return [int(which)]
