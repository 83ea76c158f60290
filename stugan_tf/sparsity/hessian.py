"""The product H g of the Hessian of a loss and its gradient, for criteria that need it."""

from collections.abc import Callable, Iterable, Sequence

import tensorflow as tf

from stugan_tf.layers.execution import densely


def hessian_gradients(
    gradients: Callable[[], Iterable[tf.Tensor]],
    kernels: Sequence[tf.Tensor],
    masks: Sequence[tf.Tensor],
    mean: Callable[[list[tf.Tensor]], Sequence[tf.Tensor]] = list,
) -> Sequence[tf.Tensor]:
    """H g for each masked kernel; g is the gradient of the active weights only.

    Args:
        gradients: function without arguments that differentiates the loss with respect to the
            kernels. It is called once, under a tape.
        kernels: L variables, the kernels of all masked layers.
        masks: their masks, L float32 tensors.
        mean: averages L tensors over replicas. By default there is one replica.

    Returns:
        L tensors in the shapes of the kernels.
    """
    with densely(), tf.GradientTape() as tape:
        active = [mask * gradient for mask, gradient in zip(masks, gradients(), strict=True)]
        # The loss is a mean over replicas, so g and H are means as well. g is constant in H g.
        means = mean(list(map(tf.stop_gradient, active)))
        flow = tf.add_n(
            [
                tf.reduce_sum(gradient * tf.stop_gradient(average))
                for gradient, average in zip(active, means, strict=True)
            ]
        )
    return mean(tape.gradient(flow, kernels, unconnected_gradients=tf.UnconnectedGradients.ZERO))
