"""Scores by which weights are dropped (lowest) and grown (highest): Eq. 3 and 4.

One family, `(weight, gradient, seed) -> scores`: float32 tensors of one shape and a pair of
integers. `gradient` is the dense gradient g of the loss with respect to the raw kernel, taken
before the weights moved in this step; what is averaged over steps (momentum growth) is averaged by
the caller. A plain function is a criterion; one with other needs declares them, see `Criterion`.

The paper found the gradient-based ways to drop no better than magnitude (Sec. 4.2) and does not
define them; here each is the criterion of the work it is named after, for single weights.
"""

import dataclasses

import gin
import tensorflow as tf

from stugan_tf.contracts import Declared, Trial
from stugan_tf.errors import InputError
from stugan_tf.randomness import draw_uniform

GRADIENTS = ("loss", "hessian", "none")


@dataclasses.dataclass(frozen=True)
class Criterion(Declared):
    """A criterion that declares what it needs.

    Attributes:
        function: `(weight, gradient, seed) -> scores`.
        gradient: what it makes of its argument `gradient`. "loss": it is g, the gradient of the
            loss. "hessian": it is H g, the gradient of half the squared norm of g. There g is of
            the active weights of all masked kernels, at the weights that are scored and on the
            batch of the last update; H is its Jacobian. "none": the criterion ignores it.
        is_uniform: whether scores are random numbers, uniform in [0, 1).
    """

    gradient: str = "loss"
    is_uniform: bool = False

    def __post_init__(self):
        """Checks the needs."""
        super().__post_init__()
        if self.gradient not in GRADIENTS:
            raise InputError(
                f"A criterion's gradient must be one of {', '.join(GRADIENTS)}, got "
                f"{self.gradient!r}."
            )


def criterion(**needs):
    """Decorates a function: it becomes a `Criterion` with these needs.

    For gin, `@gin.configurable` comes first:

        @gin.configurable(denylist=["weight", "gradient", "seed"])
        @criterion(gradient="none")
        def normal_scores(weight, gradient, seed):
            return tf.random.stateless_normal(tf.shape(weight), seed)
    """
    return lambda function: Criterion(function, **needs)


def check_criterion(name, function):
    """Raises InputError unless `function`, by the name of a setting, is a criterion."""
    trial = Trial(
        name, function, "`(weight, gradient, seed) -> scores`, scores float32 in weight's shape"
    )
    weight = tf.constant([[[[0.5, -0.25, 2.0], [0.0, 1.0, -1.5]]]])
    gradient = tf.constant([[[[-0.125, 1.0, 0.5], [0.25, -2.0, 0.75]]]])
    scores = trial.of(weight=weight, gradient=gradient, seed=tf.constant([3, 4], tf.int64))
    trial.check_tensor("its result", scores, weight.shape)


@gin.configurable(denylist=["weight", "gradient", "seed"])
@criterion(gradient="none")
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
@criterion(gradient="none", is_uniform=True)
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
@criterion(gradient="hessian")
def gradient_flow(weight, gradient, seed):
    """GraSP (Wang et al. 2020, Eq. 8): w (H g), the weights that gradient flow needs least go.

    Without a weight, the squared norm of the gradient changes by -2 w (H g) to first order. So the
    lowest scores are those whose removal raises it most, or lowers it least; scores have a sign.
    """
    del seed
    return weight * gradient
