"""How large a generator's numbers become, so that a reader may compute with half precision.

stugan_runtime computes in float16 only if the file says that the outputs of all layers stay well
below the largest number of float16.
"""

import keras
import numpy as np
import tensorflow as tf

from stugan_tf.serving.graph import Graph, to_keras
from stugan_tf.serving.interface import Interface

LARGEST_FLOAT16 = 65504.0
MARGIN = 16  # As in runtime/src/network.cc: these are the ranges of a few images only.
BATCHES, BATCH_SIZE = 4, 8


def greatest_outputs(graph: Graph, interface: Interface) -> dict[str, float]:
    """The greatest magnitude in the output of each layer, over a few images.

    Args:
        graph: the folded generator.
        interface: its interface.

    Returns:
        {name of a layer: greatest magnitude}. Empty if one of them is not finite.
    """
    model = to_keras(graph)
    names = [name for name in graph.nodes if name not in graph.inputs]
    every = keras.Model(model.inputs, [model.get_layer(name).output for name in names])

    @tf.function(autograph=False)
    def greatest(inputs):
        return [tf.reduce_max(tf.abs(output)) for output in every(inputs, training=False)]

    random = np.random.default_rng(0)
    found = np.zeros(len(names))
    for _ in range(BATCHES):
        inputs = [tf.constant(random.normal(size=[BATCH_SIZE, interface.latent_dim]), tf.float32)]
        if interface.conditional:
            labels = random.integers(interface.num_classes, size=[BATCH_SIZE])
            inputs.append(tf.constant(labels, tf.int32))
        found = np.maximum(found, [float(each) for each in greatest(inputs)])
    if not np.all(np.isfinite(found)):
        return {}
    return {name: float(f"{each:.3g}") for name, each in zip(names, found, strict=True)}


def note(ranges: dict[str, float]) -> list[str]:
    """What to tell the user: a sentence if float16 would overflow, else nothing."""
    if not ranges:
        return ["Outputs of layers are not finite, so stugan_runtime computes it in float32."]
    name = max(ranges, key=ranges.__getitem__)
    allowed = LARGEST_FLOAT16 / MARGIN
    if ranges[name] <= allowed:
        return []
    return [
        f"stugan_runtime computes it in float32, because float16 might overflow: {name} reaches "
        f"{ranges[name]:.3g}, allowed are {allowed:,.0f}."
    ]
