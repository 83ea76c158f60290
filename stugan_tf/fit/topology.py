"""The masks that an optimizer changes, and all that changes along with them."""

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from stugan_tf.adapters.optimizer_internals import Slot
from stugan_tf.layers.kernel_mask import KernelMask
from stugan_tf.sparsity.explorer import TopologyChange, change_topology
from stugan_tf.sparsity.rule import TopologyRule

# Slots that are not moments. An average of weights starts from zero, like a new weight. Sums of
# gradients are zero whenever the topology changes.
_AVERAGE, _SUM = "average", "gradient_accumulator"


class MaskedTopology:
    """The masks of a model with their history, and the slots of the weights.

    Attributes:
        masks: the masks.
        ever_active: for each mask, 1 where a weight was active at any time (ITOP).
        growth_gradients: for each mask, the gradient averaged over the steps; empty without
            `rule.gradient_momentum`.
        births: for each mask, the number of updates before each weight was born; empty unless
            `rule.slots` is "age".
    """

    def __init__(
        self,
        optimizer: keras.optimizers.Optimizer,
        rule: TopologyRule,
        masks: Sequence[KernelMask],
        slots: Sequence[Slot],
    ) -> None:
        """Adds its variables to an optimizer, which saves them.

        Args:
            optimizer: the optimizer that is being built.
            rule: a `TopologyRule`.
            masks: the masks of the variables that the optimizer updates.
            slots: the slots of the inner optimizer.
        """
        self.masks = list(masks)
        self._rule = rule

        def variables(name: str, start: str) -> list[keras.Variable]:
            return [
                optimizer.add_variable_from_reference(
                    mask.kernel_mask, name, _Present(mask) if start == "mask" else start
                )
                for mask in self.masks
            ]

        self.ever_active = variables("ever_active", "mask")
        self.growth_gradients = (
            variables("growth_gradient", "zeros") if rule.gradient_momentum else []
        )
        self.births = variables("birth", "zeros") if rule.slots == "age" else []
        self._slots = [[slot for slot in slots if _belongs(slot, mask)] for mask in self.masks]

    def average(self, gradients: Sequence[tf.Tensor], is_made: tf.Tensor) -> None:
        """Adds the gradients of a step to the averages that growth sees.

        Args:
            gradients: a gradient for each mask, reduced over replicas.
            is_made: bool scalar, whether the step has updated the weights.
        """
        decay = self._rule.gradient_momentum
        for kept, gradient in zip(self.growth_gradients, gradients, strict=True):
            average = decay * kept + (1 - decay) * tf.cast(gradient, kept.dtype)
            kept.assign(tf.where(is_made, average, kept))

    def change(
        self, gradients: Sequence[tf.Tensor], step: tf.Tensor, amount: tf.Tensor, seed: tf.Tensor
    ) -> None:
        """Makes one topology update.

        Args:
            gradients: a gradient for each mask, reduced over replicas. With
                `rule.gradient_momentum` criteria see `growth_gradients` instead.
            step: int64 scalar, weight updates done.
            amount: float64 tensor, the amount of the rule.
            seed: int [2], for random scores.
        """
        seen = self.growth_gradients or gradients
        changes = change_topology(self._rule, self.masks, seen, amount, seed)
        for ever_active, slots, change in zip(self.ever_active, self._slots, changes, strict=True):
            ever_active.assign(tf.maximum(ever_active, change.mask))
            for slot in slots:
                self._change_slot(slot, change)
        for birth, change in zip(self.births, changes, strict=False):
            birth.assign(tf.where(change.restarts(), tf.cast(step, birth.dtype), birth))

    def _change_slot(self, slot: Slot, change: TopologyChange) -> None:
        variable = slot.variable
        if slot.name == _AVERAGE:
            stays = (change.mask > 0) & ~change.restarts()
            variable.assign(tf.where(stays, variable, tf.zeros_like(variable)))
        elif slot.name != _SUM and self._rule.slots != "keep":
            slot.restart(change.restarts())


class _Present(keras.initializers.Initializer):
    """Initial values of a variable: a mask as it is now."""

    def __init__(self, mask: KernelMask) -> None:
        self._mask = mask

    def __call__(self, shape: Any, dtype: Any = None) -> tf.Tensor:
        del shape
        return tf.cast(tf.convert_to_tensor(self._mask.kernel_mask.value), dtype)


def _belongs(slot: Slot, mask: KernelMask) -> bool:
    """Whether a slot is of the kernel; `MaskedAdam` has ages in the shape of the mask."""
    return slot.reference is mask.kernel or slot.reference is mask.kernel_mask
