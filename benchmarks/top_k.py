"""Times exact top-k and prune-and-regrow on one large kernel, and against sorting.

    python -m benchmarks.top_k [--quick] [--json=PATH]

Seconds are the median over repetitions on this machine, without tracing and compiling. Ratios are
to `top_k_mask` on the same number of scores in the same mode. Sorting is timed on fewer scores:
`tf.argsort` takes more than 10 s for the large kernel.
"""

import json
import math
import statistics
import time

import tensorflow as tf
from absl import app, flags

from stugan_tf.sparsity.distributions import exact_mask
from stugan_tf.sparsity.topology import prune_and_regrow, top_k_mask

_QUICK = flags.DEFINE_bool("quick", False, "Smaller kernels and one repetition.")
_JSON = flags.DEFINE_string("json", None, "Where to write the measurements.")


def median_seconds(function, arguments, jit_compile, num_repetitions):
    compiled = tf.function(function, jit_compile=jit_compile)
    tf.nest.map_structure(lambda tensor: tensor.numpy(), compiled(*arguments))
    seconds = []
    for _ in range(num_repetitions):
        start = time.perf_counter()
        tf.nest.map_structure(lambda tensor: tensor.numpy(), compiled(*arguments))
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def measure(shape, cases, num_repetitions):
    """The cases, (name, function, arguments) each. The first is the reference of the others."""
    rows = []
    for name, function, arguments in cases:
        row = {"operation": name, "elements": math.prod(shape)}
        for mode, jit_compile in [("graph", False), ("xla", True)]:
            seconds = median_seconds(function, arguments, jit_compile, num_repetitions)
            row[f"{mode}_seconds"] = seconds
            row[f"{mode}_ratio"] = seconds / (rows[0] if rows else row)[f"{mode}_seconds"]
        rows.append(row)
    return rows


def selection_cases(shape):
    mask = exact_mask(shape, 0.1, (0, 0))
    weight = mask * tf.random.stateless_normal(shape, (0, 1))
    gradient = tf.abs(tf.random.stateless_normal(shape, (0, 2)))
    exploration = (mask, tf.abs(weight), gradient, tf.constant(0.5, tf.float64))
    return [
        ("top_k_mask", top_k_mask, (gradient, tf.constant(math.prod(shape) // 20))),
        ("top_k_mask, 90% ties", top_k_mask, (weight, tf.constant(math.prod(shape) // 2))),
        ("prune_and_regrow", prune_and_regrow, exploration),
    ]


def sorting_cases(shape):
    scores = tf.random.stateless_normal(shape, (0, 3))
    k = math.prod(shape) // 20
    return [
        ("top_k_mask", top_k_mask, (scores, tf.constant(k))),
        ("tf.math.top_k", lambda scores: tf.math.top_k(scores, k, sorted=False)[1], (scores,)),
        ("tf.argsort", lambda scores: tf.argsort(scores, stable=True), (scores,)),
    ]


def main(argv):
    del argv
    large, small = (3, 3, 1536, 1536), (2**20,)
    if _QUICK.value:
        large, small = (3, 3, 256, 256), (2**16,)
    num_repetitions = 1 if _QUICK.value else 5
    rows = measure(large, selection_cases(large), num_repetitions)
    rows += measure(small, sorting_cases(small), num_repetitions)
    print(f"{'operation':24}{'elements':>12}{'graph s':>10}{'ratio':>8}{'XLA s':>10}{'ratio':>8}")
    for row in rows:
        print(
            f"{row['operation']:24}{row['elements']:12,}"
            f"{row['graph_seconds']:10.4f}{row['graph_ratio']:8.2f}"
            f"{row['xla_seconds']:10.4f}{row['xla_ratio']:8.2f}"
        )
    if _JSON.value:
        with open(_JSON.value, "w") as file:
            json.dump(rows, file, indent=2)


if __name__ == "__main__":
    app.run(main)
