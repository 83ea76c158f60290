"""What `SparseGAN.compile` takes: optimizers, the loss, and settings of `Algorithm`."""

import dataclasses
import difflib
from collections.abc import Mapping
from typing import Any

import keras

from stugan_tf.errors import InputError
from stugan_tf.training.algorithm import Algorithm
from stugan_tf.training.losses import Loss, hinge, of_labels


@dataclasses.dataclass(frozen=True)
class Settings:
    """What `compile` says about the `Algorithm`.

    Attributes:
        given: attributes of `Algorithm` by name.
        total_steps: steps of the whole training, or None.
    """

    given: dict[str, Any]
    total_steps: int | None

    def algorithm(self, batch_size: int | None, last: int) -> Algorithm:
        """The `Algorithm` of a training that ends at step `last` unless `compile` says where."""
        settings: dict[str, Any] = {"total_steps": self.total_steps or max(last, 1), **self.given}
        if batch_size is not None:
            settings = {"generator_batch_size": batch_size, **settings, "batch_size": batch_size}
        return Algorithm(**settings)


def check_settings(settings: Mapping[str, Any]) -> None:
    """Raises InputError for arguments of `compile` that are no settings of `Algorithm`."""
    known = {field.name for field in dataclasses.fields(Algorithm)} - {"batch_size"}
    for name in settings:
        if name == "batch_size":
            raise InputError("batch_size is an argument of `fit`, not of `compile`.")
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f" Did you mean {close[0]!r}?" if close else ""
            raise InputError(
                f"`compile` of a SparseGAN has no argument {name!r}.{hint} Its other settings are "
                f"{', '.join(sorted(known))}."
            )


def adversarial_loss(loss: Any) -> Loss:
    """The loss that `compile` got, or the paper's; raises InputError if it is none."""
    if loss is None:
        return hinge()
    if isinstance(loss, Loss):
        return loss
    if isinstance(loss, keras.losses.Loss):
        return of_labels(loss)
    raise InputError(
        f"loss must be one of st.hinge(), st.non_saturating(), st.wasserstein() and "
        f"st.least_squares(), or a Keras loss of labels and logits, got {loss!r}. For the loss of "
        "Keras' examples give keras.losses.BinaryCrossentropy(from_logits=True)."
    )
