"""Pruning of a training before its first step."""

import tensorflow as tf

from stugan_tf.layers.kernel_mask import kernel_masks
from stugan_tf.runs.loop import Training
from stugan_tf.sparsity.at_initialization import warn_of_empty_layers


def prune(training: Training, masks: dict[str, list[tf.Tensor]]) -> None:
    """Gives networks masks with `Training.assign_masks`; warns of layers that lose all weights."""
    training.assign_masks(masks)
    for name in masks:
        warn_of_empty_layers(kernel_masks(training.gan.networks[name]), f"the {name}")
