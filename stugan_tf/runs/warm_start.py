"""Trained networks that a new run starts from: those of another run, or of an artifact.

A new run takes weights, masks and the average. It starts its own optimizers, topology updates and
logs. The data may be others. The networks must be the same, apart from the embeddings of classes:
where there are more or fewer classes, these start afresh.

An artifact has the weights of one generator, into which batch norm was folded; see
`serving.unfolding`.
"""

import os
import pathlib
import tempfile
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from stugan_tf.adapters.keras_internals import all_layers
from stugan_tf.choices import in_words
from stugan_tf.data.inspection import Inspection
from stugan_tf.errors import InputError
from stugan_tf.files import local_path, sha256_of, without_patterns
from stugan_tf.layers.paths import names_of
from stugan_tf.randomness import Purpose, draw_latents, fold
from stugan_tf.runs.checkpoints import Checkpoints
from stugan_tf.runs.loop import Training
from stugan_tf.runs.manifest import read_manifest
from stugan_tf.runs.opening import named_steps
from stugan_tf.runs.phases import run_folder
from stugan_tf.runs.status import PHASES, kept_steps
from stugan_tf.serving import artifact, compact
from stugan_tf.serving.folding import fold_into_plain_layers
from stugan_tf.serving.formats import FORMATS
from stugan_tf.serving.graph import to_keras
from stugan_tf.serving.interface import Interface
from stugan_tf.serving.unfolding import NUM_MEASURED, check_unfolds, unfold
from stugan_tf.serving.web import page
from stugan_tf.sparsity.sparsify import count_weights

_MASK = "kernel_mask"
_GROUPS = ("generator", "discriminator", "averaged", "averaged_seen")


class _Found(NamedTuple):
    """What is there to start from.

    Attributes:
        place: what messages call it.
        facts: what identifies it, for run.json.
        weights: {name: array}; of a run the names in its checkpoint, of an artifact
            "layer/weight".
        image_shape: (H, W, C) of its images, or None if nobody knows.
        class_names: a name or number for each of its classes; None if nobody knows.
    """

    place: str
    facts: dict[str, Any]
    weights: dict[str, np.ndarray]
    image_shape: tuple[int, ...] | None
    class_names: tuple[str, ...] | None


class WarmStart:
    """The start of a run from trained networks."""

    def __init__(self, path: str | os.PathLike[str], checkpoint: str = "latest") -> None:
        """Names what to start from; `check` looks at it.

        Args:
            path: folder of a run, of several phases, or of an artifact; or a `.safetensors` file.
            checkpoint: of a run: 'latest', 'best' or a step.

        Raises:
            InputError: if the path is no local path.
        """
        self._path = local_path(path, "--init_from").absolute()
        self._checkpoint = checkpoint
        self._found: _Found | None = None

    def has_begun(self, workdir: pathlib.Path) -> bool:
        """Whether the run in a folder, which need not exist, has begun from here.

        Raises:
            InputError: if it has begun from something else.
        """
        manifest = read_manifest(workdir)
        if not manifest or not kept_steps(workdir / "checkpoints"):
            return False  # It was stopped before its first checkpoint, if it was started.
        began = manifest.get("init_from")
        if began is None:
            raise InputError(
                f"The run in {workdir} was started without --init_from. Leave it out to resume "
                "that run, or choose another --workdir."
            )
        ours = {"path": str(self._path), "checkpoint": self._checkpoint}
        if ours != {name: began.get(name) for name in ours}:
            raise InputError(
                f"The run in {workdir} was started from {began.get('path')}, "
                f"{began.get('checkpoint')}. Leave --init_from and --init_checkpoint out to resume "
                "that run, or choose another --workdir."
            )
        return True

    def look(self) -> None:
        """Finds what to start from, before any network is built.

        Raises:
            InputError: if there is nothing, or it cannot be started from.
        """
        if self._is_run:
            return
        if self._checkpoint != "latest":
            raise InputError(
                "--init_checkpoint is for runs: an artifact has one generator. Leave it out."
            )
        if self._path.is_file():
            return
        if not (self._path / artifact.MANIFEST).is_file() and not artifact.versions(self._path):
            raise InputError(
                f"--init_from={self._path} is neither the folder of a run, which has a config.gin, "
                "nor an exported generator, which has a manifest.json or is a .safetensors file."
            )
        kind = artifact.read_manifest(artifact.find(self._path))["kind"]
        if kind not in _READERS:
            raise InputError(
                f"--init_from={self._path} is an artifact of the format {kind}, from which no "
                "training can start. Give the run that it was exported from, or an artifact of the "
                f"format {in_words(_READERS)}."
            )

    def check(self, training: Training) -> list[str]:
        """What a new training will take over and what starts afresh, in sentences.

        Raises:
            InputError: if the networks do not fit; the message names the first layer.
        """
        found = self._read(training)
        if not self._is_run:
            return self._check_artifact(training, found)
        said = [
            f"starts from {found.place}: weights and masks of both networks, and the average of "
            "the generator",
            *_average_lost(training),
        ]
        fresh: dict[str, list[str]] = {}
        for name, model in training.gan.networks.items():
            theirs = _of_network(found.weights, name)
            fresh[name] = _tables_of_other_classes(model, theirs)
            self._check_network(name, model, theirs, fresh[name], training)
            sparsity = _sparsity([v for key, v in theirs.items() if key.endswith(_MASK)])
            said += _other_sparsity(name, model, sparsity)
        return [*said, *self._about_classes(training, any(fresh.values()))]

    def begin(self, training: Training) -> dict[str, Any]:
        """Puts the networks into a training, before its first step, in its strategy's scope.

        Returns:
            Facts for `run.json`.
        """
        found, self._found = self._read(training), None  # They are large.
        if self._is_run:
            _take_over(training, found.weights)
        else:
            _take_generator(training, found.weights)
        return {"init_from": found.facts}

    @property
    def _is_run(self) -> bool:
        return any((self._path / name).is_file() for name in ("config.gin", PHASES))

    def _read(self, training: Training) -> _Found:
        if self._found is None:
            self.look()
            read = self._read_run if self._is_run else self._read_artifact
            self._found = read(training)
        return self._found

    def _read_run(self, training: Training) -> _Found:
        folder = run_folder(self._path)
        checkpoints = Checkpoints(folder / "checkpoints", training.state())
        (step,) = named_steps(folder, checkpoints, self._checkpoint, flag="--init_checkpoint")
        record = Inspection.from_record(read_manifest(folder).get("data"))
        return _Found(
            f"{folder}, step {step}",
            {**self._given(), "kind": "run", "step": step, "sha256": checkpoints.digest(step)},
            checkpoints.read(step, _GROUPS),
            tuple(record.image_shape) if record else None,
            tuple(record.class_names) if record else None,
        )

    def _read_artifact(self, training: Training) -> _Found:
        if self._path.is_file():
            kind, digest = "sparse", sha256_of(self._path)
            weights, manifest = _sparse_file(self._path)
        else:
            folder = artifact.find(self._path)
            manifest = artifact.read_manifest(folder)
            artifact.check_files(folder, manifest)
            kind, digest = manifest["kind"], manifest["sha256"]
            weights = _READERS[kind](folder, training)
        weights = _in_names_of(_folded(training), weights)
        interface = Interface.from_json(manifest.get("interface"))
        return _Found(
            f"{self._path}, an artifact of the format {kind}",
            {**self._given(), "kind": kind, "sha256": digest},
            weights,
            interface.image_shape,
            interface.class_names or _numbers(interface.num_classes),
        )

    def _given(self) -> dict[str, str]:
        return {"path": str(self._path), "checkpoint": self._checkpoint}

    def _check_artifact(self, training: Training, found: _Found) -> list[str]:
        generator = training.gan.generator
        folded = _folded(training)
        tables = {layer.name for layer in _embeddings(generator)}
        fresh = [
            name
            for name, value in found.weights.items()
            if name.rpartition("/")[0] in tables
            and name in folded
            and value.shape[1:] == folded[name].shape[1:]
            and value.shape != folded[name].shape
        ]
        check_unfolds(generator, found.weights)
        for name in dict.fromkeys([*folded, *found.weights]):
            there, here = found.weights.get(name), folded.get(name)
            if name not in fresh and _shape(there) != _shape(here):
                raise self._misfit("generator", name, there, here, training, found)
        maskable = {f"{mask.name.replace('/', '_')}/kernel" for mask in _masks(training)}
        kernels = [v != 0 for name, v in found.weights.items() if name in maskable]
        said = [
            f"starts from {found.place}: the weights of its generator, which are also its average; "
            "weights that are zero there are outside the masks",
            "an artifact has no discriminator: it starts afresh",
            f"batch norm was folded into the weights: it is measured again on {NUM_MEASURED} "
            "images",
            *_average_lost(training),
        ]
        said += _other_sparsity("generator", generator, _sparsity(kernels))
        return [*said, *self._about_classes(training, bool(fresh))]

    def _check_network(
        self,
        network: str,
        model: keras.Model,
        theirs: Mapping[str, np.ndarray],
        fresh: Iterable[str],
        training: Training,
    ) -> None:
        """Raises InputError unless a network of a run fits ours, apart from `fresh` variables."""
        ours = dict(zip(names_of(model), model.variables, strict=True))
        for name in dict.fromkeys([*ours, *theirs]):
            there, here = theirs.get(name), ours.get(name)
            if name.endswith(_MASK) and here is None and there is not None and not np.all(there):
                raise InputError(
                    f"{self._found.place if self._found else self._path}: the layer "
                    f"{name.rpartition('/')[0]!r} of the {network} is under a mask there and not "
                    "here. Set GAN.mask_dense as it is there."
                )
            is_free = name in fresh or name.endswith(_MASK)  # A kernel may be without a mask.
            if not is_free and _shape(there) != _shape(here):
                raise self._misfit(network, name, there, here, training, self._found)

    def _misfit(
        self, network: str, name: str, there: Any, here: Any, training: Training, found: Any
    ) -> InputError:
        layer, _, weight = name.rpartition("/")
        shapes = [
            f"shape {_shape(one)}" if one is not None else "no such layer" for one in (there, here)
        ]
        sizes = ""
        shape = tuple(training.source.image_shape)
        if found.image_shape is not None and found.image_shape != shape:
            made, wanted = ("x".join(map(str, one)) for one in (found.image_shape, shape))
            sizes = f" Its images are {made}, those of the data {wanted}."
        return InputError(
            f"{found.place}, does not fit: the first layer of the {network} that differs is "
            f"{layer!r}, whose {weight} has {shapes[0]} there and {shapes[1]} here.{sizes} Set the "
            "same networks, widths and image size as there, or start without --init_from."
        )

    def _about_classes(self, training: Training, are_fresh: bool) -> list[str]:
        """Sentences about the classes, if the networks take labels."""
        theirs = self._found.class_names if self._found else None
        ours = training.source.class_names
        if not training.gan.conditional:
            return []
        if are_fresh:
            there = "other classes" if theirs is None else f"{len(theirs)} classes"
            return [
                f"the embeddings of classes start afresh: there are {there} there and "
                f"{training.source.num_classes} here"
            ]
        if not ours or theirs is None or theirs == _numbers(len(theirs)):
            return []
        changed = [pair for pair in zip(theirs, ours, strict=False) if pair[0] != pair[1]]
        if not changed:
            return []
        return [
            f"{len(changed)} classes have other names there, such as {changed[0][0]!r} for "
            f"{changed[0][1]!r}: their embeddings are taken over by number"
        ]


def _numbers(num_classes: int) -> tuple[str, ...]:
    """The names of classes that have none."""
    return tuple(map(str, range(num_classes)))


def _average_lost(training: Training) -> list[str]:
    """A sentence if the new run makes its average anew."""
    start = training.algorithm.average_start
    if start <= 1:
        return []
    return [
        f"before step {start:,} the average is the live generator (Algorithm.average_start): set "
        "it to 0 to go on from the average that is taken over"
    ]


def _take_over(training: Training, weights: Mapping[str, np.ndarray]) -> None:
    """Puts the networks of a run into a training."""
    state, masks = training.state(), {}
    for network, model in training.gan.networks.items():
        theirs = _of_network(weights, network)
        fresh = _tables_of_other_classes(model, theirs)
        names = {id(variable): name for name, variable in _named(model).items()}
        for name in set(names.values()) - set(fresh):
            for group in (network, "averaged") if network == "generator" else (network,):
                value = weights.get(f"{group}/{name}")
                if value is not None and not name.endswith(_MASK):
                    state[f"{group}/{name}"].assign(value)
        of_masks = [
            names[id(mask.kernel_mask)] for mask in training.players[network].explorer.masks
        ]
        masks[network] = [
            theirs.get(name, np.ones(state[f"{network}/{name}"].shape, np.float32))
            for name in of_masks
        ]
    training.assign_masks(masks)
    for name, value in weights.items():
        if name.startswith("averaged_seen/") and name in state:
            state[name].assign(value)


def _take_generator(training: Training, weights: Mapping[str, np.ndarray]) -> None:
    """Puts the generator of an artifact into a training, also as its average."""
    gan = training.gan
    seed = fold((training.seed, 0), Purpose.SAMPLES)
    latents, labels = draw_latents(NUM_MEASURED, gan.latent_dim, gan.num_classes, seed)
    masks = [
        weights.get(f"{mask.name.replace('/', '_')}/kernel", mask.kernel_mask.numpy()) != 0
        for mask in _masks(training)
    ]
    unfold(gan.generator, weights, [latents, labels] if gan.conditional else [latents])
    for mine, theirs in zip(gan.averaged.model.variables, gan.generator.variables, strict=True):
        mine.assign(theirs)
    training.assign_masks({"generator": [tf.constant(mask, tf.float32) for mask in masks]})


def _folded(training: Training) -> dict[str, np.ndarray]:
    """The weights that an artifact of this training would have now, by 'layer/weight'."""
    return fold_into_plain_layers(training.gan.generator).weights()


def _in_names_of(
    ours: Mapping[str, np.ndarray], weights: dict[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """The weights of an artifact by the names of ours, if both have the same layers in order.

    Keras numbers layers without a name through the life of a process, so names can differ.
    """
    kinds = [[name.rpartition("/")[2] for name in names] for names in (ours, weights)]
    return dict(zip(ours, weights.values(), strict=True)) if kinds[0] == kinds[1] else weights


def _masks(training: Training) -> list[Any]:
    return training.players["generator"].explorer.masks


def _named(model: keras.Model) -> dict[str, keras.Variable]:
    return dict(zip(names_of(model), model.variables, strict=True))


def _of_network(weights: Mapping[str, np.ndarray], network: str) -> dict[str, np.ndarray]:
    """The weights of one network, by their names in it."""
    prefix = f"{network}/"
    return {
        name.removeprefix(prefix): value
        for name, value in weights.items()
        if name.startswith(prefix)
    }


def _embeddings(model: keras.Model) -> list[Any]:
    return [layer for layer in all_layers(model) if isinstance(layer, keras.layers.Embedding)]


def _tables_of_other_classes(model: keras.Model, theirs: Mapping[str, np.ndarray]) -> list[str]:
    """The names of the variables of embeddings that have another number of rows there."""
    names = {id(variable): name for name, variable in _named(model).items()}
    fresh = []
    for layer in _embeddings(model):
        there = theirs.get(names[id(layer.embeddings)])
        here = tuple(layer.embeddings.shape)
        if there is not None and there.shape[1:] == here[1:] and there.shape != here:
            fresh += [names[id(variable)] for variable in layer.variables]
    return fresh


def _shape(value: Any) -> tuple[int, ...] | None:
    return None if value is None else tuple(value.shape)


def _sparsity(masks: Iterable[np.ndarray]) -> float | None:
    """The fraction of zeros in masks; None without masks."""
    masks = list(masks)
    size = sum(mask.size for mask in masks)
    return 1 - sum(int(np.count_nonzero(mask)) for mask in masks) / size if size else None


def _other_sparsity(network: str, model: keras.Model, sparsity: float | None) -> list[str]:
    """A sentence if the masks that are taken over are not as sparse as the configuration says."""
    configured = count_weights(model).sparsity
    if sparsity is None or abs(sparsity - configured) < 0.005:
        return []
    return [
        f"the masks of the {network} are taken over: {sparsity:.2%} zeros, where the "
        f"configuration has {configured:.2%}"
    ]


def _sparse_file(path: pathlib.Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    graph, manifest = compact.read(path)
    return graph.weights(), manifest


def _read_sparse(folder: pathlib.Path, _: Training) -> dict[str, np.ndarray]:
    return _sparse_file(folder / FORMATS["sparse"].file)[0]


def _read_html(folder: pathlib.Path, _: Training) -> dict[str, np.ndarray]:
    with tempfile.TemporaryDirectory() as aside:
        path = pathlib.Path(aside) / FORMATS["sparse"].file
        path.write_bytes(page.read(folder / FORMATS["html"].file))
        return _sparse_file(path)[0]


def _read_saved_model(folder: pathlib.Path, training: Training) -> dict[str, np.ndarray]:
    """The weights of a SavedModel, which has them in the order of its layers, without names.

    Our generator, folded in the same way, says the names. The program in it is not run.
    """
    graph = fold_into_plain_layers(training.gan.generator)
    names = [variable.path for variable in to_keras(graph).variables]
    with without_patterns(folder) as readable:
        reader = tf.train.load_checkpoint(str(readable / "variables" / "variables"))
        found: dict[str, np.ndarray] = {}
        number = 0
        while reader.has_tensor(key := f"weights/{number}/.ATTRIBUTES/VARIABLE_VALUE"):
            name = names[number] if number < len(names) else f"weight {number}/value"
            found[name] = reader.get_tensor(key)
            number += 1
    # A batch norm in a graph has only scale and shift: its statistics are 0 and 1.
    in_order = [name for name in graph.weights() if name in found]
    return {name: found[name] for name in [*in_order, *list(found)[len(names) :]]}


_READERS = {"sparse": _read_sparse, "html": _read_html, "saved_model": _read_saved_model}
