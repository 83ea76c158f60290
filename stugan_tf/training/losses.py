"""Adversarial losses, which the two networks minimise: logits in, scalars out."""

from collections.abc import Callable
from typing import NamedTuple

import gin
import keras
import tensorflow as tf

from stugan_tf.contracts import Trial
from stugan_tf.errors import InputError


class Loss(NamedTuple):
    """The two sides of an adversarial loss.

    Logits are float [B, 1]. Each side returns a float32 scalar, the mean over the batch.

    Attributes:
        discriminator: `(real_logits, fake_logits) -> loss`.
        generator: `(fake_logits) -> loss`.
    """

    discriminator: Callable[[tf.Tensor, tf.Tensor], tf.Tensor]
    generator: Callable[[tf.Tensor], tf.Tensor]


def check_loss(name: str, loss: Loss) -> None:
    """Raises InputError unless both sides of `loss` are differentiable means over a batch."""
    real, fake = tf.constant([[0.5], [-0.25]]), tf.constant([[-0.5], [0.125]])
    for side, arguments in {
        "discriminator": {"real_logits": real, "fake_logits": fake},
        "generator": {"fake_logits": fake},
    }.items():
        trial = Trial(
            f"{name}'s {side}",
            getattr(loss, side),
            f"`({', '.join(arguments)}) -> loss`, a float32 scalar",
        )
        with tf.GradientTape() as tape:
            tape.watch(fake)
            value = trial.of(**arguments)
        trial.check_tensor("its result", value, ())
        if tape.gradient(value, fake) is None:
            raise trial.refusal("no gradient comes back from its result to fake_logits")


@gin.configurable
def hinge() -> Loss:
    """Hinge loss, the paper's: E[relu(1 - D(x))] + E[relu(1 + D(G(z)))] and -E[D(G(z))]."""
    return Loss(
        discriminator=lambda real, fake: _mean(tf.nn.relu(1 - real)) + _mean(tf.nn.relu(1 + fake)),
        generator=lambda fake: -_mean(fake),
    )


@gin.configurable
def non_saturating() -> Loss:
    """The loss of Goodfellow et al. (2014): cross-entropy; G maximises log D(G(z))."""
    return Loss(
        discriminator=lambda real, fake: _mean(tf.nn.softplus(-real)) + _mean(tf.nn.softplus(fake)),
        generator=lambda fake: _mean(tf.nn.softplus(-fake)),
    )


@gin.configurable
def wasserstein() -> Loss:
    """The critic's loss of Arjovsky et al. (2017); spectral norm keeps the critic Lipschitz."""
    return Loss(
        discriminator=lambda real, fake: _mean(fake) - _mean(real),
        generator=lambda fake: -_mean(fake),
    )


@gin.configurable
def least_squares() -> Loss:
    """The loss of Mao et al. (2017): half the squared distance to 1 for real, to 0 for fake."""
    return Loss(
        discriminator=lambda real, fake: (_mean((real - 1) ** 2) + _mean(fake**2)) / 2,
        generator=lambda fake: _mean((fake - 1) ** 2) / 2,
    )


def of_labels(loss: keras.losses.Loss) -> Loss:
    """The adversarial loss that a Keras loss of labels and logits makes.

    The discriminator learns the labels 1 of real and 0 of generated images, by the mean over both.
    The generator learns to get the label 1. With `BinaryCrossentropy(from_logits=True)` this is
    `non_saturating` with half the discriminator's loss.

    Args:
        loss: a loss of labels and logits, such as
            `keras.losses.BinaryCrossentropy(from_logits=True)`.

    Raises:
        InputError: if the loss takes probabilities.
    """
    if loss.get_config().get("from_logits") is False:
        raise InputError(
            f"The loss {type(loss).__name__}(from_logits=False) takes probabilities, but the "
            "discriminator makes logits. Set from_logits=True, and end the discriminator without a "
            "sigmoid."
        )

    def of(logits: tf.Tensor, label: float) -> tf.Tensor:
        return _mean(loss(tf.fill(tf.shape(logits), label), logits))

    return Loss(
        discriminator=lambda real, fake: (of(real, 1.0) + of(fake, 0.0)) / 2,
        generator=lambda fake: of(fake, 1.0),
    )


def _mean(values: tf.Tensor) -> tf.Tensor:
    return tf.reduce_mean(tf.cast(values, tf.float32))
