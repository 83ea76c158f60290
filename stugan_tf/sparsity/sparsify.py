"""Masks for a whole model, and counts of their weights (Sec. 4.1, Algorithm 1 lines 1 and 2)."""

from typing import NamedTuple

import gin
import keras
import numpy as np

from stugan_tf.errors import InputError
from stugan_tf.layers.masked import mask_layers, masked_layers
from stugan_tf.signatures import Distribution, MaskDraw
from stugan_tf.sparsity.distributions import check_draw, densities_by, erk, exact_mask


class Counts(NamedTuple):
    """How many weights a model has and keeps."""

    active: int  # Ones in all masks.
    maskable: int  # Weights under masks.
    trainable: int  # All trainable parameters.

    @property
    def sparsity(self) -> float:
        """The fraction of zeros among the weights under masks, s in the paper."""
        return 1 - self.active / self.maskable

    @property
    def overall_sparsity(self) -> float:
        """The fraction of zeros among all trainable parameters, masked or not."""
        return (self.maskable - self.active) / self.trainable


@gin.configurable(denylist=["model", "sparsity", "mask_dense", "seed"])
def sparsify(
    model: keras.Model,
    sparsity: float,
    distribution: Distribution = erk,
    draw: MaskDraw = exact_mask,
    mask_dense: bool = False,
    seed: int = 0,
) -> keras.Model:
    """Draws random masks for a model and zeroes the weights that they exclude.

    A model made of `Masked` layers is changed in place. In any other functional or sequential
    model the convolutions are wrapped first; the new model shares their weights:

        model = sparsify(keras.applications.ResNet50(weights=None), sparsity=0.9)

    Weights keep their values: they are initialised as dense, not rescaled by density.

    Args:
        model: a built Keras model.
        sparsity: fraction of zeros over all weights under masks, in [0, 1).
        distribution: `(shapes, density) -> densities`, one of `sparsity.distributions`.
        draw: `(shape, density, seed) -> mask`, `exact_mask` or `bernoulli_mask`.
        mask_dense: put dense layers under masks, too, in any model; see `mask_layers`. In gin it is
            `GAN.mask_dense`.
        seed: an integer; the same seed draws the same masks.

    Returns:
        The model with masks: `model` itself if no layer had to be wrapped.

    Raises:
        InputError: if the sparsity is impossible, the model is not built or has nothing to mask, or
            `distribution` or `draw` breaks its contract.
    """
    if not 0 <= sparsity < 1:
        raise InputError(
            f"A sparsity must be in [0, 1), got {sparsity}. It is the fraction of zeros: write "
            "0.9 for 90% sparse."
        )
    if not model.built:
        raise InputError(
            f"{model.name!r} is not built, so its kernels have no shapes. Give it a `keras.Input`, "
            "or call it once."
        )
    if mask_dense or not masked_layers(model):
        model = mask_layers(model, mask_dense)
    layers = masked_layers(model)
    if not layers:
        raise InputError(
            f"{model.name!r} has no convolution to mask. Wrap layers in `Masked`, or "
            "set GAN.mask_dense = True for its dense layers (mask_dense=True in Python)."
        )
    shapes = [tuple(layer.kernel.shape) for layer in layers]
    densities = densities_by("sparsify.distribution", distribution, shapes, 1 - sparsity)
    check_draw("sparsify.draw", draw)
    for index, (layer, density) in enumerate(zip(layers, densities, strict=True)):
        layer.assign_mask(draw(tuple(layer.kernel.shape), density, (seed, index)))
        if not layer.num_active():
            raise InputError(
                f"At sparsity {sparsity} layer {layer.name!r} of {model.name!r} keeps none of its "
                f"{np.prod(layer.kernel.shape)} weights and could never regrow one. Lower the "
                "sparsity, or choose a distribution that keeps small layers dense, such as erk."
            )
    return model


def count_weights(model: keras.Model) -> Counts:
    """The `Counts` of a model with masks."""
    layers = masked_layers(model)
    return Counts(
        active=sum(layer.num_active() for layer in layers),
        maskable=sum(int(np.prod(layer.kernel.shape)) for layer in layers),
        trainable=sum(int(np.prod(variable.shape)) for variable in model.trainable_variables),
    )
