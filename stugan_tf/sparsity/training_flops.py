"""Theoretical cost of a training at its densities, summed over steps and phases.

A backward pass counts as two forward passes, one for the gradient of the layers' inputs and one
for the gradient of their weights. There are two conventions for the passes of a step, and every
figure must name its convention:

- `updates`: each update of a network is one forward and one backward pass of this network on one
  batch. It leaves out the images that a discriminator update generates, real images beside
  generated ones, and the discriminator's part of a generator update. It reproduces the ratios of
  the paper's Table 2 if SNGAN's step has four discriminator updates (fidelity.md, section 6); it
  has five.
- `full`: everything that Algorithm 1 does.

Where growth ranks the gradient of all weights, this gradient is counted as dense. All others are
counted as sparse. The dense execution of this package computes dense gradients in every step, so
these are not measurements of speed.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from stugan_tf.sparsity.criteria import Criterion
from stugan_tf.sparsity.flops import LayerCost
from stugan_tf.sparsity.rule import TopologyRule


class Cost(NamedTuple):
    """Theoretical FLOPs of a forward pass through one network on one image."""

    sparse: float  # At the densities of the network.
    dense: float  # If all layers were dense.


class Passes(NamedTuple):
    """The number of images that one generator step sends through one network."""

    forward: int  # Forward only.
    trained: int  # Forward and backward.
    observed: int  # Those of `trained` in the update whose gradient growth sees.


class Stretch(NamedTuple):
    """Steps in a row at constant densities."""

    steps: int
    generator: Cost
    discriminator: Cost
    # The number of steps that need the gradient of all weights of the network.
    dense_generator_gradients: int = 0
    dense_discriminator_gradients: int = 0


class Spent(NamedTuple):
    """Theoretical FLOPs of a training, by network."""

    generator: float
    discriminator: float

    @property
    def total(self) -> float:
        """FLOPs of both networks."""
        return self.generator + self.discriminator

    @property
    def generator_share(self) -> float:
        """The generator's fraction of the total: w in fidelity.md, section 6, if all is dense."""
        return self.generator / self.total


def updates(algorithm: Any) -> tuple[Passes, Passes]:
    """`Passes` of generator and discriminator: one batch through one network for each update."""
    batch = algorithm.batch_size
    return (
        Passes(forward=0, trained=batch, observed=batch),
        Passes(forward=0, trained=algorithm.discriminator_steps * batch, observed=batch),
    )


def full(algorithm: Any) -> tuple[Passes, Passes]:
    """`Passes` of generator and discriminator: everything that a step does.

    A discriminator update generates images without a backward pass through the generator, and sees
    as many real ones; a generator update goes through both networks and back.
    """
    real = algorithm.discriminator_steps * algorithm.batch_size
    generated = algorithm.generator_batch_size
    return (
        Passes(forward=real, trained=generated, observed=generated),
        Passes(forward=0, trained=2 * real + generated, observed=2 * algorithm.batch_size),
    )


CONVENTIONS = {"updates": updates, "full": full}


def training_flops(
    stretches: Iterable[Stretch], algorithm: Any, convention: str, rematerializes: bool = False
) -> Spent:
    """The theoretical FLOPs of a training.

    Args:
        stretches: a list of `Stretch`, which together are the training.
        algorithm: an `Algorithm`, or another object with its `batch_size`, `generator_batch_size`
            and `discriminator_steps`.
        convention: a key of `CONVENTIONS`.
        rematerializes: whether backward passes run the networks again. `full` counts this as one
            more forward pass, although the last layer of a block need not run again.

    Returns:
        `Spent`.
    """
    generator, discriminator = CONVENTIONS[convention](algorithm)
    if rematerializes and convention == "full":
        generator, discriminator = map(_run_again, (generator, discriminator))
    return add_phases(
        Spent(
            _spent(generator, stretch.generator, stretch.steps, stretch.dense_generator_gradients),
            _spent(
                discriminator,
                stretch.discriminator,
                stretch.steps,
                stretch.dense_discriminator_gradients,
            ),
        )
        for stretch in stretches
    )


def _run_again(passes: Passes) -> Passes:
    return passes._replace(forward=passes.forward + passes.trained)


def _spent(passes: Passes, cost: Cost, steps: int, dense_gradients: int) -> float:
    per_step = (passes.forward + 3 * passes.trained) * cost.sparse
    # One of the three passes is for the gradient of the weights.
    return steps * per_step + dense_gradients * passes.observed * (cost.dense - cost.sparse)


def add_phases(phases: Iterable[Spent]) -> Spent:
    """The sum over several phases, each a `Spent`, such as those of prune-and-finetune."""
    generator, discriminator = zip(*phases, strict=True)
    return Spent(sum(generator), sum(discriminator))


def as_dense(stretches: Iterable[Stretch]) -> list[Stretch]:
    """The same steps with all layers dense, the denominator of ratios."""
    return [
        Stretch(
            stretch.steps,
            Cost(stretch.generator.dense, stretch.generator.dense),
            Cost(stretch.discriminator.dense, stretch.discriminator.dense),
        )
        for stretch in stretches
    ]


def constant_stretch(
    generator: Cost,
    discriminator: Cost,
    algorithm: Any,
    first: int = 0,
    last: int | None = None,
) -> Stretch:
    """The `Stretch` of steps in which the densities stay.

    Args:
        generator: `Cost` of the generator.
        discriminator: `Cost` of the discriminator.
        algorithm: an `Algorithm`; its topology rules say which gradients are dense.
        first: number of steps before the stretch.
        last: the last step of the stretch; None means the last of the training.
    """
    last = algorithm.total_steps if last is None else last
    dense = {
        name: num_dense_gradients(rule, first, last, algorithm.total_steps)
        for name, rule in algorithm.topology_rules.items()
    }
    return Stretch(
        last - first, generator, discriminator, dense["generator"], dense["discriminator"]
    )


def num_dense_gradients(rule: TopologyRule | None, first: int, last: int, total_steps: int) -> int:
    """The number of steps from first + 1 to last that need the gradient of all weights.

    Args:
        rule: the `TopologyRule` of the network, or None.
        first: number of steps before the first one that counts.
        last: the last step that counts.
        total_steps: generator steps of the training.
    """
    # A rule that only prunes has no grow scores.
    if rule is None or rule.grow_scores is None:
        return 0
    if Criterion.of(rule.grow_scores).gradient == "none":
        return 0
    if rule.gradient_momentum:
        return last - first
    found, step = 0, rule.next_due(first, total_steps)
    while step is not None and step <= last:
        found, step = found + 1, rule.next_due(step, total_steps)
    return found


def stretches_of(
    records: Iterable[Mapping[str, Any]],
    cost_at: Callable[[str, Mapping[str, Any]], Cost],
    algorithm: Any,
) -> list[Stretch]:
    """The stretches of a training whose densities change, from its logs.

    Args:
        records: dictionaries by ascending `step`, such as those of metrics.jsonl, which `cost_at`
            reads. A record stands for the steps since the record before it. So a change of
            densities may count up to one interval of logging too early.
        cost_at: `(network name, record) -> Cost`, see `cost_by_sparsity` and
            `flops.with_densities`.
        algorithm: an `Algorithm`.
    """
    stretches, done = [], 0
    for record in records:
        generator, discriminator = (
            cost_at(name, record) for name in ("generator", "discriminator")
        )
        step = record["step"]
        stretches.append(constant_stretch(generator, discriminator, algorithm, done, step))
        done = step
    return stretches


def cost_by_sparsity(
    costs: Mapping[str, tuple[Sequence[LayerCost], float]],
) -> Callable[[str, Mapping[str, Any]], Cost]:
    """`cost_at` for `stretches_of` if only the sparsity of a whole network is known.

    FLOPs are interpolated between the network at known densities and the dense network. This is
    exact at both ends, and in between if the layers' densities change in proportion.

    Args:
        costs: {network name: (its `LayerCost`s at known densities, their sparsity)}.
    """

    def cost_at(name: str, record: Mapping[str, Any]) -> Cost:
        layers, known = costs[name]
        sparse = sum(cost.flops for cost in layers)
        dense = sum(2 * cost.macs for cost in layers)
        sparsity = record[f"{name}_sparsity"]
        if known > 0:
            sparse = dense - (dense - sparse) * sparsity / known
        elif sparsity > 0:  # Nothing else is known: all masked layers have this sparsity.
            masked = sum(2 * cost.macs for cost in layers if cost.masked)
            sparse = dense - sparsity * masked
        return Cost(sparse, dense)

    return cost_at
