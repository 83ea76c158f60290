"""How far images in half precision are from those in float32, and those of a dense bfloat16 rival.

    python -m benchmarks.half_precision [--sparsities=0.8,0.9,0.95] [--images=4]
    python -m benchmarks.half_precision --file=exported/1/generator.safetensors

Without a file the network is that of Table 1 for CIFAR-10 (width 256) with random weights (He), by
ERK, and batch norm of a batch. Differences are in steps of 255: root mean square, 99.9th percentile
and the greatest one.

The rival rounds weights, and what convolutions, additions and activations make, to bfloat16, and
sums in float32; its images are not rounded. It is emulated by TensorFlow.

Half precision is computed by the processor, or with STUGAN_INSTRUCTION_SET=emulated-fp16 by a
library that was built with -DSTUGAN_EMULATE_HALVES=ON. That is slow, a minute for 4 images, and
rounds more often: products are rounded before they are added.
"""

import pathlib
import tempfile

import keras
import numpy as np
import tensorflow as tf
from absl import app, flags

import stugan_runtime
from stugan_tf.layers.masked import masked_layers
from stugan_tf.models.sngan import sngan_generator
from stugan_tf.serving import compact, ranges
from stugan_tf.serving.folding import fold_into_plain_layers
from stugan_tf.serving.graph import Graph, to_keras
from stugan_tf.serving.interface import Interface
from stugan_tf.sparsity.sparsify import sparsify

_SPARSITIES = flags.DEFINE_list("sparsities", ["0.8", "0.9", "0.95"], "Fractions of zeros.")
_IMAGES = flags.DEFINE_integer("images", 4, "Images that are compared.")
_FILE = flags.DEFINE_string("file", None, "A sparse file, in place of random networks.")

ROUNDED = ("Dense", "Conv2D", "Conv2DTranspose", "Add", "ReLU", "LeakyReLU", "Activation")


def main(_: list[str]) -> None:
    """Prints a row for each network."""
    print("| network | precision | rms | 99.9 % | greatest |", "| --- " * 5 + "|", sep="\n")
    if _FILE.value:
        show(pathlib.Path(_FILE.value).name, pathlib.Path(_FILE.value))
        return
    with tempfile.TemporaryDirectory() as folder:
        for sparsity in _SPARSITIES.value:
            path = pathlib.Path(folder) / f"{sparsity}.safetensors"
            graph = fold_into_plain_layers(random_network(float(sparsity)))
            interface = Interface(128, (32, 32, 3), 10, False)
            outputs = ranges.greatest_outputs(graph, interface)
            about = {"interface": interface.to_json(), "ranges": outputs}
            compact.write(path, graph, "float32", about)
            show(f"{float(sparsity):.0%} zeros, layers up to {max(outputs.values()):.3g}", path)


def random_network(sparsity: float) -> keras.Model:
    """A sparse generator whose signal keeps its size through all layers."""
    model = sparsify(sngan_generator((32, 32, 3), width=256, latent_dim=128), sparsity, seed=0)
    random = np.random.default_rng(0)
    for layer in masked_layers(model):
        mask = layer.kernel_mask.numpy()
        inputs = max(1.0, mask.sum() / mask.shape[-1])  # Of an output.
        layer.kernel.assign(mask * random.normal(size=mask.shape) * np.sqrt(2 / inputs))
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0.0
    model(random.normal(size=[16, 128]).astype(np.float32), training=True)
    return model


def show(name: str, path: pathlib.Path) -> None:
    """Prints the differences of both precisions."""
    single = stugan_runtime.load(path, precision="float32")
    half = stugan_runtime.load(path, precision="float16")
    latents, labels = single.inputs(_IMAGES.value, seed=0)
    given = {"latents": latents, "labels": labels if single.conditional else None}
    expected = single(**given, dtype="float32")
    inputs = [latents, labels] if single.conditional else [latents]
    rival = in_bfloat16(compact.read(path)[0], inputs)
    found = half(**given, dtype="float32")
    for precision, images in ((half.instruction_set, found), ("bfloat16, dense", rival)):
        steps = 127.5 * np.abs(images - expected)
        measured = np.sqrt(np.mean(steps**2)), np.quantile(steps, 0.999), steps.max()
        print(f"| {name} | {precision} |", *(f"{each:.2f} |" for each in measured), flush=True)


def in_bfloat16(graph: Graph, inputs: list[np.ndarray]) -> np.ndarray:
    """Images of a runtime that stores bfloat16 and sums in float32."""

    def rounded(tensor):
        return tf.cast(tf.cast(tensor, tf.bfloat16), tf.float32)

    for node in graph.nodes.values():
        for name, value in node.weights.items():
            if node.kind in ROUNDED:
                node.weights[name] = rounded(value).numpy()
    model = to_keras(graph)
    tensors = dict(zip(graph.inputs, map(tf.constant, inputs), strict=True))
    tensors[graph.inputs[0]] = rounded(tensors[graph.inputs[0]])
    for node in graph.nodes.values():
        if node.name in tensors:
            continue
        arguments = [tensors[name] for name in node.inputs]
        output = model.get_layer(node.name)(arguments if len(arguments) > 1 else arguments[0])
        is_image = node.name == graph.output or graph.users()[node.name] == [graph.output]
        tensors[node.name] = rounded(output) if node.kind in ROUNDED and not is_image else output
    return tensors[graph.output].numpy()


if __name__ == "__main__":
    app.run(main)
