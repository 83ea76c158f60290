"""The facts of generators in rows: what is theoretical, and what was measured."""

from collections.abc import Mapping, Sequence
from typing import Any

from stugan_tf.demo.exhibits import Exhibit, Facts
from stugan_tf.demo.latency import Latency

THEORY = "theoretical"
MEASURED = "measured"


def cost_rows(
    exhibits: Sequence[Exhibit], latencies: Mapping[int, Sequence[Latency]] | None = None
) -> list[dict[str, str]]:
    """The cost of generators in rows.

    Args:
        exhibits: the generators.
        latencies: {batch size: latencies, one for each exhibit}.

    Returns:
        A dictionary for each row: its title under `what`, a text under the name of each exhibit.
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


def _share(facts: Facts) -> str:
    return f"{facts.flops / facts.dense_flops:.1%}" if facts.dense_flops else "-"


def in_units(number: float) -> str:
    """A count in thousands (k), millions (M) and so on, with three digits."""
    for unit in ("", "k", "M", "G"):
        if number < 999.5:
            return f"{number:.3g} {unit}".rstrip()
        number /= 1000
    return f"{number:,.3g} T"


def latency_words(latency: Latency) -> str:
    """Median and quartiles of a `Latency` in ms."""
    low, high = latency.quartiles
    return f"{1e3 * latency.median:.3g} ms ({1e3 * low:.3g} to {1e3 * high:.3g})"


def density_rows(facts: Mapping[str, Facts]) -> list[dict[str, Any]]:
    """Densities of kernels, in order of computation.

    Args:
        facts: {name of a generator: its facts}.

    Returns:
        A dictionary with `layer`, `generator` and `density` for each kernel of each generator.
    """
    return [
        {"layer": layer.name, "generator": name, "density": layer.density}
        for name, of_generator in facts.items()
        for layer in of_generator.layers
    ]


def layer_rows(facts: Facts) -> list[dict[str, Any]]:
    """The facts of each kernel: a dictionary from the title of a column to its value."""
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
