"""Writes the files that the fuzzers start from: python runtime/fuzz/seeds.py runtime/fuzz/files.

They are small generators as stugan_tf exports them: SNGAN's, one with a block of BigGAN, and one of
all other layers. What the library does not look at is left out, so that changes meet the rest.
"""

import hashlib
import json
import pathlib
import struct
import sys
import tempfile

ROOT = pathlib.Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "runtime"), str(ROOT / "runtime" / "tests")]

import keras  # noqa: E402

import sparse_files  # noqa: E402
from stugan_tf.serving.folding import fold_into_plain_layers  # noqa: E402
from stugan_tf.serving.graph import KINDS, Graph  # noqa: E402
from stugan_tf.serving.interface import Interface  # noqa: E402
from tests.helpers.served_networks import (  # noqa: E402
    CLASSES,
    interface_of,
    served_generator,
    unlike_new,
)


def all_other_layers() -> tuple[Graph, Interface]:
    """A network of the layers that the two families do not have."""
    layers = keras.layers
    latents = keras.Input([6])
    image = layers.Reshape([4, 3, 4])(layers.Dense(48, activation="gelu")(latents))
    image = layers.Conv2DTranspose(5, 3, 2)(image)
    image = layers.LeakyReLU()(layers.Conv2D(4, [2, 3], 2, activation="elu")(image))
    image = layers.BatchNormalization()(image)
    image = layers.UpSampling2D([2, 1], interpolation="bilinear")(image)
    image = layers.Concatenate()([image, layers.ReLU(6.0)(image)])
    vector = layers.Reshape([1, 1, 8])(layers.Dense(8, activation="softmax")(latents))
    image = layers.Multiply()([image, vector])
    image = layers.Concatenate(axis=1)([image, image])
    pooled = layers.AveragePooling2D(2, 1, "same")(image)
    image = layers.Add()([layers.MaxPooling2D(3, 1, "same")(image), pooled])
    pixels = layers.Reshape([image.shape[1] * image.shape[2], 8])(image)
    pixels = layers.Attention()([pixels, pixels, pixels])
    pixels = layers.Cropping1D([1, pixels.shape[1] - 13])(pixels)
    image = layers.Activation("tanh")(layers.Conv2D(3, 1)(layers.Reshape([4, 3, 8])(pixels)))
    model = unlike_new(keras.Model(latents, image))
    kernels = [variable for variable in model.variables if variable.path.endswith("kernel")]
    for number, kernel in enumerate(kernels):
        if number % 2:  # Every other one is sparse.
            kernel.assign(kernel * (keras.random.uniform(kernel.shape, seed=number) < 0.2))
    return fold_into_plain_layers(model), Interface(6, (4, 3, 3), 1, False)


def slim(data: bytes) -> bytes:
    """A sparse file with only what is read of its manifest."""
    (length,) = struct.unpack("<Q", data[:8])
    header, body = json.loads(data[8 : 8 + length]), data[8 + length :]
    manifest = json.loads(header["__metadata__"]["manifest"])
    config = manifest["model"]["config"]
    kept = {name: config[name] for name in ("input_layers", "output_layers")}
    kept["layers"] = [
        {
            "class_name": layer["class_name"],
            "name": layer["name"],
            "config": {
                name: layer["config"][name] for name in KINDS[layer["class_name"]].arguments
            },
            "inbound_nodes": [{"args": _tensors(node["args"])} for node in layer["inbound_nodes"]],
        }
        for layer in config["layers"]
    ]
    manifest = {
        "interface": manifest["interface"],
        "model": {"config": kept},
        "tensors": manifest["tensors"],
    }
    header["__metadata__"] |= {"manifest": json.dumps(manifest), "sha256": "0" * 64}
    metadata = header.pop("__metadata__")
    text = json.dumps({"__metadata__": metadata, **header}, separators=(",", ":")).encode()
    data = struct.pack("<Q", len(text)) + text + body
    return data.replace(b"0" * 64, hashlib.sha256(data).hexdigest().encode(), 1)


def _tensors(arguments: object) -> object:
    """The arguments of a call, of each tensor only where it comes from."""
    if isinstance(arguments, dict):
        return {"config": {"keras_history": arguments["config"]["keras_history"]}}
    return [_tensors(each) for each in arguments]


def main() -> None:
    """Writes the files."""
    folder = pathlib.Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    conditional = unlike_new(served_generator((8, 8, 3), CLASSES))
    made = {
        "sngan": (*sparse_files.served("sngan"), "float32"),
        "conditional": (
            fold_into_plain_layers(conditional),
            interface_of(conditional),
            "float16",
        ),
        "others": (*all_other_layers(), "float16"),
    }
    with tempfile.TemporaryDirectory() as temporary:
        for name, (graph, interface, precision) in made.items():
            path = pathlib.Path(temporary) / "file"
            data = sparse_files.write(path, graph, interface, precision)
            (folder / name).write_bytes(slim(data))


if __name__ == "__main__":
    main()
