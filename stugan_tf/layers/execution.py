"""How masked layers compute: dense as Keras does, or on their non-zeros."""

import contextlib
import functools
import math
import threading

import keras
import tensorflow as tf
from absl import logging
from tensorflow.python.ops import control_flow_util

from stugan_tf.errors import InputError
from stugan_tf.kernels import library, tuning
from stugan_tf.kernels.convolution import Choice, masked_convolution

EXECUTIONS = ("dense", "sparse", "auto")

# What `auto` assumes of a batch whose size is not known when a function is traced.
_USUAL_BATCH = 16

_DENSE = Choice(forward=False, input_gradient=False, kernel_gradient=False)
_context = threading.local()


def check_execution(name, execution):
    """Raises InputError unless `execution` is one of `EXECUTIONS`."""
    if execution not in EXECUTIONS:
        raise InputError(f"{name} must be one of {', '.join(EXECUTIONS)}, got {execution!r}.")


@contextlib.contextmanager
def gradients_of_zeros(wanted):
    """Whether layers called inside need the gradient of weights outside their masks.

    Outside of any such context they get it, as dense execution does. Where it is not wanted, sparse
    execution leaves it zero and saves the work.

    Args:
        wanted: a bool, in Python or a tensor of the function being traced.
    """
    former = getattr(_context, "wanted", True)
    _context.wanted = wanted
    try:
        yield
    finally:
        _context.wanted = former


def is_supported(layer):
    """Whether a Keras layer can run on its non-zeros: a float32 NHWC convolution of stride 1."""
    if layer.compute_dtype != "float32":
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


def obstacle():
    """Why nothing can run on its non-zeros in the function being traced, or None."""
    if tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("TPU"):
        return "they are for CPUs, and this process has an accelerator"
    if control_flow_util.GraphOrParentsInXlaContext(tf.compat.v1.get_default_graph()):
        return "XLA (jit_compile) cannot run them"
    try:
        library.load()
    except library.KernelsUnavailableError as error:
        return str(error)
    return None


def product(execution, inputs, kernel, mask, padding, density):
    """The convolution or matrix product of a masked layer.

    Args:
        execution: one of `EXECUTIONS`.
        inputs: float32 [B, H, W, C], or [..., C] for a matrix product.
        kernel: float32 [h, w, C, C'] or [C, C'], zero outside the mask.
        mask: of the kernel's shape.
        padding: "same" or "valid".
        density: called without arguments where it matters; the fraction of ones in the mask.

    Returns:
        The outputs, or None where dense execution is meant or nothing else works; the layer then
        computes as it would without a mask.
    """
    if execution == "dense":
        return None
    reason = obstacle()
    if reason is not None:
        _warn_once(reason)
        return None
    is_matrix = len(kernel.shape) == 2
    if is_matrix:
        rows = tf.shape(inputs)[:-1]
        batch = math.prod(s or _USUAL_BATCH for s in inputs.shape[:-1])
        inputs = tf.reshape(inputs, [-1, 1, 1, inputs.shape[-1]])
        kernel, mask = kernel[None, None], mask[None, None]
        size = (batch, 1, 1)
    else:
        size = inputs.shape[:3]
    choice = Choice()
    if execution == "auto":
        choice = _fastest(size, tuple(kernel.shape), padding, density)
    if choice == _DENSE:
        return None
    wanted = getattr(_context, "wanted", True)
    outputs = masked_convolution(inputs, kernel, mask, padding, choice, wanted)
    if is_matrix:
        outputs = tf.reshape(outputs, tf.concat([rows, outputs.shape[-1:]], axis=0))
    return outputs


def _fastest(size, kernel_shape, padding, density):
    batch, height, width = size
    if height is None or width is None:
        return Choice()  # Images of any size: taken to be large enough.
    with tf.init_scope():  # Measures now, even while a function is traced.
        problem = tuning.Problem(
            batch or _USUAL_BATCH, height, width, kernel_shape, padding, round(density(), 2)
        )
        return tuning.fastest(problem)


@functools.cache
def _warn_once(reason):
    logging.warning("The sparse kernels are not used: %s. Layers compute as dense ones.", reason)
