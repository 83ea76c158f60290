"""Masks from one batch before training: SNIP and GraSP, for any Keras model.

Both rank the weights of all layers together and keep the best. They differ in the criterion, which
is the one that topology updates can drop by: `connection_sensitivity` or `gradient_flow`.

    model = st.snip(model, images, labels, "sparse_categorical_crossentropy", sparsity=0.95)
"""

from collections.abc import Callable, Iterable
from typing import Any

import keras
import tensorflow as tf
from absl import logging

from stugan_tf.checks import check_fraction
from stugan_tf.errors import InputError
from stugan_tf.layers.kernel_mask import KernelMask, masks_of
from stugan_tf.layers.moving import undisturbed
from stugan_tf.sparsity.criteria import Criterion, connection_sensitivity, gradient_flow
from stugan_tf.sparsity.hessian import hessian_gradients
from stugan_tf.sparsity.sparsify import sparsify
from stugan_tf.sparsity.topology import Scores, prune_globally


def snip(
    model: keras.Model,
    x: Any,
    y: Any,
    loss: str | Callable[[Any, Any], Any],
    sparsity: float,
) -> keras.Model:
    """Keeps the weights whose connections the loss of one batch is most sensitive to.

    SNIP (Lee et al. 2019): scores are |g w|, g the gradient of the loss. The authors' batch is as
    large as in training, and their initial weights are scaled by the size of the layer, as Glorot's
    are.

    The forward pass is one of training: batch norm uses the statistics of the batch, and dropout
    drops. What it moves, such as moving averages, is restored. Sums that layers add to the loss
    (`model.losses`) do not count.

    Args:
        model: a built Keras model. If it has no masks, `sparsify(model, 0.0)` gives it masks of
            ones first; call it yourself to choose what gets masks. If the model is sparse already,
            its zeros stay, and count.
        x: a batch of inputs, as for a call of the model.
        y: the targets of the batch, as `loss` takes them.
        loss: a loss of Keras or its name, or `(y, outputs) -> loss`, a tensor of any shape whose
            mean counts.
        sparsity: fraction of zeros over all weights under masks, in [0, 1). Exactly
            round((1 - sparsity) * weights) stay.

    Returns:
        The model with masks: `model` itself if it had some.

    Raises:
        InputError: if the sparsity is impossible, the model has nothing to mask, the loss is
            unknown, or scores are not finite.
    """
    return _pruned(model, x, y, loss, sparsity, connection_sensitivity)


def grasp(
    model: keras.Model,
    x: Any,
    y: Any,
    loss: str | Callable[[Any, Any], Any],
    sparsity: float,
) -> keras.Model:
    """Keeps the weights that the gradient flow of one batch needs most.

    GraSP (Wang et al. 2020): scores are w (H g), g the gradient of the loss and H its Jacobian. In
    the authors' code the batch has as many examples of each class, and the logits are divided by a
    temperature of 200 before the softmax. Here the loss can do so:

        cross_entropy = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model = st.grasp(model, x, y, lambda y, logits: cross_entropy(y, logits / 200), 0.95)

    The arguments, the result and the errors are those of `snip`.
    """
    return _pruned(model, x, y, loss, sparsity, gradient_flow)


def warn_of_empty_layers(masks: Iterable[KernelMask], network: str) -> None:
    """Logs a warning that names the layers that have lost all their weights.

    Args:
        masks: masks of kernels.
        network: what the layers are in, for the message.
    """
    empty = [mask.name for mask in masks if not mask.num_active()]
    if empty:
        logging.warning("Pruning removes all weights of %s in %s.", ", ".join(empty), network)


def _pruned(
    model: keras.Model,
    x: Any,
    y: Any,
    loss: str | Callable[[Any, Any], Any],
    sparsity: float,
    criterion: Any,
) -> keras.Model:
    """The model with the masks that a criterion keeps."""
    check_fraction("sparsity", sparsity, "It is the fraction of zeros: write 0.9 for 90% sparse.")
    loss = _loss(loss)
    if not masks_of(model.trainable_variables):
        model = sparsify(model, 0.0)
    masks = masks_of(model.trainable_variables)
    kernels = [mask.kernel.value for mask in masks]
    active = [tf.convert_to_tensor(mask.kernel_mask.value) for mask in masks]

    def gradients() -> list[tf.Tensor]:
        with tf.GradientTape() as tape:
            value = tf.reduce_mean(tf.cast(loss(y, model(x, training=True)), tf.float32))
        found = tape.gradient(value, kernels, unconnected_gradients=tf.UnconnectedGradients.ZERO)
        return list(map(tf.convert_to_tensor, found))  # Those of embeddings are IndexedSlices.

    with undisturbed(model):
        if Criterion.of(criterion).gradient == "hessian":
            found = hessian_gradients(gradients, kernels, active)
        else:
            found = gradients()
    scores = [
        criterion(tf.convert_to_tensor(kernel), gradient, (0, 0))
        for kernel, gradient in zip(kernels, found, strict=True)
    ]
    for mask, score in zip(masks, scores, strict=True):
        if not bool(tf.reduce_all(tf.math.is_finite(score))):
            raise InputError(
                f"The scores of layer {mask.name!r} are not finite: the loss of this batch, or its "
                "gradient, is infinite or NaN. Look at the batch, the loss and the first weights."
            )
    kept, _ = prune_globally(active, Scores(scores), tf.constant(sparsity, tf.float64))
    for mask, new in zip(masks, kept, strict=True):
        mask.assign_mask(new)
    warn_of_empty_layers(masks, repr(model.name))
    return model


def _loss(loss: str | Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    try:
        found = keras.losses.get(loss)
    except (TypeError, ValueError):
        found = None
    if not callable(found):
        raise InputError(
            f"`loss` must be a loss of Keras, its name, or a function `(y, outputs) -> loss`, got "
            f"{loss!r}."
        )
    return found
