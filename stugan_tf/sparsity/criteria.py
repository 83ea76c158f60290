"""Scores by which weights are dropped (lowest) and grown (highest): Eq. 3 and 4.

One family, `(weight, gradient, seed) -> scores`: float32 tensors of one shape and a pair of
integers. `gradient` is the dense gradient g of the loss with respect to the raw kernel, taken
before the weights moved in this step; what is averaged over steps (momentum growth) is averaged by
the caller. A criterion marked by `sees_hessian_gradient` is given H g in its place.

The paper found the gradient-based ways to drop no better than magnitude (Sec. 4.2) and does not
define them; here each is the criterion of the work it is named after, for single weights.
"""

import gin
import tensorflow as tf

from stugan_tf.randomness import draw_uniform


def sees_hessian_gradient(criterion):
    """Marks a criterion: the `gradient` it is to get is H g, that of half the squared norm of g.

    g is of the active weights of all masked kernels, at the weights that are scored and on the
    batch of the last update; H is its Jacobian.
    """
    criterion.sees_hessian_gradient = True
    return criterion


def wants_hessian_gradient(criterion):
    """Whether `criterion` is marked by `sees_hessian_gradient`."""
    return getattr(criterion, "sees_hessian_gradient", False)


@gin.configurable(denylist=["weight", "gradient", "seed"])
def magnitude(weight, gradient, seed):
    """Eq. 3: the smallest weights matter least."""
    del gradient, seed
    return tf.abs(weight)


@gin.configurable(denylist=["weight", "gradient", "seed"])
def gradient_magnitude(weight, gradient, seed):
    """Eq. 4: the largest dense gradients promise the fastest loss reduction."""
    del weight, seed
    return tf.abs(gradient)


@gin.configurable(denylist=["weight", "gradient", "seed"])
def random_scores(weight, gradient, seed):
    """SET: uniformly random growth; also how Explore D grows."""
    del gradient
    return draw_uniform(tf.shape(weight), seed)


@gin.configurable(denylist=["weight", "gradient", "seed"])
def connection_sensitivity(weight, gradient, seed):
    """SNIP (Lee et al. 2019, Eq. 5): |g w|, how the loss answers to a gate on the connection.

    They divide by the sum over all weights, which changes no rank.
    """
    del seed
    return tf.abs(gradient * weight)


@gin.configurable(denylist=["weight", "gradient", "seed"])
def taylor_expansion(weight, gradient, seed):
    """Molchanov et al. (2019, Eq. 8): (g w)^2, the first-order change of the loss, squared.

    They sum it over the weights of a feature map; on single weights it ranks as
    `connection_sensitivity` does, apart from what underflows when it is squared.
    """
    del seed
    return tf.square(gradient * weight)


@gin.configurable(denylist=["weight", "gradient", "seed"])
@sees_hessian_gradient
def gradient_flow(weight, gradient, seed):
    """GraSP (Wang et al. 2020, Eq. 8): w (H g), the weights that gradient flow needs least go.

    Without a weight, the squared norm of the gradient changes by -2 w (H g) to first order. So the
    lowest scores are those whose removal raises it most, or lowers it least; scores have a sign.
    """
    del seed
    return weight * gradient
