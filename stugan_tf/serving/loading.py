"""Loads artifacts: `stugan_tf.serving.load(path)`."""

import pathlib

from stugan_tf.errors import InputError
from stugan_tf.serving import artifact, compact, lite, saved_model
from stugan_tf.serving.generator import ServedGenerator
from stugan_tf.serving.graph import to_keras
from stugan_tf.serving.interface import Interface


def load(path, trusted=False):
    """A generator of an exported artifact.

        generator = load("exported")                 # the newest version in this folder
        images = generator(16, seed=1)               # uint8 [16, H, W, C]

    Checksums and versions are checked first. Files of the formats `tflite` and `sparse` may come
    from anywhere: they cannot run code of their own. A SavedModel is a program, as TensorFlow
    says itself: load only those whose writer you trust.

    Args:
        path: of the folder that `export` wrote, of one version in it, or of a single
            `.safetensors` file of the format `sparse`.
        trusted: whether you know who wrote it. Then a TensorFlow Lite file is not run in a process
            of its own first, which takes seconds.

    Returns:
        A `ServedGenerator`.

    Raises:
        InputError: if there is no artifact, or it is damaged, or of another version.
    """
    path = pathlib.Path(path)
    if path.is_file():
        return _of_file(path)
    folder = artifact.find(path)
    manifest = artifact.read_manifest(folder)
    interface = Interface.from_json(manifest.get("interface"))
    artifact.check_files(folder, manifest)
    name = artifact.FILES.get(manifest["kind"])
    if name is not None and name not in manifest["files"]:
        raise InputError(f"{folder} is damaged: its manifest lacks {name}.")
    return of_folder(folder, manifest["kind"], interface, manifest, trusted)


def of_folder(folder, kind, interface, about, trusted):
    """The generator in a folder whose manifest was read, or is yet to be written.

    Args:
        folder: a `pathlib.Path`.
        kind: one of `artifact.FORMATS`.
        interface: its `Interface`.
        about: what a `ServedGenerator` shows of it.
        trusted: as for `load`.
    """
    if kind == "sparse":
        generator = _of_file(folder / artifact.FILES[kind])
        if generator.interface != interface:
            raise InputError(f"{folder} is damaged: its manifest is of another generator.")
        return generator
    if kind == "tflite":
        compute, mix = lite.read(folder / artifact.FILES[kind], interface, trusted)
    else:
        compute, mix = saved_model.read(folder, interface)
    return ServedGenerator(interface, compute, about, mix)


def _of_file(path):
    """The generator in a compact sparse file."""
    graph, manifest = compact.read(path)
    interface = Interface.from_json(manifest.get("interface"))
    model = to_keras(graph)
    expected = [((None, interface.latent_dim), "float32")]
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
        raise InputError(f"{path} is damaged: its model is not what it describes.")
    compute, mix = saved_model.callable_of(model, interface)
    return ServedGenerator(interface, compute, manifest, mix)
