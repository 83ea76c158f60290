"""Masks for a whole model, and counts of their weights (Sec. 4.1, Algorithm 1 lines 1 and 2)."""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import gin
import keras
import numpy as np
import tensorflow as tf
from absl import logging

from stugan_tf.adapters.keras_internals import all_layers, forget_traces
from stugan_tf.checks import check_bool, check_fraction, check_seed
from stugan_tf.errors import InputError
from stugan_tf.layers.in_place import mask_in_place
from stugan_tf.layers.kernel_mask import KernelMask, kernel_masks, masks_of
from stugan_tf.layers.maskable import maskable_kernels
from stugan_tf.layers.masked import (
    check_built,
    check_not_frozen,
    mask_layers,
    masked_layers,
    unmasked_kernels,
)
from stugan_tf.signatures import Distribution, MaskDraw, Shape
from stugan_tf.sparsity.distributions import check_draw, densities_by, erk, exact_mask
from stugan_tf.tables import columns


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
        return (self.maskable - self.active) / self.trainable if self.trainable else 0.0


@gin.configurable(denylist=["model", "sparsity", "mask_dense", "embeddings", "seed"])
def sparsify(
    model: keras.Model,
    sparsity: float,
    distribution: Distribution = erk,
    draw: MaskDraw = exact_mask,
    mask_dense: bool | None = None,
    embeddings: bool = False,
    seed: int = 0,
) -> keras.Model:
    """Draws random masks for a model and zeroes the weights that they exclude.

    Any Keras model will do. It is changed in place:

        model = sparsify(keras.applications.ResNet50(weights=None), sparsity=0.9)

    A model made of `Masked` layers keeps the choice of its author: only these layers have masks. In
    any other model whatever multiplies by a kernel gets one: convolutions of all kinds, dense and
    recurrent layers and attention, also in wrappers, custom layers and models inside. Biases,
    scales and embeddings stay dense, and so does what is frozen. `sparsity_report` tells what has
    masks and what stays dense. The masks are saved, loaded and cloned with the model.

    A model gets masks once: a second draw would add its zeros to those of the first.

    Weights keep their values: they are initialised as dense, not rescaled by density.

    Args:
        model: a built Keras model.
        sparsity: fraction of zeros over all weights under masks, in [0, 1).
        distribution: `(shapes, density) -> densities`, one of `sparsity.distributions`.
        draw: `(shape, density, seed) -> mask`, `exact_mask` or `bernoulli_mask`.
        mask_dense: None masks all kernels as above. False and True are the choice of a GAN,
            `GAN.mask_dense` in gin: convolutions without or with dense layers are wrapped, in a new
            model that shares their weights. See `mask_layers`.
        embeddings: mask the tables of `keras.layers.Embedding`, too. Where `mask_dense` is None.
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
    check_seed("sparsify.seed", seed)
    check_bool("sparsify.embeddings", embeddings)
    if mask_dense is not None:
        check_bool("sparsify.mask_dense", mask_dense)
    check_built(model)
    chosen = mask_dense is None and not kernel_masks(model)
    if embeddings and not chosen:
        raise InputError(
            f"embeddings=True is for plain models, and the kernels of {model.name!r} are chosen by "
            "its layers or by `mask_dense`. Leave `embeddings` out."
        )
    kernels = maskable_kernels(model, embeddings) if chosen else []
    if chosen:
        if not kernels:
            raise InputError(
                f"{model.name!r} has no kernel to mask: no convolution, dense or recurrent layer "
                "or attention that trains. Frozen layers get no masks, and embeddings only with "
                "embeddings=True."
            )
        _warn_of_unbuilt_layers(model)
        names = [kernel.name for kernel in kernels]
        shapes = [tuple(kernel.variable.shape) for kernel in kernels]
        densities = _densities(distribution, [kernel.fans for kernel in kernels], sparsity)
    else:
        model, masks = _chosen_masks(model, mask_dense)
        names = [mask.name for mask in masks]
        shapes = [tuple(mask.kernel.shape) for mask in masks]
        densities = _densities(distribution, shapes, sparsity)
    check_draw("sparsify.draw", draw)
    drawn = [
        draw(shape, density, (seed, index))
        for index, (shape, density) in enumerate(zip(shapes, densities, strict=True))
    ]
    for name, mask in zip(names, drawn, strict=True):
        if not tf.math.count_nonzero(mask):
            raise InputError(
                f"At sparsity {sparsity} layer {name!r} of {model.name!r} keeps none of its "
                f"{tf.size(mask)} weights and could never regrow one. Lower the sparsity, or "
                "choose a distribution that keeps small layers dense, such as erk."
            )
    if chosen:
        mask_in_place(model, kernels)
        masks = masks_of(kernel.variable for kernel in kernels)
    for mask, values in zip(masks, drawn, strict=True):
        mask.assign_mask(values)
    for layer in all_layers(model):
        if isinstance(layer, keras.Model):
            forget_traces(layer)
    return model


def _densities(
    distribution: Distribution, shapes: Sequence[Shape], sparsity: float
) -> Sequence[float]:
    return densities_by("sparsify.distribution", distribution, shapes, 1 - sparsity)


def _chosen_masks(
    model: keras.Model, mask_dense: bool | None
) -> tuple[keras.Model, list[KernelMask]]:
    """A model whose author or configuration has chosen what has masks, and these masks of ones."""
    is_plain = mask_dense is not None and not masked_layers(model)
    if mask_dense or is_plain:
        model = mask_layers(model, bool(mask_dense))
    if is_plain:  # Otherwise its author has chosen.
        _warn_of_bare_kernels(model)
    masks = kernel_masks(model)
    if not masks:
        raise InputError(
            f"{model.name!r} has no convolution to mask{_bare(model)}. Frozen layers get "
            "no masks. Wrap layers in `Masked`, or "
            "set GAN.mask_dense = True for its dense layers (mask_dense=True in Python)."
        )
    check_not_frozen(model)
    former = [mask.name for mask in masks if mask.num_active() < np.prod(mask.kernel.shape)]
    if former:
        raise InputError(
            f"{model.name!r} is already sparse: layer {former[0]!r} has zeros in its mask. New "
            "masks would add to them. Build the model again."
        )
    return model, masks


def _warn_of_unbuilt_layers(model: keras.Model) -> None:
    """Warns of layers that have no kernels yet: they will be dense."""
    unbuilt = [layer.name for layer in all_layers(model) if not layer.built]
    if unbuilt:
        _warn(
            f"{', '.join(unbuilt[:4])}{', ...' if unbuilt[4:] else ''} of {model.name!r} "
            "are not built, so they get no masks. Call the model once before it is made sparse."
        )


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
    masks = kernel_masks(model)
    kernels = [mask.kernel for mask in masks]
    all_weights = {id(variable): variable for variable in [*model.trainable_variables, *kernels]}
    return Counts(
        active=sum(mask.num_active() for mask in masks),
        maskable=sum(int(np.prod(kernel.shape)) for kernel in kernels),
        trainable=sum(int(np.prod(variable.shape)) for variable in all_weights.values()),
    )


def sparsity_report(model: keras.Model) -> str:
    """A table of a model's kernels: which have masks and how dense they are, which stay dense.

    Each kernel has its share of all trainable parameters. The lines below it tell the sparsity of
    the weights under masks and of all parameters.

    Args:
        model: a built model, with masks or without.

    Raises:
        InputError: if it is something else, is not built, or has no trainable parameter.
    """
    check_built(model)
    counts = count_weights(model)
    if not counts.trainable:
        raise InputError(f"{model.name!r} has no trainable parameter, so there is nothing to tell.")
    rows = [("kernel", "shape", "weights", "share", "density")]
    for mask in kernel_masks(model):
        shape = "x".join(map(str, mask.kernel.shape))
        size = int(np.prod(mask.kernel.shape))
        share = f"{size / counts.trainable:.1%}"
        rows.append((mask.name, shape, f"{size:,}", share, f"{mask.density():.4f}"))
    dense = unmasked_kernels(model)
    for weights in dense:
        share = f"{weights.size / counts.trainable:.1%}"
        name = f"{weights.layer} ({weights.kind})"
        rows.append((name, "", f"{weights.size:,}", share, "stays dense"))
    others = counts.trainable - counts.maskable - sum(weights.size for weights in dense)
    share = f"{others / counts.trainable:.1%}"
    rows.append(("biases, scales and the like", "", f"{others:,}", share, "stay dense"))
    return "\n".join(
        [
            f"{model.name}: sparsity {counts.sparsity:.4f} of the {counts.maskable:,} weights "
            f"under masks, {counts.overall_sparsity:.4f} of all {counts.trainable:,} parameters",
            columns(rows, num_left=2),
        ]
    )
