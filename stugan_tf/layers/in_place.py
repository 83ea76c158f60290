"""Masks for the kernels of layers that were made without them, kept by all of Keras' saving.

A layer is changed in place. It holds the masks of its kernels as one more layer, so its weights are
saved, loaded and listed with the masks. Keras makes a layer again from its configuration, so the
masks are in the configuration, too: the class of the layer is replaced by one that adds them and
that has the same name. This holds for the layers that have kernels, and for custom layers, wrappers
and subclassed models around them. Functional and sequential models are described by their layers.
"""

import base64
import functools
import math
import zlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import keras
import numpy as np
import tensorflow as tf

from stugan_tf.adapters.keras_internals import (
    add_layer,
    all_layers,
    class_description,
    has_default_config,
    is_rebuilt_from_layers,
    is_stateless,
    mark_default_config,
    own_weights,
    save_as,
    set_path,
)
from stugan_tf.errors import InputError
from stugan_tf.layers.execution import replace_product
from stugan_tf.layers.kernel_mask import KernelMask, kernel_masks, mask_of, masks_of
from stugan_tf.layers.maskable import Kernel

if TYPE_CHECKING:
    _Base: TypeAlias = keras.layers.Layer  # Each class made of `SparseLayer` has one more base.
else:
    _Base = object

_SAVED = "kernel_masks"  # The key of the masks in a configuration.
_REGISTERED = "stugan_tf>SparseLayer"
_PENDING = "_pending_masks"


class KernelMasks(keras.layers.Layer):
    """Holds the mask variables of the kernels of one layer. It is never called."""

    def __init__(self, kernels: Sequence[Kernel]) -> None:
        super().__init__(name=_SAVED)
        masks = []
        for layer, kernel in kernels:
            # The mask is on each device that has a copy of the kernel.
            strategy = getattr(kernel.value, "distribute_strategy", tf.distribute.get_strategy())
            with strategy.scope():
                ones = keras.Variable(
                    np.ones(kernel.shape, np.float32),
                    trainable=False,
                    autocast=False,
                    name=f"{kernel.name}_mask",
                )
            set_path(ones, f"{kernel.path}_mask")
            masks.append(KernelMask(kernel, ones, Kernel(layer, kernel).name, layer))
            if kernel.name == "kernel":
                replace_product(masks[-1])
            # Checkpoints of TensorFlow find variables in attributes only.
            setattr(self, ones.name, ones)
        object.__setattr__(self, "masks", masks)  # Keras does not take it for state.
        self.built = True

    def save_own_variables(self, store: Any) -> None:
        """Saves the masks. Raises InputError if a weight outside them is not zero."""
        for mask in self.masks:
            mask.check_zeros()
        super().save_own_variables(store)

    def load_own_variables(self, store: Any) -> None:
        """Loads the masks. Raises InputError if what was saved had none."""
        if not store.keys():
            raise InputError(
                f"The file has no masks for layer {self.masks[0].name!r}, so it is of a dense "
                "model. Load it into the dense model, and call `sparsify` then."
            )
        super().load_own_variables(store)


def mask_in_place(model: keras.Model, kernels: Sequence[Kernel]) -> None:
    """Puts kernels of a model under masks of ones.

    Args:
        model: a built model.
        kernels: some of its kernels, without masks.
    """
    by_layer: dict[int, list[Kernel]] = {}
    for kernel in kernels:
        by_layer.setdefault(id(kernel.layer), []).append(kernel)
    for group in by_layer.values():
        add_layer(group[0].layer, _SAVED, KernelMasks(group))
    _keep_masks(model)


def plain_class(layer: keras.layers.Layer) -> type:
    """The class of a layer before `mask_in_place` changed it."""
    return getattr(type(layer), "plain", type(layer))


def plain_config(layer: keras.layers.Layer) -> dict[str, Any]:
    """The configuration of a layer without the masks that `mask_in_place` added."""
    return {key: value for key, value in layer.get_config().items() if key != _SAVED}


@keras.saving.register_keras_serializable("stugan_tf")
class SparseLayer(_Base):
    """What a layer with masks in place does besides what its class does: it remembers its masks.

    Attributes:
        plain: the class that the layer had before.
    """

    plain: Any

    def get_config(self) -> dict[str, Any]:
        """The configuration of the plain layer, with its class and the masks of all kernels."""
        layer: Any = self
        masks = vars(self).get(_PENDING) or _described(layer)
        kept = {"class": class_description(self.plain), "masks": masks}
        return {**self.plain.get_config(layer), _SAVED: kept}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Any:
        """Makes the layer again. It gets its masks as soon as it is built."""
        plain = dict(config)
        kept = plain.pop(_SAVED, None)
        made_here: Any = getattr(cls, "plain", None)
        if kept is None:
            return made_here.from_config(plain)
        if made_here is not None and class_description(made_here) == kept["class"]:
            layer = made_here.from_config(plain)
        else:
            layer = keras.saving.deserialize_keras_object({**kept["class"], "config": plain})
        _change_class(layer)
        vars(layer)[_PENDING] = kept["masks"]
        layer._settle()
        return layer

    def build_from_config(self, config: Mapping[str, Any]) -> None:
        """Builds the layer when it is loaded."""
        super().build_from_config(config)
        self._settle()

    def enable_lora(self, *args: Any, **kwargs: Any) -> None:
        """Refuses LoRA, as Keras does for kernels with constraints."""
        del args, kwargs
        raise InputError(
            f"Layer {self.name!r} has a mask. LoRA would add a dense product to its kernel, and "
            "Keras saves the sum. Call enable_lora before st.sparsify: then the layer stays dense."
        )

    def _post_build(self) -> None:
        super()._post_build()
        self._settle()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Calls the layer, which builds it the first time."""
        outputs = super().__call__(*args, **kwargs)
        self._settle(is_called=True)
        return outputs

    def _settle(self, is_called: bool = False) -> None:
        """Gives the kernels the masks of the configuration, if all of them are there."""
        pending = vars(self).get(_PENDING)
        if pending is None or is_stateless():
            return
        layer: Any = self
        kernels = _found(layer, pending)
        if kernels is None:
            if is_called:
                raise InputError(
                    f"Layer {layer.name!r}, a {self.plain.__name__}, does not have the kernels "
                    "that its saved masks are for. Has its class changed since it was saved?"
                )
            return
        for member in _members(layer):  # The masks of this layer are those of the layers inside.
            vars(member).pop(_PENDING, None)
        with tf.init_scope():
            mask_in_place(layer, [one for one in kernels if mask_of(one.variable) is None])
            for kernel, described in zip(kernels, pending, strict=True):
                (mask,) = masks_of([kernel.variable])
                mask.assign_mask(_unpacked(described))


def _keep_masks(model: keras.layers.Layer) -> None:
    for layer in _members(model):
        if not is_rebuilt_from_layers(layer) and kernel_masks(layer):
            _change_class(layer)


def _change_class(layer: keras.layers.Layer) -> None:
    if not isinstance(layer, SparseLayer):
        plain: Any = type(layer)
        object.__setattr__(layer, "__class__", _sparse_class(plain))


@functools.cache
def _sparse_class(plain: Any) -> type:
    """A subclass that remembers masks, under the name of the plain class."""
    body: dict[str, Any] = {
        "plain": plain,
        "__module__": plain.__module__,
        "__doc__": plain.__doc__,
    }
    if has_default_config(plain):
        body["get_config"] = mark_default_config(lambda self: SparseLayer.get_config(self))
    kind = type(plain.__name__, (SparseLayer, plain), body)
    save_as(kind, _REGISTERED)
    return kind


def _members(layer: keras.layers.Layer) -> list[keras.layers.Layer]:
    """A layer and all layers inside it, but for those that hold masks."""
    return [one for one in all_layers(layer) if not isinstance(one, KernelMasks)]


def _described(layer: keras.layers.Layer) -> list[dict[str, Any]]:
    """The masks of a layer for its configuration, with the places of their kernels."""
    return [
        {
            "layer": index,
            "weight": mask.kernel.name,
            "shape": list(mask.kernel.shape),
            "ones": _packed(mask),
        }
        for index, member in enumerate(_members(layer))
        if not isinstance(member, keras.layers.Wrapper)
        for mask in masks_of(own_weights(member))
    ]


def _found(layer: keras.layers.Layer, described: Sequence[Mapping]) -> list[Kernel] | None:
    """The kernels at the places of these masks, or None if one is not there."""
    members = _members(layer)
    kernels = []
    for mask in described:
        member = members[mask["layer"]] if mask["layer"] < len(members) else None
        for variable in own_weights(member) if member is not None else ():
            if (variable.name, list(variable.shape)) == (mask["weight"], list(mask["shape"])):
                kernels.append(Kernel(member, variable))
                break
        else:
            return None
    return kernels


def _packed(mask: KernelMask) -> str:
    """The bits of a mask as text."""
    bits = np.packbits(np.asarray(mask.kernel_mask) > 0)
    return base64.b64encode(zlib.compress(bits.tobytes())).decode("ascii")


def _unpacked(described: Mapping[str, Any]) -> np.ndarray:
    shape, size = tuple(described["shape"]), math.prod(described["shape"])
    # A damaged file makes no more than the bits of this shape.
    bits = zlib.decompressobj().decompress(base64.b64decode(described["ones"]), size // 8 + 1)
    ones = np.unpackbits(np.frombuffer(bits, np.uint8), count=size)
    return ones.reshape(shape).astype(np.float32)
