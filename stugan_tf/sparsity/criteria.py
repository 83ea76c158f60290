"""Scores by which weights are dropped (lowest) and grown (highest): Eq. 3 and 4.

All criteria have the signature `(weight, gradient, seed) -> scores`. Weights, gradients and scores
are float32 tensors of one shape, `seed` is a pair of integers. `gradient` is the dense gradient g
of the loss with respect to the raw kernel, taken before the weights moved in this step. For
momentum growth the caller averages it over the steps. A plain function is a criterion. One with
other needs declares them, see `Criterion`.

The paper found that dropping by gradients is no better than by magnitude (Sec. 4.2), and does not
define these criteria. Here each is the criterion of the work it is named after, for single weights.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import gin
import tensorflow as tf

from stugan_tf.contracts import Declared, Trial
from stugan_tf.errors import InputError
from stugan_tf.randomness import draw_uniform
from stugan_tf.signatures import Seed

GRADIENTS = ("loss", "hessian", "none")


@dataclasses.dataclass(frozen=True)
class Criterion(Declared):
    """A criterion that declares what it needs.

    Attributes:
        function: `(weight, gradient, seed) -> scores`.
        gradient: what the argument `gradient` must be. "loss": g, the gradient of the loss.
            "hessian": H g, the gradient of half the squared norm of g. Here g is the gradient for
            the active weights of all masked kernels, at the scored weights and on the batch of the
            last update; H is its Jacobian. "none": the criterion ignores it.
        is_uniform: whether scores are random numbers, uniform in [0, 1).

    Raises:
        InputError: if `gradient` is something else.
    """

    gradient: str = "loss"
    is_uniform: bool = False

    def __post_init__(self) -> None:
        """Checks the needs."""
        super().__post_init__()
        if self.gradient not in GRADIENTS:
            raise InputError(
                f"A criterion's gradient must be one of {', '.join(GRADIENTS)}, got "
                f"{self.gradient!r}."
            )


def criterion(**needs: Any) -> Callable[[Callable[..., Any]], Criterion]:
    """Decorates a function: it becomes a `Criterion` with these needs.

    For gin, `@gin.configurable` comes first:

        @gin.configurable(denylist=["weight", "gradient", "seed"])
        @criterion(gradient="none")
        def normal_scores(weight, gradient, seed):
            return tf.random.stateless_normal(tf.shape(weight), seed)
    """
    return lambda function: Criterion(function, **needs)


def check_criterion(name: str, function: Any) -> None:
    """Raises InputError unless `function`, the value of a setting, is a criterion."""
    trial = Trial(
        name, function, "`(weight, gradient, seed) -> scores`, scores float32 in weight's shape"
    )
    weight = tf.constant([[[[0.5, -0.25, 2.0], [0.0, 1.0, -1.5]]]])
    gradient = tf.constant([[[[-0.125, 1.0, 0.5], [0.25, -2.0, 0.75]]]])
    scores = trial.of(weight=weight, gradient=gradient, seed=tf.constant([3, 4], tf.int64))
    trial.check_tensor("its result", scores, weight.shape)


@gin.configurable(denylist=["weight", "gradient", "seed"])
@criterion(gradient="none")
def magnitude(weight: tf.Tensor, gradient: tf.Tensor, seed: Seed) -> tf.Tensor:
    """Eq. 3: the smallest weights matter least."""
    del gradient, seed
    return tf.abs(weight)


@gin.configurable(denylist=["weight", "gradient", "seed"])
def gradient_magnitude(weight: tf.Tensor, gradient: tf.Tensor, seed: Seed) -> tf.Tensor:
    """Eq. 4: the largest dense gradients promise the fastest loss reduction."""
    del weight, seed
    return tf.abs(gradient)


@gin.configurable(denylist=["weight", "gradient", "seed"])
@criterion(gradient="none", is_uniform=True)
def random_scores(weight: tf.Tensor, gradient: tf.Tensor, seed: Seed) -> tf.Tensor:
    """SET: uniformly random growth; Explore D grows by it, too."""
    del gradient
    return draw_uniform(tf.shape(weight), seed)


@gin.configurable(denylist=["weight", "gradient", "seed"])
def connection_sensitivity(weight: tf.Tensor, gradient: tf.Tensor, seed: Seed) -> tf.Tensor:
    """SNIP (Lee et al. 2019, Eq. 5): |g w|, the effect on the loss of a gate on the connection.

    The paper divides by the sum over all weights, which changes no rank.
    """
    del seed
    return tf.abs(gradient * weight)


@gin.configurable(denylist=["weight", "gradient", "seed"])
def taylor_expansion(weight: tf.Tensor, gradient: tf.Tensor, seed: Seed) -> tf.Tensor:
    """Molchanov et al. (2019, Eq. 8): (g w)^2, the first-order change of the loss, squared.

    The paper sums it over the weights of a feature map. On single weights it gives the same ranks
    as `connection_sensitivity`, except where the square underflows.
    """
    del seed
    return tf.square(gradient * weight)


@gin.configurable(denylist=["weight", "gradient", "seed"])
@criterion(gradient="hessian")
def gradient_flow(weight: tf.Tensor, gradient: tf.Tensor, seed: Seed) -> tf.Tensor:
    """GraSP (Wang et al. 2020, Eq. 8): w (H g); drops weights that gradient flow needs least.

    Without a weight, the squared norm of the gradient changes by -2 w (H g) to first order. So
    removing the weights with the lowest scores raises it most, or lowers it least. Scores have a
    sign.
    """
    del seed
    return weight * gradient
