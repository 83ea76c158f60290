"""Which method trains: the binding `method.phases`."""

import gin

from stugan_tf.checks import check_function
from stugan_tf.methods.phases import SinglePhase

# So that they are registered with gin wherever a method can be chosen.
from stugan_tf.methods.prune_and_finetune import prune_and_finetune  # noqa: F401
from stugan_tf.methods.tickets import tickets  # noqa: F401


@gin.configurable(denylist=["sparsities"])
def single_phase(sparsities):
    """One training of the sparsities that are configured."""
    del sparsities
    return SinglePhase()


@gin.configurable("method", denylist=["value_of"])
def chosen_method(value_of, phases=single_phase):
    """The method that is configured.

    Args:
        value_of: 'name.parameter' -> what is bound to it, or None.
        phases: `sparsities -> method`, such as `tickets`.

    Returns:
        A `SinglePhase` or `Phases`.
    """
    check_function("method.phases", phases)
    names = ("generator", "discriminator")
    return phases({name: value_of(f"GAN.{name}_sparsity") for name in names})
