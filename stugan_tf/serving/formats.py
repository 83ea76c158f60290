"""The table of formats of artifacts: which file, which precisions, how it is written and read.

All code that deals with formats walks this table: `export`, manifests, `load`, model cards,
pipelines. A new format is one entry and its two functions.
"""

import dataclasses
import os
import pathlib
import tempfile
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from stugan_tf import choices
from stugan_tf.choices import in_words
from stugan_tf.errors import InputError
from stugan_tf.serving import compact, lite, onnx_file, ranges, saved_model
from stugan_tf.serving.generator import ServedGenerator
from stugan_tf.serving.graph import Graph, to_keras
from stugan_tf.serving.interface import Interface
from stugan_tf.serving.web import page


@dataclasses.dataclass(frozen=True)
class Format:
    """One entry of the table.

    Attributes:
        name: name in `--format` and in manifests.
        file: name of the file that every artifact of the format has.
        precisions: precisions of weights that the format can store.
        write: `(folder, graph, interface, settings: Settings) -> sentences` for the model card.
        read: `(folder, interface, about) -> ServedGenerator`; `about` becomes the generator's
            `about`. InputError if the file is damaged or belongs to another generator.
        trusted: whether files are trusted input, as programs are: their writer could do harm. If
            not, they may come from anybody.
        fixed_batches: whether files take only batches of the sizes that `--batch_size` names.
    """

    name: str
    file: str
    precisions: tuple[str, ...]
    write: Callable[..., list[str]]
    read: Callable[..., ServedGenerator]
    trusted: bool
    fixed_batches: bool = False

    def check(self, precision: str, batch_sizes: Sequence[int] | None) -> None:
        """Raises InputError if the format does not support the flags of `export`.

        Args:
            precision: value of `--precision`.
            batch_sizes: values of `--batch_size`; None if it was left out.
        """
        if precision not in self.precisions:
            raise InputError(
                f"`--format={self.name}` supports {in_words(self.precisions)}, got "
                f"`--precision={precision}`."
            )
        if batch_sizes is not None and not self.fixed_batches:
            others = in_words([one.name for one in FORMATS.values() if one.fixed_batches])
            raise InputError(
                f"--batch_size is for --format={others}: {self.name} takes batches of any size. "
                "Leave it out."
            )


@dataclasses.dataclass(frozen=True)
class Settings:
    """How an artifact is written.

    Attributes:
        precision: one of the format's precisions.
        batch_sizes: sizes of batches, for a format with fixed batches.
        about: the contents of the model card, a dictionary that JSON can hold.
    """

    precision: str = "float32"
    batch_sizes: tuple[int, ...] = (1,)
    about: dict[str, Any] = dataclasses.field(default_factory=dict)


def format_of(name: str) -> Format:
    """The format with this name; InputError if there is none."""
    if name not in FORMATS:
        raise InputError(f"There is no format {name!r:.60}. Choose from {in_words(FORMATS)}.")
    return FORMATS[name]


def read_sparse_file(path: str | os.PathLike[str]) -> ServedGenerator:
    """Reads the generator in a single file of the format `sparse`.

    Raises:
        InputError: if the file is damaged or holds something else.
    """
    graph, manifest = compact.read(path)
    interface = Interface.from_json(manifest.get("interface"))
    model = to_keras(graph)
    expected: list[tuple[tuple[int | None, ...], str]] = [((None, interface.latent_dim), "float32")]
    if interface.conditional:
        expected.append(((None,), "int32"))
    tables = {
        node.arguments["input_dim"]
        for node in graph.nodes.values()
        if node.kind == "Embedding" and node.inputs == graph.inputs[1:]
    }
    if (
        [(tuple(one.shape), one.dtype) for one in model.inputs] != expected
        or tuple(model.output_shape[1:]) != interface.image_shape
        or not tables <= {interface.num_classes}
    ):
        raise InputError(f"{path} is damaged: its model does not fit its description.")
    compute, mix = saved_model.callable_of(model, interface)
    return ServedGenerator(interface, compute, manifest, mix)


def _write_sparse(
    folder: pathlib.Path, graph: Graph, interface: Interface, settings: Settings
) -> list[str]:
    about = {**settings.about, "interface": interface.to_json()}
    if outputs := ranges.greatest_outputs(graph, interface):
        about["ranges"] = outputs
    compact.write(folder / FORMATS["sparse"].file, graph, settings.precision, about)
    return [
        "Only non-zero weights are stored; the library in runtime/ computes with these alone.",
        *ranges.note(outputs),
    ]


def _read_sparse(
    folder: pathlib.Path, interface: Interface, about: dict[str, Any]
) -> ServedGenerator:
    del about  # The file has its own manifest.
    generator = read_sparse_file(folder / FORMATS["sparse"].file)
    if generator.interface != interface:
        raise InputError(f"{folder} is damaged: its manifest belongs to another generator.")
    return generator


def _write_html(
    folder: pathlib.Path, graph: Graph, interface: Interface, settings: Settings
) -> list[str]:
    with tempfile.TemporaryDirectory() as aside:
        _write_sparse(pathlib.Path(aside), graph, interface, settings)
        file = (pathlib.Path(aside) / FORMATS["sparse"].file).read_bytes()
    title = str(settings.about.get("name", "generator"))
    if source := settings.about.get("training", {}).get("data", {}).get("source"):
        title += f", trained on {source}"
    item_size = np.dtype(compact.DTYPES[settings.precision]).itemsize
    page.write(folder / FORMATS["html"].file, title, file, interface.image_shape[-1], item_size)
    return ["A page for any browser, which computes at the non-zeros; it opens from a disk."]


def _read_html(
    folder: pathlib.Path, interface: Interface, about: dict[str, Any]
) -> ServedGenerator:
    with tempfile.TemporaryDirectory() as aside:
        path = pathlib.Path(aside) / FORMATS["sparse"].file
        path.write_bytes(page.read(folder / FORMATS["html"].file))
        return _read_sparse(path.parent, interface, about)


def _write_saved_model(
    folder: pathlib.Path, graph: Graph, interface: Interface, settings: Settings
) -> list[str]:
    del settings
    saved_model.write(folder, to_keras(graph), interface)
    return ["A SavedModel stores its zeros; compressing it removes most of them."]


def _read_saved_model(
    folder: pathlib.Path, interface: Interface, about: dict[str, Any]
) -> ServedGenerator:
    compute, mix = saved_model.read(folder, interface)
    return ServedGenerator(interface, compute, about, mix)


def _write_tflite(
    folder: pathlib.Path, graph: Graph, interface: Interface, settings: Settings
) -> list[str]:
    path, sizes = folder / FORMATS["tflite"].file, sorted(set(settings.batch_sizes))
    weights = lite.write(path, to_keras(graph), interface, settings.precision, sizes)
    return lite.notes(weights, settings.precision, sizes)


def _read_tflite(
    folder: pathlib.Path, interface: Interface, about: dict[str, Any]
) -> ServedGenerator:
    compute, mix = lite.read(folder / FORMATS["tflite"].file, interface)
    return ServedGenerator(interface, compute, about, mix, computed_by="TensorFlow Lite")


def _write_onnx(
    folder: pathlib.Path, graph: Graph, interface: Interface, settings: Settings
) -> list[str]:
    del settings
    onnx_file.write(folder / FORMATS["onnx"].file, graph, interface)
    return ["An ONNX file stores its zeros, and runtimes compute with them."]


def _read_onnx(
    folder: pathlib.Path, interface: Interface, about: dict[str, Any]
) -> ServedGenerator:
    compute, mix = onnx_file.read(folder / FORMATS["onnx"].file, interface)
    return ServedGenerator(interface, compute, about, mix, computed_by="ONNX Runtime")


FORMATS = {
    one.name: one
    for one in (
        Format(
            name="saved_model",
            file="saved_model.pb",
            precisions=choices.FORMATS["saved_model"],
            write=_write_saved_model,
            read=_read_saved_model,
            trusted=True,
        ),
        Format(
            name="tflite",
            file="generator.tflite",
            precisions=choices.FORMATS["tflite"],
            write=_write_tflite,
            read=_read_tflite,
            trusted=True,
            fixed_batches=True,
        ),
        Format(
            name="onnx",
            file="generator.onnx",
            precisions=choices.FORMATS["onnx"],
            write=_write_onnx,
            read=_read_onnx,
            trusted=True,
        ),
        Format(
            name="sparse",
            file="generator.safetensors",
            precisions=choices.FORMATS["sparse"],
            write=_write_sparse,
            read=_read_sparse,
            trusted=False,
        ),
        Format(
            name="html",
            file="generator.html",
            precisions=choices.FORMATS["html"],
            write=_write_html,
            read=_read_html,
            trusted=False,
        ),
    )
}
