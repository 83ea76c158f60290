"""Pruning of a training that is about to begin."""

from absl import logging

from stugan_tf.layers.masked import masked_layers


def prune(training, masks):
    """Puts networks under masks, as `Training.assign_masks`; warns of layers that lose all."""
    training.assign_masks(masks)
    for name in masks:
        empty = [
            layer.name
            for layer in masked_layers(training.gan.networks[name])
            if not layer.num_active()
        ]
        if empty:
            logging.warning(
                "Pruning leaves none of the weights of %s of the %s.", ", ".join(empty), name
            )
