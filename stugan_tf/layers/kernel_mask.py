"""The mask of one kernel, tied to the kernel as its constraint: zeros stay zeros."""

import math
import weakref
from collections.abc import Callable, Iterable
from typing import Any

import keras
import tensorflow as tf

from stugan_tf.adapters.keras_internals import all_layers, own_weights
from stugan_tf.adapters.optimizer_internals import average_in_update
from stugan_tf.errors import InputError


class KernelMask(keras.constraints.Constraint):
    """Keeps `kernel == kernel * kernel_mask`, whatever optimizer updates the kernel.

    It is the constraint of the kernel, and Keras' optimizers apply constraints after each update. A
    constraint that the kernel has already is applied to the zeroed kernel. Zeros that it moves are
    set to zero again. An average that the optimizer keeps of the kernel (`use_ema`) gets the same
    zeros, because Keras puts averages into kernels without a constraint: every so many steps, at
    the end of `fit`, or by `SwapEMAWeights`.

    Attributes:
        kernel: the variable.
        kernel_mask: a variable of zeros and ones in the shape of the kernel. It is not trained.
        name: name of the layer, for messages.
        layer: the layer that has the kernel, or None if it is not known.
        layer_supports_jit: whether XLA can compile the layer where it computes densely.
        execution: how products with the kernel are computed, see `layers.masked.set_execution`.
        needs_gradient_of_zeros: function that says, each time that the layer is called, whether the
            next update needs the gradient of the weights outside the mask: a bool or a bool
            scalar. None if nobody knows, which counts as True.
    """

    def __init__(
        self,
        kernel: keras.Variable,
        kernel_mask: keras.Variable,
        name: str,
        layer: Any = None,
    ) -> None:
        """Becomes the constraint of `kernel`."""
        self.kernel = kernel
        self.kernel_mask = kernel_mask
        self.name = name
        self.layer = layer
        self.layer_supports_jit: bool = getattr(layer, "supports_jit", True)
        self.execution = "dense"
        self.needs_gradient_of_zeros: Callable[[], bool | tf.Tensor] | None = None
        self._own_constraint = kernel.constraint
        self._average: Callable[[], keras.Variable | None] = lambda: None
        kernel.constraint = self

    def __call__(self, w: tf.Tensor) -> tf.Tensor:
        """The kernel, zero outside the mask, and under the constraint that it had before."""
        average = average_in_update(self.kernel)
        if average is not None:
            self._average = weakref.ref(average)
            average.assign(self._zeroed(tf.convert_to_tensor(average)))
        w = self._zeroed(tf.convert_to_tensor(w))
        if self._own_constraint is None:
            return w
        return self._zeroed(tf.convert_to_tensor(self._own_constraint(w)))

    def _zeroed(self, w: tf.Tensor) -> tf.Tensor:
        # Not a product: zero times infinity is not zero.
        return tf.where(self.kernel_mask.value > 0, w, tf.zeros_like(w))

    def assign_mask(self, mask: tf.Tensor) -> None:
        """Replaces the mask and sets the weights outside it to zero.

        Args:
            mask: zeros and ones in the shape of the kernel, of any type.

        Raises:
            InputError: if the mask has another shape, or values other than 0 and 1.
        """
        mask = tf.cast(tf.convert_to_tensor(mask), self.kernel_mask.dtype)
        shape, expected = tuple(mask.shape), tuple(self.kernel.shape)
        if shape != expected:
            raise InputError(
                f"The mask for {self.name!r} must have the shape of its kernel, {expected}, got "
                f"{shape}. Is it the mask of another layer or model?"
            )
        if not tf.is_symbolic_tensor(mask):
            self._check_values(mask)
        self.kernel_mask.assign(mask)
        self.kernel.assign(self.kernel * tf.cast(mask, self.kernel.dtype))
        average = self._average()
        if average is not None:
            average.assign(self._zeroed(tf.convert_to_tensor(average)))

    def num_active(self) -> int:
        """The number of ones in the mask, a Python integer."""
        return int(tf.math.count_nonzero(self.kernel_mask.value))

    def density(self) -> float:
        """The fraction of ones in the mask, a Python float."""
        return self.num_active() / math.prod(self.kernel.shape)

    def check_zeros(self) -> None:
        """Raises InputError unless the kernel is zero outside the mask, and used as it is."""
        if getattr(self.layer, "lora_enabled", False):
            raise InputError(
                f"Layer {self.name!r} adds a dense product to its kernel (enable_lora), so it is "
                "not sparse as its mask says. LoRA is for layers without masks."
            )
        mask = tf.convert_to_tensor(self.kernel_mask.value)
        outside = tf.where(mask == 0, tf.convert_to_tensor(self.kernel.value), 0)
        number = int(tf.math.count_nonzero(outside))
        if number:
            raise InputError(
                f"{number:,} weights of layer {self.name!r} are not zero although they are outside "
                "its mask, so the model is denser than its masks say. Something changed them after "
                "the mask was applied: an average that ignores the masks (@ema), a callback, or "
                "code of your own. Call `assign_mask` after each change."
            )
        self._check_values(mask)

    def _check_values(self, mask: tf.Tensor) -> None:
        if not tf.reduce_all((mask == 0) | (mask == 1)):
            raise InputError(
                f"The mask of layer {self.name!r} has values other than 0 and 1. Give "
                "`assign_mask` zeros and ones."
            )


def mask_of(variable: keras.Variable) -> KernelMask | None:
    """The `KernelMask` of a variable, or None if it is under no mask."""
    constraint = getattr(variable, "constraint", None)
    return constraint if isinstance(constraint, KernelMask) else None


def masks_of(variables: Iterable[keras.Variable]) -> list[KernelMask]:
    """The masks of those variables that are under one, in the order of the variables."""
    return [mask for mask in map(mask_of, variables) if mask is not None]


def kernel_masks(model: keras.layers.Layer) -> list[KernelMask]:
    """The masks of all kernels of a model, each once, in the order in which Keras lists the layers.

    It does not matter how a kernel got its mask: by `Masked`, or in place by `sparsify`.

    Args:
        model: a model or layer. Layers that are not built have no kernels and so no masks.
    """
    found = {id(mask): mask for layer in all_layers(model) for mask in masks_of(own_weights(layer))}
    return list(found.values())
