"""Theoretical cost of a training: what its densities would allow, summed over steps and phases.

A backward pass counts as two forward passes, one for the gradient of the layers' inputs and one
for that of their weights. What a step passes through the networks is a matter of convention, and
every figure has to name the one it follows:

- `paper`: each update of a network is a forward and a backward pass of it on one batch. This is
  what reproduces the ratios of the paper's Table 2 (fidelity.md, section 6), and it leaves out the
  images that a discriminator update generates, real images beside generated ones, and the
  discriminator's part of a generator update.
- `full`: all that Algorithm 1 does.

Where growth ranks the gradient of all weights, the gradient of that update is dense; only these
are counted so. This package's dense execution computes dense gradients in every step, so these are
not measurements of speed.
"""

from typing import NamedTuple

from stugan_tf.sparsity.criteria import Criterion


class Cost(NamedTuple):
    """Theoretical FLOPs of a forward pass through one network on one image."""

    sparse: float  # At its densities.
    dense: float


class Passes(NamedTuple):
    """How many images one generator step sends through one network."""

    forward: int  # Forward alone.
    trained: int  # Forward and backward.
    observed: int  # Of these, the images of the update whose gradient growth sees.


class Stretch(NamedTuple):
    """Steps in a row at constant densities."""

    steps: int
    generator: Cost
    discriminator: Cost
    # Of `steps`, those that need the gradient of all weights of the network.
    dense_generator_gradients: int = 0
    dense_discriminator_gradients: int = 0


class Spent(NamedTuple):
    """Theoretical FLOPs of a training by the network they are spent in."""

    generator: float
    discriminator: float

    @property
    def total(self):
        """Of both networks."""
        return self.generator + self.discriminator

    @property
    def generator_share(self):
        """The fraction that the generator takes: w in fidelity.md, section 6, if all is dense."""
        return self.generator / self.total


def paper(algorithm):
    """`Passes` of generator and discriminator as the paper's Table 2 seems to count them."""
    batch = algorithm.batch_size
    return (
        Passes(forward=0, trained=batch, observed=batch),
        Passes(forward=0, trained=algorithm.discriminator_steps * batch, observed=batch),
    )


def full(algorithm):
    """`Passes` of generator and discriminator: all that a step does.

    A discriminator update generates images without a backward pass through the generator, and sees
    as many real ones; a generator update goes through both networks and back.
    """
    updates, batch = algorithm.discriminator_steps, algorithm.batch_size
    generated = algorithm.generator_batch_size
    return (
        Passes(forward=updates * batch, trained=generated, observed=generated),
        Passes(forward=0, trained=updates * 2 * batch + generated, observed=2 * batch),
    )


CONVENTIONS = {"paper": paper, "full": full}


def training_flops(stretches, algorithm, convention, rematerializes=False):
    """What a training spends.

    Args:
        stretches: a list of `Stretch`, which together are the training.
        algorithm: an `Algorithm`, or another object with its `batch_size`, `generator_batch_size`
            and `discriminator_steps`.
        convention: a key of `CONVENTIONS`.
        rematerializes: whether backward passes run the networks again, which `full` counts as one
            more forward pass, though what ends a block need not run again.

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


def _run_again(passes):
    return passes._replace(forward=passes.forward + passes.trained)


def _spent(passes, cost, steps, dense_gradients):
    per_step = (passes.forward + 3 * passes.trained) * cost.sparse
    # One of the three passes is for the gradient of the weights.
    return steps * per_step + dense_gradients * passes.observed * (cost.dense - cost.sparse)


def add_phases(phases):
    """The sum of what several phases, each a `Spent`, take: prune-and-finetune, tickets."""
    generator, discriminator = zip(*phases, strict=True)
    return Spent(sum(generator), sum(discriminator))


def as_dense(stretches):
    """The same steps with all layers dense, which ratios are taken of."""
    return [
        Stretch(
            stretch.steps,
            *(Cost(cost.dense, cost.dense) for cost in (stretch.generator, stretch.discriminator)),
        )
        for stretch in stretches
    ]


def constant_stretch(generator, discriminator, algorithm, first=0, last=None):
    """The `Stretch` of a training that keeps its densities.

    Args:
        generator: `Cost`.
        discriminator: `Cost`.
        algorithm: an `Algorithm`; its topology rules say which gradients are dense.
        first: steps done before it.
        last: the last step of it; None is that of the training.
    """
    last = algorithm.total_steps if last is None else last
    dense_gradients = (
        num_dense_gradients(algorithm.topology_rules[name], first, last, algorithm.total_steps)
        for name in ("generator", "discriminator")
    )
    return Stretch(last - first, generator, discriminator, *dense_gradients)


def num_dense_gradients(rule, first, last, total_steps):
    """How many of the steps first + 1 to last need the gradient of all weights of a network.

    Args:
        rule: its `TopologyRule`, or None.
        first: steps done before.
        last: the last step that counts.
        total_steps: of the training.
    """
    # What only prunes has nothing to grow by.
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


def stretches_of(records, cost_at, algorithm):
    """The stretches of a training whose densities change, from what it logged.

    Args:
        records: dictionaries by ascending `step`, such as those of metrics.jsonl. The rest of each
            is handed to `cost_at`. A record stands for the steps since the one before it, so that
            a change counts from up to one interval of logging too early.
        cost_at: `(network name, record) -> Cost`, see `cost_by_sparsity` and
            `flops.with_densities`.
        algorithm: an `Algorithm`.
    """
    stretches, done = [], 0
    for record in records:
        costs = (cost_at(name, record) for name in ("generator", "discriminator"))
        stretches.append(constant_stretch(*costs, algorithm, done, record["step"]))
        done = record["step"]
    return stretches


def cost_by_sparsity(costs):
    """`cost_at` of `stretches_of` where only the sparsity of a whole network is known.

    FLOPs are interpolated between those at known densities and those of the dense network, which
    is exact at both and in between if the layers' densities change in proportion.

    Args:
        costs: {network name: (its `LayerCost`s at known densities, their sparsity)}.
    """

    def cost_at(name, record):
        layers, known = costs[name]
        sparse = sum(cost.flops for cost in layers)
        dense = sum(2 * cost.macs for cost in layers)
        sparsity = record[f"{name}_sparsity"]
        if known > 0:
            sparse = dense - (dense - sparse) * sparsity / known
        elif sparsity > 0:  # All that is left: every masked layer alike.
            masked = sum(2 * cost.macs for cost in layers if cost.masked)
            sparse = dense - sparsity * masked
        return Cost(sparse, dense)

    return cost_at
