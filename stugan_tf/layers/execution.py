"""How masked layers compute: dense as Keras does, or on their non-zeros."""

import contextlib
import functools
import math
import threading
from collections.abc import Iterator
from typing import Any

import keras
import tensorflow as tf
from absl import logging

from stugan_tf.adapters.tensorflow_internals import is_compiled_by_xla
from stugan_tf.errors import InputError
from stugan_tf.kernels import library, tuning
from stugan_tf.kernels.convolution import Choice, masked_convolution
from stugan_tf.layers.kernel_mask import KernelMask

EXECUTIONS = ("dense", "sparse", "auto")

# The size that `auto` assumes for a batch whose size is not known when a function is traced.
_USUAL_BATCH = 16

DENSE = Choice(forward=False, input_gradient=False, kernel_gradient=False)
_context = threading.local()


def check_execution(name: str, execution: str) -> None:
    """Raises InputError unless `execution` is one of `EXECUTIONS`."""
    if execution not in EXECUTIONS:
        raise InputError(f"{name} must be one of {', '.join(EXECUTIONS)}, got {execution!r}.")


@contextlib.contextmanager
def gradients_of_zeros(wanted: bool | tf.Tensor) -> Iterator[None]:
    """Says whether layers called inside need the gradient of weights outside their masks.

    Without this context they compute it, as dense execution does, unless what trains them says that
    it needs none (`KernelMask.needs_gradient_of_zeros`). Where it is not wanted, sparse execution
    leaves it zero and saves the work.

    Args:
        wanted: a Python bool, or a bool tensor of the function that is being traced.
    """
    former = getattr(_context, "wanted", None)
    _context.wanted = wanted
    try:
        yield
    finally:
        _context.wanted = former


@contextlib.contextmanager
def densely() -> Iterator[None]:
    """Functions traced inside compute densely: the sparse kernels have no second derivatives."""
    former = getattr(_context, "densely", False)
    _context.densely = True
    try:
        yield
    finally:
        _context.densely = former


def is_supported(layer: Any) -> bool:
    """Whether a Keras layer can run on its non-zeros.

    It can if it computes in float32 and is a dense layer or an NHWC convolution of stride 1. An
    activity regularizer needs the call of the layer itself.
    """
    if layer.compute_dtype != "float32" or layer.activity_regularizer is not None:
        return False
    if isinstance(layer, keras.layers.Conv2D):
        return (
            layer.data_format == "channels_last"
            and tuple(layer.strides) == (1, 1)
            and tuple(layer.dilation_rate) == (1, 1)
            and layer.groups == 1
            and layer.padding in ("same", "valid")
        )
    return isinstance(layer, keras.layers.Dense)


def set_mask_execution(masked: KernelMask, execution: str) -> None:
    """Sets `masked.execution`, and lets Keras know whether XLA can still compile the layer.

    XLA cannot run the sparse kernels. So `compile` does without it, whether it is told "auto" or
    True, which gives a warning. On accelerators there are no sparse kernels, so nothing changes.
    """
    masked.execution = execution
    layer = masked.layer
    if layer is not None and is_supported(layer):
        accelerators = [one for one in ("GPU", "TPU") if tf.config.list_physical_devices(one)]
        runs_densely = execution == "dense" or bool(accelerators)
        layer.supports_jit = masked.layer_supports_jit and runs_densely


def obstacle() -> str | None:
    """Why nothing can run on its non-zeros in the function being traced, or None."""
    if tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("TPU"):
        return "they are for CPUs, and this process has an accelerator"
    if is_compiled_by_xla():
        return "XLA (jit_compile) cannot run them"
    try:
        library.load()
    except library.KernelsUnavailableError as error:
        return str(error)
    return None


def zero_gradients(mask: KernelMask | None = None) -> bool | tf.Tensor:
    """The innermost `gradients_of_zeros` that is open here; without one what the mask says."""
    wanted = getattr(_context, "wanted", None)
    if wanted is None and mask is not None and mask.needs_gradient_of_zeros is not None:
        wanted = mask.needs_gradient_of_zeros()
    return True if wanted is None else wanted


def is_replaceable(layer: keras.layers.Layer) -> bool:
    """Whether a layer is a convolution as Keras computes it.

    Keras calls `convolution_op` so that it can be replaced. A spectral layer calls it with
    W / sigma. Subclasses that override it are left alone.
    """
    own = getattr(type(layer), "convolution_op", None)
    return own is keras.layers.Conv2D.convolution_op


def replace_product(masked: KernelMask) -> None:
    """Lets the product of a layer with its masked kernel run on the non-zeros.

    From now on the layer computes by the execution of the mask. Layers without such a product go on
    computing densely.
    """
    layer: Any = masked.layer
    if is_replaceable(layer):
        convolve = layer.convolution_op

        def convolution_op(inputs: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
            outputs = product(masked, inputs, kernel)
            return convolve(inputs, kernel) if outputs is None else outputs

        layer.convolution_op = convolution_op
        return

    def matmul_op(inputs: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
        outputs = product(masked, inputs, kernel)
        return keras.ops.matmul(inputs, kernel) if outputs is None else outputs

    if hasattr(layer, "matmul_op"):
        layer.matmul_op = matmul_op
    elif getattr(type(layer), "call", None) is keras.layers.Dense.call:
        call = layer.call

        def multiply(inputs: tf.Tensor, *args: Any, **kwargs: Any) -> tf.Tensor:
            if masked.execution == "dense" or not is_supported(layer):
                return call(inputs, *args, **kwargs)
            outputs = matmul_op(inputs, layer.kernel)
            if layer.use_bias:
                outputs = outputs + layer.bias
            return outputs if layer.activation is None else layer.activation(outputs)

        layer.call = multiply


def choose(masked: Any, size: Any, **fused: Any) -> Choice:
    """The `Choice` of a masked layer by its execution.

    Args:
        masked: a `KernelMask` or a `Masked` layer.
        size: (B, H, W) of its inputs. An unknown size is None.
        **fused: the operations fused with it, by their names in `tuning.Problem`.
    """
    if masked.execution == "dense":
        return DENSE
    # Images of an unknown size count as large enough.
    if masked.execution == "sparse" or None in size[1:]:
        return Choice()
    batch, height, width = size
    kernel_shape = tuple(masked.kernel.shape)
    with tf.init_scope():  # Measures now, even while a function is traced.
        problem = tuning.Problem(
            batch or _USUAL_BATCH,
            height,
            width,
            kernel_shape if len(kernel_shape) == 4 else (1, 1, *kernel_shape),
            getattr(masked.layer, "padding", "valid"),
            float(f"{masked.density():.2g}"),
            **fused,
        )
        return tuning.fastest(problem)


def product(masked: KernelMask, inputs: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor | None:
    """The convolution or matrix product of a masked layer.

    Args:
        masked: the mask of the kernel of a layer.
        inputs: float32 [B, H, W, C], or [..., C] for a matrix product.
        kernel: float32 [h, w, C, C'] or [C, C'], zero outside the mask.

    Returns:
        The outputs. None where the layer should compute as it would without a mask: because dense
        execution is chosen, or because the kernels cannot run or do not support the layer.
    """
    if masked.execution == "dense" or not is_supported(masked.layer) or not can_run():
        return None
    inputs, kernel = tf.convert_to_tensor(inputs), tf.convert_to_tensor(kernel)
    if len(kernel.shape) == 4:
        choice = choose(masked, inputs.shape[:3])
        if choice == DENSE:
            return None
        mask = masked.kernel_mask.value
        return masked_convolution(
            inputs, kernel, mask, masked.layer.padding, choice, zero_gradients(masked)
        )
    *rows, channels = inputs.shape
    choice = choose(masked, (math.prod(size or _USUAL_BATCH for size in rows), 1, 1))
    if choice == DENSE:
        return None
    outputs = masked_convolution(
        tf.reshape(inputs, [-1, 1, 1, channels]),
        kernel[None, None],
        masked.kernel_mask.value[None, None],
        "valid",
        choice,
        zero_gradients(masked),
    )
    return tf.reshape(outputs, tf.concat([tf.shape(inputs)[:-1], outputs.shape[-1:]], axis=0))


def can_run() -> bool:
    """Whether sparse kernels can run in the function being traced. Logs once why they cannot."""
    if getattr(_context, "densely", False):
        return False
    reason = obstacle()
    if reason is not None:
        warn_unused(reason)
    return reason is None


@functools.cache
def warn_unused(reason: str) -> None:
    """Logs, once for each reason, why sparse kernels are not used."""
    logging.warning("The sparse kernels are not used: %s. Layers compute as dense ones.", reason)
