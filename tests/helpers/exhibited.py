"""Generators that are sums in NumPy, and a card, as exhibits."""

import json

import numpy as np

from stugan_tf.demo.exhibits import Exhibit, read_facts
from stugan_tf.serving import artifact, card
from stugan_tf.serving.folding import fold_into_plain_layers
from stugan_tf.serving.formats import FORMATS, Settings
from stugan_tf.serving.generator import ServedGenerator
from stugan_tf.serving.interface import Interface
from tests.helpers.served_networks import interface_of

LATENT_DIM = 4
CARD = {
    "format": "sparse",
    "precision": "float32",
    "checkpoint": {"step": 1500},
    "bytes": 226_549,
    "generator": {
        "parameters": 1000,
        "sparsity_under_masks": 0.75,
        "theoretical_flops_per_image": {"sparse": 2_630_000, "dense": 10_520_000},
        "layers": [
            {
                "name": "first",
                "kernel_shape": [3, 3, 4, 8],
                "weights": 288,
                "active": 72,
                "masked": True,
                "theoretical_flops": 9216.0,
            },
            {
                "name": "norm",
                "kernel_shape": [],
                "weights": 0,
                "active": 0,
                "masked": False,
                "theoretical_flops": 512,
            },
            {
                "name": "last",
                "kernel_shape": [8, 1],
                "weights": 8,
                "active": 8,
                "masked": False,
                "theoretical_flops": 16,
            },
        ],
    },
}


def images_of(latents, weights):
    """Images [B, 2, 2, 1] whose every pixel is known: of latents, and of class 1 + 2 + ..."""
    classes = np.zeros(len(latents)) if weights is None else weights @ np.arange(weights.shape[1])
    pixels = np.tanh(np.asarray(latents, np.float64)) / 2 + classes[:, None] / 100
    return pixels.reshape(-1, 2, 2, 1)


def generator(num_classes=None, mixes=True, class_names=None, around=lambda compute: compute):
    """A `ServedGenerator`; without classes, of an unconditional one.

    `around` wraps what computes images.
    """
    classes = num_classes or 3

    def compute(latents, labels):
        return images_of(latents, None if labels is None else np.eye(classes)[labels])

    interface = Interface(LATENT_DIM, (2, 2, 1), classes, num_classes is not None, class_names)
    mix = around(images_of) if mixes else "there is one only."
    return ServedGenerator(interface, around(compute), {}, mix)


def exhibit(name="mine", **settings):
    return Exhibit(name, generator(**settings), read_facts(CARD))


def write(output, model):
    """An artifact of a model as `export` makes it, with a card that says what is shown of it."""
    folder, interface = output / "1", interface_of(model)
    folder.mkdir(parents=True)
    about = {**CARD, "generator": card.describe_generator(model), "interface": interface.to_json()}
    graph = fold_into_plain_layers(model)
    FORMATS["sparse"].write(folder, graph, interface, Settings(about=about))
    (folder / artifact.CARD).write_text(json.dumps(about))
    artifact.write_manifest(folder, "sparse", interface)
