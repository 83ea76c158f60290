"""What is known of generators, in rows: what is theory, and what was measured."""

THEORY = "theoretical"
MEASURED = "measured"


def cost_rows(exhibits, latencies=None):
    """What generators cost.

    Args:
        exhibits: `Exhibit`s.
        latencies: by batch size, a `Latency` of each exhibit.

    Returns:
        Dictionaries: `what` is in a row, and under the name of each exhibit, its words.
    """
    rows = [
        ("Format of the files", lambda facts: f"{facts.format}, {facts.precision}"),
        ("Training step", lambda facts: f"{facts.step:,}"),
        ("Zeros among weights under masks", lambda facts: f"{facts.sparsity:.1%}"),
        ("Parameters, zeros included", lambda facts: f"{facts.parameters:,}"),
        ("Bytes of the generator's files", lambda facts: f"{facts.num_bytes:,}"),
        (f"FLOPs an image, {THEORY}", lambda facts: in_units(facts.flops)),
        (f"... as a share of dense, {THEORY}", _share),
    ]
    found = [
        {"what": what, **{one.name: words(one.facts) for one in exhibits}} for what, words in rows
    ]
    for batch_size, of_batch in sorted((latencies or {}).items()):
        pairs = list(zip(exhibits, of_batch, strict=True))
        found.append(
            {
                "what": f"Batch of {batch_size}, {MEASURED}",
                **{one.name: latency_words(latency) for one, latency in pairs},
            }
        )
    return found


def _share(facts):
    return f"{facts.flops / facts.dense_flops:.1%}" if facts.dense_flops else "-"


def in_units(number):
    """A count in thousands (k), millions (M) and so on, to three digits."""
    for unit in ("", "k", "M", "G"):
        if number < 999.5:
            return f"{number:.3g} {unit}".rstrip()
        number /= 1000
    return f"{number:,.3g} T"


def latency_words(latency):
    """Median and quartiles of a `Latency` in ms."""
    low, high = latency.quartiles
    return f"{1e3 * latency.median:.3g} ms ({1e3 * low:.3g} to {1e3 * high:.3g})"


def density_rows(exhibits):
    """Densities of kernels, in order of computation.

    Returns:
        Dictionaries `layer`, `generator`, `density`, one for each kernel of each exhibit.
    """
    return [
        {"layer": layer.name, "generator": one.name, "density": layer.density}
        for one in exhibits
        for layer in one.facts.layers
    ]


def layer_rows(facts):
    """What `Facts` say of each kernel: dictionaries from the head of a column to its value."""
    return [
        {
            "Layer": layer.name,
            "Density": layer.density,
            "Kernel": "x".join(map(str, layer.kernel_shape)),
            "Weights": layer.weights,
            "Active": layer.active,
            "Under a mask": layer.masked,
            f"FLOPs, {THEORY}": layer.flops,
        }
        for layer in facts.layers
    ]
