"""Loads artifacts: `stugan_tf.serving.load(path)`."""

import os
import pathlib

from absl import logging

from stugan_tf.errors import InputError
from stugan_tf.files import local_path
from stugan_tf.serving import artifact, runtime
from stugan_tf.serving.formats import format_of, read_sparse_file
from stugan_tf.serving.generator import ServedGenerator
from stugan_tf.serving.interface import Interface

EXECUTORS = ("auto", "tensorflow", "runtime")
PRECISIONS = ("float32", "float16", "auto")


def load(
    path: str | os.PathLike[str], by: str = "auto", precision: str = "float32"
) -> ServedGenerator:
    """Loads the generator of an exported artifact.

        generator = load("exported")                 # the newest version in this folder
        images = generator(16, seed=1)               # uint8 [16, H, W, C]

    Checksums and versions are checked first. A SavedModel is a program, as TensorFlow's
    documentation says, and TensorFlow Lite's interpreter trusts its file: load only folders whose
    writer you trust. Files of the format `sparse` may come from anybody. To be sure that nothing
    else is read, give the path of the `.safetensors` file, not of its folder.

    A sparse file is computed at its non-zeros where the library in runtime/ is installed and reads
    it, else by TensorFlow, with all zeros. The images are the same, up to rounding. `computed_by`
    of the generator says which, and the log.

    Args:
        path: the folder that `export` wrote, one version in it, or a single `.safetensors` file of
            the format `sparse`.
        by: 'tensorflow' or 'runtime' (stugan_runtime, sparse files only), or 'auto' for the one or
            the other. Only TensorFlow computes mixtures of classes.
        precision: in which stugan_runtime computes sparse convolutions: 'float32'; 'float16',
            which is faster where the processor has it and differs by a few levels of 255; or
            'auto' for the faster one that is safe. Images and scores should not depend on the
            machine, so it is 'float32' unless you choose. See docs/export.md.

    Raises:
        InputError: if the path holds no artifact, the artifact is damaged or of another version, or
            `by` does not compute it.
    """
    if by not in EXECUTORS:
        raise InputError(f"by must be 'auto', 'tensorflow' or 'runtime', got {by!r:.60}.")
    if precision not in PRECISIONS:
        raise InputError(
            f"precision must be 'float32', 'float16' or 'auto', got {precision!r:.60}."
        )
    if precision == "float16" and by == "tensorflow":
        raise InputError(
            'precision="float16" is one of stugan_runtime, but by="tensorflow" was given. Leave '
            "one of them out."
        )
    path = local_path(path, "The path of the artifact")
    if path.is_file():
        return _read_sparse(path, by, precision)
    folder = artifact.find(path)
    manifest = artifact.read_manifest(folder)
    interface = Interface.from_json(manifest.get("interface"))
    artifact.check_files(folder, manifest)
    used = format_of(manifest["kind"])
    if used.name != "sparse":
        for asked, given in ((by, 'by="runtime"'), (precision, 'precision="float16"')):
            if asked in ("runtime", "float16"):
                raise InputError(
                    f"{folder} is of the format {used.name}; {given} loads files of the format "
                    "sparse. Leave it out."
                )
        return used.read(folder, interface, manifest)
    generator = _read_sparse(folder / used.file, by, precision)
    if generator.interface != interface:
        raise InputError(f"{folder} is damaged: its manifest belongs to another generator.")
    return generator


def _read_sparse(path: pathlib.Path, by: str, precision: str) -> ServedGenerator:
    """The generator in a sparse file, computed by what `by` says."""
    if by == "tensorflow":
        return read_sparse_file(path)
    try:
        generator, reason = runtime.read(path, precision), ""
    except InputError as error:  # TensorFlow may read it, or says what is wrong with it.
        if by == "runtime" or precision == "float16":
            raise
        generator, reason = read_sparse_file(path), f": {error}"
    logging.info("%s is computed by %s%s", path, generator.computed_by, reason)
    return generator
