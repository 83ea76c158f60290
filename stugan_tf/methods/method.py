"""The choice of a method: the binding `method.phases`."""

from collections.abc import Callable
from typing import Any

import gin

from stugan_tf.checks import check_function
from stugan_tf.methods.phases import Phases, SinglePhase

# Imported so that they are registered with gin wherever a method can be chosen.
from stugan_tf.methods.prune_and_finetune import prune_and_finetune  # noqa: F401
from stugan_tf.methods.tickets import tickets  # noqa: F401


@gin.configurable(denylist=["sparsities"])
def single_phase(sparsities: dict[str, float]) -> SinglePhase:
    """One training with the configured sparsities."""
    del sparsities
    return SinglePhase()


@gin.configurable("method", denylist=["value_of"])
def chosen_method(
    value_of: Callable[[str], Any],
    phases: Callable[[dict[str, float]], SinglePhase | Phases] = single_phase,
) -> SinglePhase | Phases:
    """The configured method.

    Args:
        value_of: `'name.parameter' -> the value bound to it, or None`.
        phases: `sparsities -> method`, such as `tickets`.

    Returns:
        A `SinglePhase` or `Phases`.
    """
    check_function("method.phases", phases)
    names = ("generator", "discriminator")
    return phases({name: value_of(f"GAN.{name}_sparsity") for name in names})
