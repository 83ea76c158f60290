"""GAN Tickets (Chen et al., 2021): iterative magnitude pruning with rewinding.

After a dense training, each round removes a fraction of the weights that are left, the smallest of
all convolutions together. It then puts the other weights, and everything else in both networks,
back to the initial values, and trains the whole schedule again with new optimizers. The
discriminator stays dense ("IMP on G") or is pruned in the same way, by itself ("IMP on G & D").
"""

import math

import gin
import tensorflow as tf

from stugan_tf.checks import check_fraction, check_positive
from stugan_tf.errors import InputError
from stugan_tf.layers.kernel_mask import kernel_masks
from stugan_tf.methods.masking import prune
from stugan_tf.methods.phases import Phase, Phases
from stugan_tf.methods.pretraining import DENSE, dense_phase
from stugan_tf.sparsity.magnitude_pruning import prune_remaining


@gin.configurable(denylist=["sparsities"])
def tickets(sparsities: dict[str, float], rounds: int | None = None, rate: float = 0.2) -> Phases:
    """A dense training, then rounds of pruning, rewinding and training.

    Args:
        sparsities: the configured s_G and s_D, by the name of the network: the goals of the last
            round. If s_D is 0, the discriminator is not pruned.
        rounds: the number of rounds, which must agree with the sparsities. None chooses the number
            that comes nearest to them.
        rate: the fraction of the remaining weights that each round removes.

    Raises:
        InputError: if an argument is wrong, or the rounds do not reach the sparsities.
    """
    for name, sparsity in sparsities.items():
        check_fraction(f"GAN.{name}_sparsity", sparsity, "Write 0.8 to prune to 80% zeros.")
    check_fraction("tickets.rate", rate)
    if not rate:
        raise InputError("tickets.rate is 0, so no round removes anything. Write 0.2 for 20%.")
    if not sparsities["generator"]:
        raise InputError(
            "tickets prunes the generator, but GAN.generator_sparsity is 0. Set it to the goal of "
            f"the last round, such as {1 - (1 - rate) ** 10:.4f} for 10 rounds."
        )
    if rounds is not None:
        check_positive("tickets.rounds", rounds)
    pruned = [name for name, sparsity in sparsities.items() if sparsity]
    needed = {name: _rounds_to(sparsities[name], rate) for name in pruned}
    for name, number in needed.items():
        wanted = needed["generator"] if rounds is None else rounds
        if number != wanted:
            raise InputError(
                f"GAN.{name}_sparsity = {sparsities[name]} is reached by {number} round(s) of "
                f"{rate:.0%}, but {wanted} are configured, which reach "
                f"{1 - (1 - rate) ** wanted:.4f}. Make tickets.rounds and the sparsities agree."
            )
    numbers = range(1, needed["generator"] + 1)
    return Phases("tickets", [dense_phase(), *(_round(n, rate, pruned) for n in numbers)])


def _rounds_to(sparsity: float, rate: float) -> int:
    """The number of rounds that comes nearest to the sparsity, on a logarithmic scale."""
    return max(1, round(math.log(1 - sparsity) / math.log(1 - rate)))


def _round(number: int, rate: float, pruned: list[str]) -> Phase:
    def begin(training, parent):
        parent.restore(training)
        masks = {name: _pruned(training.gan.networks[name], rate) for name in pruned}
        parent.rewind(training)
        prune(training, masks)
        return {"pruning": prune_remaining.__name__, "rate": rate}

    return Phase(
        name=f"round_{number:02d}",
        about=f"{' and '.join(pruned)} pruned to {1 - (1 - rate) ** number:.2%} zeros, rewound, "
        "trained again",
        begin=begin,
        settings=DENSE,
        start_from="latest",
    )


def _pruned(network, rate):
    """The masks of a network after one more round."""
    layers = kernel_masks(network)
    return prune_remaining(
        [tf.convert_to_tensor(layer.kernel.value) for layer in layers],
        [tf.convert_to_tensor(layer.kernel_mask.value) for layer in layers],
        rate,
    )
