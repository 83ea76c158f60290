"""What a run is going to do, in words and tables."""

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
    return "\n".join(lines)


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
