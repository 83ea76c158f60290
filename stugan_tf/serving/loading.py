"""Loads artifacts: `stugan_tf.serving.load(path)`."""

import os

from stugan_tf.files import local_path
from stugan_tf.serving import artifact
from stugan_tf.serving.formats import format_of, read_sparse_file
from stugan_tf.serving.generator import ServedGenerator
from stugan_tf.serving.interface import Interface


def load(path: str | os.PathLike[str]) -> ServedGenerator:
    """Loads the generator of an exported artifact.

        generator = load("exported")                 # the newest version in this folder
        images = generator(16, seed=1)               # uint8 [16, H, W, C]

    Checksums and versions are checked first. A SavedModel is a program, as TensorFlow's
    documentation says, and TensorFlow Lite's interpreter trusts its file: load only folders whose
    writer you trust. Files of the format `sparse` may come from anybody. To be sure that nothing
    else is read, give the path of the `.safetensors` file, not of its folder.

    Args:
        path: the folder that `export` wrote, one version in it, or a single `.safetensors` file of
            the format `sparse`.

    Raises:
        InputError: if the path holds no artifact, or the artifact is damaged or of another version.
    """
    path = local_path(path, "The path of the artifact")
    if path.is_file():
        return read_sparse_file(path)
    folder = artifact.find(path)
    manifest = artifact.read_manifest(folder)
    interface = Interface.from_json(manifest.get("interface"))
    artifact.check_files(folder, manifest)
    return format_of(manifest["kind"]).read(folder, interface, manifest)
