"""Differentiable convolutions that skip the zeros of their kernel.

NHWC, float32, stride 1, any kernel size. A matrix product is a 1x1 convolution of 1x1 images. Sums
run over the non-zeros only. So a zero weight times an infinite or NaN activation is not NaN here,
while the gradient of the kernel may be NaN for more weights than in dense execution. Kernels are
dense tensors. Each call finds their non-zeros itself, so a pattern can be neither wrong nor out of
date.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from stugan_tf.kernels import library


class Choice(NamedTuple):
    """Which of the three products of a layer run on the non-zeros. The others run dense."""

    forward: bool = True
    input_gradient: bool = True
    kernel_gradient: bool = True


class Normalization(NamedTuple):
    """For each channel: gamma * (x - mean) / sqrt(variance + epsilon) + beta."""

    mean: tf.Tensor  # float32 [C], like the other tensors
    variance: tf.Tensor
    gamma: tf.Tensor
    beta: tf.Tensor
    epsilon: float
    of_batch: bool  # mean and variance come from the input, and the gradient goes through them


def paddings(padding: str, kernel_size: Sequence[int]) -> list[int]:
    """TensorFlow's [top, bottom, left, right] for "same" or "valid" at stride 1."""
    if padding == "valid":
        return [0, 0, 0, 0]
    return [pad for size in kernel_size for pad in ((size - 1) // 2, size // 2)]


def moments(inputs: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """The mean and variance, float32 [C] each, of each channel of float32 [..., C]."""
    return library.load().stugan_channel_moments(inputs)


def convolve(
    inputs: tf.Tensor,
    kernel: tf.Tensor,
    paddings: Sequence[int],
    transposed: bool = False,
    scale: Any = (),
    shift: Any = (),
    bias: Any = (),
    residual: tf.Tensor | None = None,
    **attributes: Any,
) -> tf.Tensor:
    """Convolves images with a kernel, on the non-zeros of the kernel.

    Args:
        inputs: float32 [B, H, W, C].
        kernel: float32 [h, w, C, C'].
        paddings: [top, bottom, left, right], each less than the size of the kernel.
        transposed: compute the gradient of such a convolution with respect to its input instead:
            inputs [B, H', W', C'] to outputs [B, H, W, C].
        scale: float32 [C], multiplies the input first. Empty for none.
        shift: float32 [C], added after the scale. Empty for none.
        bias: float32 [C'], added to the output. Empty for none.
        residual: float32 in the shape of the output, or smaller by `residual_upsampling`. Added to
            the output.
        **attributes: `relu`: whether the input then goes through a ReLU. `upsampling`, 1 or 2: how
            often its rows and columns are repeated after that. `pooling`, 1 or 2: how many rows
            and columns of the output are summed. `residual_upsampling`, 1 or 2: how often rows and
            columns of the residual are repeated. `instruction_set`: the best one to use, "best",
            "x86-64-v4", "x86-64-v3" or "baseline".

    Returns:
        float32 [B, H', W', C'].

    Raises:
        KernelsUnavailableError: if the operations cannot run on this machine.
        tf.errors.InvalidArgumentError: if shapes do not fit each other.
    """
    if residual is None:
        residual = tf.zeros([0, 0, 0, 0])
    return library.load().stugan_sparse_convolution(
        inputs, kernel, scale, shift, bias, residual, paddings, transposed, **attributes
    )


def kernel_gradient(
    inputs: tf.Tensor,
    gradient: tf.Tensor,
    mask: tf.Tensor,
    paddings: Sequence[int],
    scale: Any = (),
    shift: Any = (),
    **attributes: Any,
) -> tf.Tensor:
    """The gradient of `convolve` with respect to its kernel, zero where the mask is zero.

    Args:
        inputs: float32 [B, H, W, C].
        gradient: gradient of the outputs, float32 [B, H', W', C'].
        mask: float32 [h, w, C, C'], not zero where a gradient is wanted.
        paddings: as for `convolve`.
        scale: as for `convolve`.
        shift: as for `convolve`.
        **attributes: as for `convolve`.

    Returns:
        float32 [h, w, C, C'].
    """
    return library.load().stugan_sparse_convolution_kernel_gradient(
        inputs, gradient, mask, scale, shift, paddings, **attributes
    )


def masked_convolution(
    inputs: tf.Tensor,
    kernel: tf.Tensor,
    mask: tf.Tensor,
    padding: str,
    choice: Choice | None = None,
    zero_gradients: bool | tf.Tensor = True,
    normalization: Normalization | None = None,
    relu: bool = False,
    upsampling: int = 1,
    pooling: int = 1,
    bias: tf.Tensor | None = None,
    residual: tf.Tensor | None = None,
    residual_upsampling: int = 1,
) -> tf.Tensor:
    """A convolution with a kernel that is zero outside its mask, fused with what surrounds it.

    It is differentiable in the inputs, kernel, gamma, beta, bias and residual.

        inputs -> normalization -> ReLU -> upsampling -> convolution -> pooling -> bias -> residual

    Args:
        inputs: float32 [B, H, W, C].
        kernel: float32 [h, w, C, C'].
        mask: float32 [h, w, C, C'], zeros and ones.
        padding: "same" or "valid".
        choice: a `Choice`; all sparse by default.
        zero_gradients: whether the gradient of the kernel is wanted outside the mask too. That is a
            dense product; False gives zeros there. A Python or tensor bool.
        normalization: a `Normalization` of the inputs, or None.
        relu: whether the inputs then go through a ReLU.
        upsampling: 1 or 2, the factor of a nearest-neighbour upsampling after that.
        pooling: 1 or 2, the factor of an average pooling of the output.
        bias: float32 [C'], added to the output, or None.
        residual: float32, added to the output, or None.
        residual_upsampling: 1 or 2, the factor of a nearest-neighbour upsampling of the residual.

    Returns:
        float32 [B, H', W', C'].
    """
    choice = choice or Choice()
    nothing = tf.zeros([0])
    gamma = beta = nothing
    scale = shift = ()
    if normalization is not None:
        gamma, beta = normalization.gamma, normalization.beta
        inverse_deviation = tf.math.rsqrt(normalization.variance + normalization.epsilon)
        scale = gamma * inverse_deviation
        shift = beta - normalization.mean * scale
    parts = Parts(padding, kernel.shape[:2], scale, shift, relu, upsampling, pooling)
    has_bias, has_residual = bias is not None, residual is not None

    def apply(inputs, kernel, gamma, beta, bias, residual):
        outputs = parts.forward(
            choice.forward,
            inputs,
            kernel,
            bias if has_bias else None,
            residual if has_residual else None,
            residual_upsampling,
        )

        def gradients(upstream):
            gradient = upstream if pooling == 1 else upstream / pooling**2

            def of_all_weights():
                return parts.kernel_gradient(False, inputs, gradient, mask)

            def of_active_weights():
                return parts.kernel_gradient(True, inputs, gradient, mask)

            if not choice.kernel_gradient or zero_gradients is True:
                of_kernel = of_all_weights()
            elif zero_gradients is False:
                of_kernel = of_active_weights()
            else:
                of_kernel = tf.cond(zero_gradients, of_all_weights, of_active_weights)

            of_inputs = parts.input_gradient(
                choice.input_gradient, gradient, kernel, tf.shape(inputs)
            )
            of_gamma = of_beta = nothing
            if normalization is not None:
                of_inputs, of_gamma, of_beta = library.load().stugan_normalization_gradient(
                    inputs,
                    of_inputs,
                    normalization.mean,
                    inverse_deviation,
                    gamma,
                    beta,
                    relu=relu,
                    of_batch=normalization.of_batch,
                )
            elif relu:
                of_inputs = tf.raw_ops.ReluGrad(gradients=of_inputs, features=inputs)
            of_bias = tf.reduce_sum(upstream, axis=[0, 1, 2]) if has_bias else bias
            of_residual = _sum_pool(upstream, residual_upsampling) if has_residual else residual
            return of_inputs, of_kernel, of_gamma, of_beta, of_bias, of_residual

        return outputs, gradients

    return tf.custom_gradient(apply)(
        inputs,
        kernel,
        gamma,
        beta,
        bias if has_bias else nothing,
        residual if has_residual else tf.zeros([0, 0, 0, 0]),
    )


class Parts:
    """The three products of a convolution in given surroundings, each sparse or dense.

    Args:
        padding: "same" or "valid".
        kernel_size: (h, w).
        scale: float32 [C], multiplies the input first. Empty for none.
        shift: float32 [C], added after the scale. Empty for none.
        relu: whether the inputs then go through a ReLU.
        upsampling: 1 or 2, the factor by which the inputs are upsampled.
        pooling: 1 or 2, the factor by which the outputs are pooled.
    """

    def __init__(
        self,
        padding: str,
        kernel_size: Sequence[int],
        scale: Any = (),
        shift: Any = (),
        relu: bool = False,
        upsampling: int = 1,
        pooling: int = 1,
    ) -> None:
        self._paddings = paddings(padding, kernel_size)
        self._dense = {"strides": [1, 1, 1, 1], "padding": padding.upper()}
        self._before = {"scale": scale, "shift": shift, "relu": relu, "upsampling": upsampling}
        self._is_scaled = not isinstance(scale, tuple)
        self._upsampling = upsampling
        self._pooling = pooling

    def _prepared(self, inputs: tf.Tensor) -> tf.Tensor:
        """The inputs as a dense convolution needs them."""
        if self._is_scaled:
            inputs = inputs * self._before["scale"] + self._before["shift"]
        return _upsample(tf.nn.relu(inputs) if self._before["relu"] else inputs, self._upsampling)

    def forward(
        self,
        is_sparse: bool,
        inputs: tf.Tensor,
        kernel: tf.Tensor,
        bias: tf.Tensor | None = None,
        residual: tf.Tensor | None = None,
        residual_upsampling: int = 1,
    ) -> tf.Tensor:
        """The output of the convolution, pooled, with bias and residual."""
        if is_sparse:
            return convolve(
                inputs,
                kernel if self._pooling == 1 else kernel / self._pooling**2,  # It sums.
                self._paddings,
                bias=() if bias is None else bias,
                residual=residual,
                pooling=self._pooling,
                residual_upsampling=residual_upsampling,
                **self._before,
            )
        prepared = self._prepared(inputs)
        if _is_matrix_product(prepared, kernel):
            outputs = tf.matmul(prepared[:, 0, 0], kernel[0, 0])[:, None, None]
        else:
            outputs = tf.nn.conv2d(prepared, kernel, **self._dense)
        if self._pooling > 1:
            outputs = tf.nn.avg_pool2d(outputs, self._pooling, self._pooling, "VALID")
        if bias is not None:
            outputs += bias
        if residual is not None:
            outputs += _upsample(residual, residual_upsampling)
        return outputs

    def input_gradient(
        self, is_sparse: bool, gradient: tf.Tensor, kernel: tf.Tensor, input_shape: tf.Tensor
    ) -> tf.Tensor:
        """The gradient of the input before upsampling, from that of the output before pooling."""
        if is_sparse:
            return convolve(
                gradient,
                kernel,
                self._paddings,
                transposed=True,
                upsampling=self._pooling,
                pooling=self._upsampling,
            )
        if _is_matrix_product(gradient, kernel) and self._upsampling == self._pooling == 1:
            return tf.matmul(gradient[:, 0, 0], kernel[0, 0], transpose_b=True)[:, None, None]
        batch, height, width, channels = tf.unstack(input_shape)
        of_upsampled = tf.raw_ops.Conv2DBackpropInput(
            input_sizes=[batch, height * self._upsampling, width * self._upsampling, channels],
            filter=kernel,
            out_backprop=_upsample(gradient, self._pooling),
            **self._dense,
        )
        return _sum_pool(of_upsampled, self._upsampling)

    def kernel_gradient(
        self, is_sparse: bool, inputs: tf.Tensor, gradient: tf.Tensor, mask: tf.Tensor
    ) -> tf.Tensor:
        """The gradient of the kernel, from that of the output before pooling. Dense: not masked."""
        if is_sparse:
            return kernel_gradient(
                inputs, gradient, mask, self._paddings, pooling=self._pooling, **self._before
            )
        prepared = self._prepared(inputs)
        if _is_matrix_product(prepared, mask):
            return tf.matmul(prepared[:, 0, 0], gradient[:, 0, 0], transpose_a=True)[None, None]
        return tf.raw_ops.Conv2DBackpropFilter(
            input=prepared,
            filter_sizes=mask.shape,
            out_backprop=_upsample(gradient, self._pooling),
            **self._dense,
        )


def _is_matrix_product(images, kernel):
    """Whether a convolution is a dense layer. TensorFlow is faster at it as a matrix product."""
    return tuple(images.shape[1:3]) == tuple(kernel.shape[:2]) == (1, 1)


def _upsample(images, factor):
    return images if factor == 1 else tf.repeat(tf.repeat(images, factor, axis=1), factor, axis=2)


def _sum_pool(images, factor):
    if factor == 1:
        return images
    return factor**2 * tf.nn.avg_pool2d(images, factor, factor, "VALID")


def _refuse_second_order(*_):
    raise NotImplementedError(
        "A convolution has second derivatives only while it is not fused with other layers. Call "
        "the model itself, not `fuse(model)`."
    )


tf.RegisterGradient("StuganNormalizationGradient")(_refuse_second_order)


@tf.RegisterGradient("StuganSparseConvolution")
def _convolution_gradients(op, upstream):
    inputs, kernel = op.inputs[:2]
    pads, transposed = op.get_attr("paddings"), op.get_attr("transposed")
    factors = [op.get_attr(name) for name in ("upsampling", "pooling", "residual_upsampling")]
    is_fused = any(tensor.shape.num_elements() != 0 for tensor in op.inputs[2:])
    if is_fused or op.get_attr("relu") or max(factors) > 1:
        _refuse_second_order()
    of_inputs = convolve(upstream, kernel, pads, not transposed)
    images, gradient = (upstream, inputs) if transposed else (inputs, upstream)
    of_kernel = kernel_gradient(images, gradient, tf.ones_like(kernel), pads)
    return of_inputs, of_kernel, None, None, None, None


@tf.RegisterGradient("StuganSparseConvolutionKernelGradient")
def _kernel_gradient_gradients(op, upstream):
    inputs, gradient, mask = op.inputs[:3]
    pads = op.get_attr("paddings")
    kernel = tf.where(mask != 0, upstream, 0.0)
    of_inputs, of_gradient = convolve(gradient, kernel, pads, True), convolve(inputs, kernel, pads)
    return of_inputs, of_gradient, None, None, None
