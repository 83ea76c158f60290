"""The plan of a run, in words and tables."""

import bisect
import collections
import math
import textwrap
from typing import Any

import keras
import tensorflow as tf

from stugan_tf.layers.graph import activation_size
from stugan_tf.layers.masked import unmasked_dense_layers, unmasked_kernels
from stugan_tf.layers.rematerialization import parts_of, rematerialized_sizes
from stugan_tf.runs.loop import Training
from stugan_tf.sparsity.flops import counted, layer_costs, total_flops
from stugan_tf.sparsity.sparsify import count_weights
from stugan_tf.sparsity.training_flops import (
    CONVENTIONS,
    Cost,
    as_dense,
    constant_stretch,
    cost_by_sparsity,
    stretches_of,
    training_flops,
)
from stugan_tf.tables import columns
from stugan_tf.training.algorithm import Algorithm
from stugan_tf.training.gan import GAN
from stugan_tf.training.masked_adam import MaskedAdam


def describe(training: Training) -> str:
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
            f"rematerialisation: backward passes run {' and '.join(numbers)} again, which the "
            "full count of FLOPs below counts as a forward pass"
        )
    lines += [
        f"{name}: {learning_rate(optimizer, algorithm.updates(name))}"
        for name, optimizer in training.gan.optimizers.items()
    ]
    for name, rule in algorithm.topology_rules.items():
        if rule is None:
            lines.append(f"{name}: the topology does not change")
            continue
        if rule.next_due(0, algorithm.total_steps) is None and not rule.is_static:
            lines.append(f"{name}: no topology update, {rule.when}: the training is too short")
            continue
        description = rule.description(algorithm.total_steps, algorithm.progress)
        lines.append(f"{name}: {description}")
    if algorithm.balance_ratio is not None:
        lines.append(f"balance ratio: {algorithm.balance_ratio}")
    lines += ["", flops_of_training(training.gan, algorithm), ""]
    parts = memory_estimate(
        training.gan, algorithm, training.num_replicas, training.keeps_gradients
    )
    lines.append(
        f"estimate of the memory of one device: {sum(parts.values()) / 2**20:,.0f} MiB, without "
        "the working memory of libraries"
    )
    width = max(map(len, parts))
    lines += [f"  {name.ljust(width)}  {size / 2**20:12,.1f} MiB" for name, size in parts.items()]
    return "\n".join(lines)


def learning_rate(optimizer: MaskedAdam, updates: int) -> str:
    """The learning rate of an optimizer over this number of updates, in words."""
    first, last = optimizer.rate_at(0), optimizer.rate_at(updates - 1)
    if optimizer.schedule is None:
        return f"learning rate {first:g}"
    text = f"learning rate from {first:g} to {last:g}, in {updates:,} updates"
    if last == 0:
        zero = bisect.bisect_left(range(updates), True, key=lambda n: optimizer.rate_at(n) == 0)
        text += f"; it is 0 after {zero:,} updates, so the last {updates - zero:,} change nothing"
    return text


def flops_of_training(gan: GAN, algorithm: Algorithm) -> str:
    """Lines on the theoretical FLOPs of a training if the densities do not change."""
    generator, discriminator = (
        Cost(*total_flops(counted(layer_costs(network))))
        for network in (gan.generator, gan.discriminator)
    )
    stretches = [constant_stretch(generator, discriminator, algorithm)]
    return "\n".join(
        [
            f"theoretical FLOPs of training at the present densities, {algorithm.total_steps:,} "
            "steps:",
            *flops_by_convention(stretches, algorithm, gan.rematerializes),
        ]
    )


def flops_so_far(training: Training, *phases: list[dict[str, Any]]) -> str:
    """Lines on the theoretical FLOPs of the steps done, at the densities they had.

    Args:
        training: a `Training` with the masks of the newest checkpoint.
        *phases: the records of the metrics.jsonl of each phase. Their sparsities must be between 0
            and the present sparsity.
    """
    costs = {
        name: (counted(layer_costs(network)), count_weights(network).sparsity)
        for name, network in training.gan.networks.items()
    }
    cost_at = cost_by_sparsity(costs)
    stretches = [
        stretch
        for records in phases
        for stretch in stretches_of(records, cost_at, training.algorithm)
    ]
    steps = sum(records[-1]["step"] for records in phases)
    where = f" in {len(phases)} phases" if len(phases) > 1 else ""
    return "\n".join(
        [
            f"theoretical FLOPs of the {steps:,} steps logged so far{where}:",
            *flops_by_convention(stretches, training.algorithm, training.gan.rematerializes),
        ]
    )


def flops_by_convention(stretches, algorithm, rematerializes=False):
    """One line for each convention: FLOPs, and their ratio to dense training."""
    lines = []
    for convention in CONVENTIONS:
        spent, dense = (
            training_flops(some, algorithm, convention, rematerializes).total
            for some in (stretches, as_dense(stretches))
        )
        share = f", {spent / dense:.4f} of dense" if dense else ""
        lines.append(f"  {convention.ljust(7)}  {spent:.4g}{share}")
    return lines


def memory_estimate(
    gan: GAN, algorithm: Algorithm, num_replicas: int = 1, keeps_gradients: bool = False
) -> dict[str, int]:
    """An estimate of the most bytes that a device holds, by purpose.

    Activations are the outputs of all layers. This is more than a backward pass needs, but leaves
    out the working memory of operations. If the GAN rematerialises, they are the outputs that are
    kept and those of the part that runs again.

    Args:
        gan: a `GAN`.
        algorithm: an `Algorithm`.
        num_replicas: the number of devices that share a batch.
        keeps_gradients: whether updates accumulate gradients in variables.
    """
    networks = gan.networks
    of_discriminator, of_generator = _activations(gan)
    trainable = {name: _size(network.trainable_variables) for name, network in networks.items()}
    masks = {name: 4 * count_weights(network).maskable for name, network in networks.items()}
    changing = [name for name, rule in algorithm.topology_rules.items() if rule is not None]
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
        "exploration": sum(masks.values()) + sum(masks[name] for name in changing),
        "gradients": max(trainable.values()) + keeps_gradients * sum(trainable.values()),
        "activations of one micro-batch": max(
            algorithm.batch_size // share * of_discriminator,
            algorithm.generator_batch_size // share * of_generator,
        ),
    }


def _activations(gan):
    """The most bytes for one sample in an update of the discriminator and of the generator."""
    networks = gan.generator, gan.discriminator
    if not gan.rematerializes:
        generator, discriminator = map(activation_size, networks)
        # Discriminator: a real and a generated image. Generator: both networks.
        return 2 * discriminator, generator + discriminator
    (g_kept, g_part), (d_kept, d_part) = map(rematerialized_sizes, networks)
    # The discriminator's backward passes do not wait for each other.
    return 2 * (d_kept + d_part), g_kept + d_kept + max(g_part, d_part)


def _size(variables):
    return sum(_bytes(variable.shape, variable.dtype) for variable in variables)


def _bytes(shape, dtype):
    return math.prod(shape) * tf.as_dtype(dtype).size


def network_table(name: str, model: keras.Model) -> str:
    """One row for each layer (kernel shape, weights, density, theoretical FLOPs), and totals."""
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
                "unknown" if cost.uncounted else f"{cost.flops / 1e6:,.2f}",
                "unknown" if cost.uncounted else f"{2 * cost.macs / 1e6:,.2f}",
            )
        )
    counts = count_weights(model)
    sparse, dense = total_flops(counted(costs))
    share = f", {sparse / dense:.4f} of dense" if dense else ""
    return "\n".join(
        [
            f"{name}: sparsity {counts.sparsity:.4f} of the {counts.maskable:,} weights under "
            f"masks, {counts.overall_sparsity:.4f} of all {counts.trainable:,} parameters",
            f"  {_unmasked(model, counts)}",
            textwrap.indent(columns(rows, num_left=2), "  "),
            f"  theoretical FLOPs of a forward pass on one image: {sparse:.4g}{share}",
            *(f"  not counted: {c.name!r}, {c.uncounted}" for c in costs if c.uncounted),
            "",
        ]
    )


def _unmasked(model, counts):
    """How many parameters are not under masks, and which setting changes that."""
    unmasked = counts.trainable - counts.maskable
    text = f"{unmasked:,} parameters ({unmasked / counts.trainable:.1%}) are not under masks"
    dense = sum(math.prod(layer.kernel.shape) for layer in unmasked_dense_layers(model))
    if dense:
        text += f"; GAN.mask_dense = True puts the {dense:,} of dense layers under masks"
    others: collections.Counter[str] = collections.Counter()
    for weights in unmasked_kernels(model):
        if weights.rank > 2:
            others[weights.kind] += weights.size
    if others:
        kinds = ", ".join(f"{kind} ({size:,})" for kind, size in others.items())
        text += f"; these kernels stay dense: {kinds}"
    return text
