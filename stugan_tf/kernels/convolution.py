"""Differentiable convolutions that skip the zeros of their kernel.

NHWC, float32, stride 1, any kernel size. A matrix product is a 1x1 convolution of 1x1 images. Sums
run over the non-zeros only: where an activation is infinite or NaN, a zero weight times it is not
NaN here. The kernels are dense tensors; which of their weights are zero is found out in passing, so
a pattern can be neither wrong nor out of date.
"""

from typing import NamedTuple

import tensorflow as tf

from stugan_tf.kernels import library


class Choice(NamedTuple):
    """Which of the three products of a layer run on the non-zeros; the others run dense."""

    forward: bool = True
    input_gradient: bool = True
    kernel_gradient: bool = True


def paddings(padding, kernel_size):
    """[top, bottom, left, right] of "same" or "valid" at stride 1, as TensorFlow pads."""
    if padding == "valid":
        return [0, 0, 0, 0]
    return [pad for size in kernel_size for pad in ((size - 1) // 2, size // 2)]


def convolve(inputs, kernel, paddings, transposed=False, instruction_set="best"):
    """The convolution of images by a kernel, on the kernel's non-zeros.

    Args:
        inputs: float32 [B, H, W, C].
        kernel: float32 [h, w, C, C'].
        paddings: [top, bottom, left, right], each less than the kernel's size.
        transposed: compute the gradient of such a convolution with respect to its input instead:
            inputs [B, H', W', C'] to outputs [B, H, W, C].
        instruction_set: "best", or no better than "x86-64-v4", "x86-64-v3", "baseline".

    Returns:
        float32 [B, H', W', C'].

    Raises:
        KernelsUnavailableError: if the operations cannot run on this machine.
        tf.errors.InvalidArgumentError: if shapes do not belong together.
    """
    return library.load().stugan_sparse_convolution(
        inputs, kernel, paddings, transposed, instruction_set=instruction_set
    )


def kernel_gradient(inputs, gradient, mask, paddings, instruction_set="best"):
    """The gradient of `convolve` with respect to its kernel, zero where the mask is.

    Args:
        inputs: float32 [B, H, W, C].
        gradient: of the outputs, float32 [B, H', W', C'].
        mask: float32 [h, w, C, C']; what is not zero asks for a gradient.
        paddings: as of the convolution.
        instruction_set: as of the convolution.

    Returns:
        float32 [h, w, C, C'].
    """
    return library.load().stugan_sparse_convolution_kernel_gradient(
        inputs, gradient, mask, paddings, instruction_set=instruction_set
    )


def masked_convolution(inputs, kernel, mask, padding, choice=None, zero_gradients=True):
    """The convolution by a kernel that is zero outside its mask, and its gradients.

    Args:
        inputs: float32 [B, H, W, C].
        kernel: float32 [h, w, C, C'].
        mask: float32 [h, w, C, C'], zeros and ones.
        padding: "same" or "valid".
        choice: a `Choice`; all sparse by default.
        zero_gradients: whether the gradient of the kernel is wanted outside the mask too, where it
            is dense work; False gives zeros there. A Python or tensor bool.

    Returns:
        float32 [B, H', W', C'].
    """
    choice = choice or Choice()
    pads = paddings(padding, kernel.shape[:2])
    dense = {"strides": [1, 1, 1, 1], "padding": padding.upper()}

    @tf.custom_gradient
    def apply(inputs, kernel):
        if choice.forward:
            outputs = convolve(inputs, kernel, pads)
        else:
            outputs = tf.nn.conv2d(inputs, kernel, **dense)

        def gradients(upstream):
            def of_all_weights():
                return tf.raw_ops.Conv2DBackpropFilter(
                    input=inputs, filter_sizes=kernel.shape, out_backprop=upstream, **dense
                )

            def of_active_weights():
                return kernel_gradient(inputs, upstream, mask, pads)

            if choice.input_gradient:
                of_inputs = convolve(upstream, kernel, pads, transposed=True)
            else:
                of_inputs = tf.raw_ops.Conv2DBackpropInput(
                    input_sizes=tf.shape(inputs), filter=kernel, out_backprop=upstream, **dense
                )
            if not choice.kernel_gradient or zero_gradients is True:
                of_kernel = of_all_weights()
            elif zero_gradients is False:
                of_kernel = of_active_weights()
            else:
                of_kernel = tf.cond(zero_gradients, of_all_weights, of_active_weights)
            return of_inputs, of_kernel

        return outputs, gradients

    return apply(inputs, kernel)


@tf.RegisterGradient("StuganSparseConvolution")
def _convolution_gradients(op, upstream):
    inputs, kernel = op.inputs
    pads, transposed = op.get_attr("paddings"), op.get_attr("transposed")
    of_inputs = convolve(upstream, kernel, pads, not transposed)
    images, gradient = (upstream, inputs) if transposed else (inputs, upstream)
    return of_inputs, kernel_gradient(images, gradient, tf.ones_like(kernel), pads)


@tf.RegisterGradient("StuganSparseConvolutionKernelGradient")
def _kernel_gradient_gradients(op, upstream):
    inputs, gradient, mask = op.inputs
    pads = op.get_attr("paddings")
    kernel = tf.where(mask != 0, upstream, 0.0)
    return convolve(gradient, kernel, pads, True), convolve(inputs, kernel, pads), None
