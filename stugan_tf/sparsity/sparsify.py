"""Masks for a whole model, and counts of their weights (Sec. 4.1, Algorithm 1 lines 1 and 2)."""

import functools
from typing import NamedTuple

import gin
import keras
import numpy as np
from absl import logging

from stugan_tf.checks import check_fraction
from stugan_tf.errors import InputError
from stugan_tf.layers.masked import (
    check_not_frozen,
    mask_layers,
    masked_layers,
    unmasked_kernels,
)
from stugan_tf.signatures import Distribution, MaskDraw
from stugan_tf.sparsity.distributions import check_draw, densities_by, erk, exact_mask


class Counts(NamedTuple):
    """How many weights a model has and keeps."""

    active: int  # Ones in all masks.
    maskable: int  # Weights under masks.
    trainable: int  # All trainable parameters, and frozen weights under masks.

    @property
    def sparsity(self) -> float:
        """The fraction of zeros among the weights under masks, s in the paper; 0 without masks."""
        return 1 - self.active / self.maskable if self.maskable else 0.0

    @property
    def overall_sparsity(self) -> float:
        """The fraction of zeros among all these parameters, masked or not."""
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

    A model gets masks once: a second draw would add its zeros to those of the first. Convolutions
    that no mask can cover, such as those inside `keras.layers.TimeDistributed`, stay dense, and a
    warning names them.

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
        InputError: if the sparsity is impossible, the model is not built, has nothing to mask or
            has been made sparse before, a masked layer is frozen, or `distribution` or `draw`
            breaks its contract.
    """
    advice = "It is the fraction of zeros: write 0.9 for 90% sparse."
    check_fraction("A sparsity", sparsity, advice)
    if not model.built:
        raise InputError(
            f"{model.name!r} is not built, so its kernels have no shapes. Give it a `keras.Input`, "
            "or call it once."
        )
    is_plain = not masked_layers(model)
    if mask_dense or is_plain:
        model = mask_layers(model, mask_dense)
    if is_plain:  # Otherwise its author has chosen.
        _warn_of_bare_kernels(model)
    layers = masked_layers(model)
    if not layers:
        raise InputError(
            f"{model.name!r} has no convolution to mask{_bare(model)}. Frozen layers get "
            "no masks. Wrap layers in `Masked`, or "
            "set GAN.mask_dense = True for its dense layers (mask_dense=True in Python)."
        )
    check_not_frozen(model)
    former = [layer.name for layer in layers if layer.num_active() < np.prod(layer.kernel.shape)]
    if former:
        raise InputError(
            f"{model.name!r} is already sparse: layer {former[0]!r} has zeros in its mask. New "
            "masks would add to them. Build the model again."
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


def _warn_of_bare_kernels(model: keras.Model) -> None:
    """Warns of kernels other than matrices that `mask_layers` cannot wrap."""
    bare = _bare(model)
    if bare:
        _warn(
            f"No mask covers some kernels of {model.name!r}, which stay dense{bare}. Its sparsity "
            "does not count them. Masks are for plain convolutions that are called themselves; for "
            "spectral norm use stugan_tf.layers.spectral.SpectralConv2D."
        )


@functools.cache
def _warn(message: str) -> None:
    """Logs a message once: the averaged generator has the layers of the live one."""
    logging.warning("%s", message)


def _bare(model: keras.Model) -> str:
    """The layers with kernels of rank 3 or more that are not under masks, after a colon."""
    found = [weights for weights in unmasked_kernels(model) if weights.rank > 2]
    named = ", ".join(f"{weights.layer} ({weights.kind})" for weights in found[:4])
    more = ", ..." if len(found) > 4 else ""
    return f": {named}{more}" if found else ""


def count_weights(model: keras.Model) -> Counts:
    """The `Counts` of a model with masks."""
    layers = masked_layers(model)
    kernels = [layer.kernel for layer in layers]
    all_weights = {id(variable): variable for variable in [*model.trainable_variables, *kernels]}
    return Counts(
        active=sum(layer.num_active() for layer in layers),
        maskable=sum(int(np.prod(kernel.shape)) for kernel in kernels),
        trainable=sum(int(np.prod(variable.shape)) for variable in all_weights.values()),
    )
