"""What a run is going to do, in words and tables."""

import math
from typing import NamedTuple

import tensorflow as tf

from stugan_tf.layers.graph import activation_size
from stugan_tf.layers.rematerialization import parts_of, rematerialized_sizes
from stugan_tf.sparsity.flops import layer_costs, total_flops
from stugan_tf.sparsity.sparsify import count_weights


def describe(training):
    """The networks and the schedule of a `Training` as text."""
    algorithm = training.algorithm
    position = algorithm.generator_position
    lines = [network_table(name, model) for name, model in training.gan.networks.items()]
    lines.append(
        f"{algorithm.total_steps:,} steps, each of {algorithm.discriminator_steps} discriminator "
        f"updates (batch {algorithm.batch_size}) and, after number {position}, 1 generator update "
        f"(batch {algorithm.generator_batch_size})"
    )
    if algorithm.accumulation_steps > 1:
        lines[-1] += f"; batches come as {algorithm.accumulation_steps} micro-batches each"
    if training.gan.rematerializes:
        numbers = (
            f"the {name} in {len(parts_of(network))} parts"
            for name, network in training.gan.networks.items()
        )
        lines.append(
            f"rematerialisation: backward passes run {' and '.join(numbers)} once more, which the "
            "FLOPs below count as a forward pass"
        )
    for name, exploration in algorithm.explorations.items():
        if exploration is None:
            lines.append(f"{name}: the topology does not change")
            continue
        updates = exploration.num_updates(algorithm.total_steps)
        first = exploration.next_due(0, algorithm.total_steps)
        lines.append(
            f"{name}: {updates} topology updates, every {exploration.update_interval} steps; "
            f"drop fraction {algorithm.drop_fraction(name, first):.4g} at step {first}, "
            f"{algorithm.drop_fraction(name, algorithm.total_steps):.4g} at the end"
        )
    lines += ["", flops_of_training(training.gan, algorithm), ""]
    parts = memory_estimate(
        training.gan, algorithm, training.num_replicas, training.keeps_gradients
    )
    lines.append(
        f"estimate of the memory of one device: {sum(parts.values()) / 2**20:,.0f} MiB; what "
        "libraries work with comes on top"
    )
    width = max(map(len, parts))
    lines += [f"  {name.ljust(width)}  {size / 2**20:12,.1f} MiB" for name, size in parts.items()]
    return "\n".join(lines)


class Flops(NamedTuple):
    """Theoretical FLOPs of one generator step."""

    full: float  # All that Algorithm 1 does.
    paper: float  # Of what the paper's Table 2 seems to count.


def flops_of_step(generator, discriminator, algorithm, rematerializes=False):
    """The `Flops` of a step, a backward pass counting as two forward passes.

    One that rematerialises counts as three, though it need not run what ends a block again. The
    paper counts no such thing.

    A discriminator update generates images, without a backward pass, and sees as many real ones; a
    generator update goes through both networks. The paper-like count, which is what reproduces the
    ratios of its Table 2, is of a forward and a backward pass of each network on one batch per
    update, and leaves out all else.

    Args:
        generator: FLOPs of a forward pass on one image.
        discriminator: FLOPs of a forward pass on one image.
        algorithm: an `Algorithm`.
        rematerializes: whether backward passes run the networks again.
    """
    passes = 4 if rematerializes else 3  # Forward and backward.
    num_updates, batch = algorithm.discriminator_steps, algorithm.batch_size
    return Flops(
        full=num_updates * batch * (generator + 2 * passes * discriminator)
        + algorithm.generator_batch_size * passes * (generator + discriminator),
        paper=batch * 3 * (generator + num_updates * discriminator),
    )


def flops_of_training(gan, algorithm):
    """A sentence on theoretical FLOPs."""
    forward = [total_flops(layer_costs(network)) for network in (gan.generator, gan.discriminator)]
    sparse, dense = (
        flops_of_step(*of_networks, algorithm, gan.rematerializes)
        for of_networks in zip(*forward, strict=True)
    )
    return (
        f"theoretical FLOPs of a step at the densities of its start: {sparse.full:.4g}, "
        f"{sparse.full / dense.full:.4f} of dense ({sparse.paper / dense.paper:.4f} as the paper "
        f"counts); of all steps: {algorithm.total_steps * sparse.full:.4g}"
    )


def memory_estimate(gan, algorithm, num_replicas=1, keeps_gradients=False):
    """About how many bytes a device holds at most, by what they are for.

    Activations are the outputs of all layers, which is more than what a backward pass needs and
    leaves out what operations work with; of a GAN that rematerialises, those that are kept and
    those of the part that runs again.

    Args:
        gan: a `GAN`.
        algorithm: an `Algorithm`.
        num_replicas: how many devices share a batch.
        keeps_gradients: whether updates add up gradients in variables.
    """
    networks = gan.networks
    of_discriminator, of_generator = _activations(gan)
    trainable = {name: _size(network.trainable_variables) for name, network in networks.items()}
    masks = {name: 4 * count_weights(network).maskable for name, network in networks.items()}
    explored = [name for name, found in algorithm.explorations.items() if found is not None]
    share = algorithm.accumulation_steps * num_replicas
    return {
        "parameters": sum(trainable.values()),
        "masks and statistics": _size(
            v for network in networks.values() for v in network.non_trainable_variables
        ),
        "moments of the optimizers": _size(
            v for optimizer in gan.optimizers.values() for v in optimizer.variables
        ),
        "averaged generator": _size(gan.averaged.model.variables) + masks["generator"] // 4,
        "exploration": sum(masks.values()) + sum(masks[name] for name in explored),
        "gradients": max(trainable.values()) + keeps_gradients * sum(trainable.values()),
        "activations of one micro-batch": max(
            algorithm.batch_size // share * of_discriminator,
            algorithm.generator_batch_size // share * of_generator,
        ),
    }


def _activations(gan):
    """Bytes for one sample at most, in an update of the discriminator and of the generator."""
    networks = gan.generator, gan.discriminator
    if not gan.rematerializes:
        generator, discriminator = map(activation_size, networks)
        # Of a real image and a generated one; of all through which the generator learns.
        return 2 * discriminator, generator + discriminator
    (g_kept, g_part), (d_kept, d_part) = map(rematerialized_sizes, networks)
    # The discriminator's backward passes do not wait for each other.
    return 2 * (d_kept + d_part), g_kept + d_kept + max(g_part, d_part)


def _size(variables):
    return sum(_bytes(variable.shape, variable.dtype) for variable in variables)


def _bytes(shape, dtype):
    return math.prod(shape) * tf.as_dtype(dtype).size


def network_table(name, model):
    """One row a layer: kernel shape, weights, density, theoretical FLOPs; totals below."""
    costs = layer_costs(model)
    rows = [("layer", "kernel", "weights", "active", "density", "MFLOPs", "dense")]
    for cost in costs:
        rows.append(
            (
                cost.name,
                "x".join(map(str, cost.kernel_shape)),
                f"{cost.size:,}",
                f"{cost.active:,}",
                f"{cost.density:.4f}" if cost.masked else "unmasked",
                f"{cost.flops / 1e6:,.2f}",
                f"{2 * cost.macs / 1e6:,.2f}",
            )
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(
            text.ljust(width) if index < 2 else text.rjust(width)
            for index, (text, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
    counts = count_weights(model)
    sparse, dense = total_flops(costs)
    share = f", {sparse / dense:.4f} of dense" if dense else ""
    return "\n".join(
        [
            f"{name}: sparsity {counts.sparsity:.4f} of the {counts.maskable:,} weights under "
            f"masks, {counts.overall_sparsity:.4f} of all {counts.trainable:,} parameters",
            *(f"  {line}" for line in lines),
            f"  theoretical FLOPs of a forward pass on one image: {sparse:.4g}{share}",
            "",
        ]
    )
