"""Pruning of a training before its first step."""

import tensorflow as tf
from absl import logging

from stugan_tf.layers.masked import masked_layers
from stugan_tf.runs.loop import Training


def prune(training: Training, masks: dict[str, list[tf.Tensor]]) -> None:
    """Gives networks masks with `Training.assign_masks`; warns of layers that lose all weights."""
    training.assign_masks(masks)
    for name in masks:
        empty = [
            layer.name
            for layer in masked_layers(training.gan.networks[name])
            if not layer.num_active()
        ]
        if empty:
            logging.warning("Pruning removes all weights of %s in the %s.", ", ".join(empty), name)
