"""Masks of networks that several tests share."""

import tensorflow as tf

from stugan_tf.layers.masked import masked_layers


def with_full_masks(model):
    """The model with masks of ones, for which others can be drawn. Its zeros stay."""
    for layer in masked_layers(model):
        layer.assign_mask(tf.ones(layer.kernel.shape))
    return model
