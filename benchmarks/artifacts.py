"""Measures artifacts of each format: bytes, time to load, time for an image.

    python -m benchmarks.artifacts [--width=256] [--rounds=7] [--sparsities=0,0.8,0.9,0.95]
        [--json=PATH] [--folder=DIR]
    python -m benchmarks.artifacts --positions

The generator is SNGAN's for 32x32 pixels, sparse by ERK, with random weights: neither bytes nor
times depend on their values. Bytes are those of the model's files, plain and by gzip -6. Loading is
`stugan_tf.serving.load` in a process that has imported TensorFlow. It includes checksums and the
first image, which compiles the graphs. Times of images are taken in rounds, each format once a
round; the table has medians, and in brackets the least and the greatest.

With --positions it prints the size of the positions of non-zeros instead, in bits per weight.
"""

import gc
import gzip
import json
import os
import pathlib
import statistics
import tempfile
import time
import zlib

import numpy as np
import tensorflow as tf
from absl import app, flags, logging

from benchmarks.twins import alternate
from stugan_tf.models.sngan import sngan_generator
from stugan_tf.serving import artifact, positions
from stugan_tf.serving.folding import fold_into_plain_layers
from stugan_tf.serving.formats import FORMATS, Settings
from stugan_tf.serving.interface import Interface
from stugan_tf.serving.loading import load
from stugan_tf.sparsity.sparsify import sparsify

_WIDTH = flags.DEFINE_integer("width", 256, "Feature maps of the generator.")
_ROUNDS = flags.DEFINE_integer("rounds", 7, "Measurements of each time.")
_SPARSITIES = flags.DEFINE_list("sparsities", ["0", "0.8", "0.9", "0.95"], "What to measure.")
_JSON = flags.DEFINE_string("json", None, "Where to write the measurements.")
_FOLDER = flags.DEFINE_string(
    "folder", None, "Where to keep the artifacts; otherwise they are removed."
)

_POSITIONS = flags.DEFINE_bool("positions", False, "Measure only the code of positions.")

CASES = [(name, precision) for name, one in FORMATS.items() for precision in one.precisions]
BATCHES = (1, 64)
SHAPE, LATENT_DIM = (32, 32, 3), 128


def write(folder, graph, interface, kind, precision):
    """Writes an artifact as `export` does, without a model card."""
    folder.mkdir(parents=True)
    FORMATS[kind].write(folder, graph, interface, Settings(precision, BATCHES))
    artifact.write_manifest(folder, kind, interface)


def sizes(folder):
    """Bytes of the model's files, plain and by gzip."""
    files = [p for p in folder.rglob("*") if p.is_file() and p.name != artifact.MANIFEST]
    contents = [path.read_bytes() for path in files]
    return sum(map(len, contents)), sum(len(gzip.compress(data, 6)) for data in contents)


def load_times(folder, latents, rounds):
    """Seconds from opening a folder to its first image."""
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        load(folder, by="tensorflow")(latents=latents)
        times.append(time.perf_counter() - start)
        gc.collect()
    return times


def in_milliseconds(times, number=1):
    """Median, least and greatest seconds per image, of `number` images."""
    times = [1e3 * seconds / number for seconds in times]
    return statistics.median(times), min(times), max(times)


def measure(root, sparsity, width, rounds):
    """Rows of one sparsity."""
    interface = Interface(LATENT_DIM, SHAPE, 10, conditional=False)
    graph = fold_into_plain_layers(sparsify(sngan_generator(SHAPE, width=width), sparsity, seed=0))
    latents = np.random.default_rng(0).standard_normal([max(BATCHES), LATENT_DIM], np.float32)
    rows, served = [], []
    for kind, precision in CASES:
        folder = root / f"{kind}_{precision}_{sparsity}"
        write(folder, graph, interface, kind, precision)
        plain, zipped = sizes(folder)
        loading = in_milliseconds(load_times(folder, latents[:1], rounds))
        rows.append(
            {"format": kind, "precision": precision, "sparsity": sparsity, "bytes": plain}
            | {"bytes_gzip": zipped, "load_ms": loading}
        )
        served.append(load(folder, by="tensorflow"))
    for batch in BATCHES:
        some = latents[:batch]
        calls = [lambda one=one, some=some: list(one.batches(some, None)) for one in served]
        for row, times in zip(rows, alternate(calls, rounds, 0.05), strict=True):
            row[f"image_ms_batch_{batch}"] = in_milliseconds(times, batch)
    return rows


def spread(values):
    median, least, greatest = (f"{v:,.0f}" if v >= 100 else f"{v:.3g}" for v in values)
    return f"{median} ({least} to {greatest})"


def table(rows):
    """The measurements as Markdown."""
    titles = ["sparsity", "format", "KiB", "KiB gzip", "load ms"]
    titles += [f"ms/image, batch {batch}" for batch in BATCHES]
    lines = [" | ".join(titles), " | ".join("---" for _ in titles)]
    for row in rows:
        cells = [
            f"{row['sparsity']:g}",
            f"{row['format']} {row['precision']}",
            f"{row['bytes'] / 1024:,.0f}",
            f"{row['bytes_gzip'] / 1024:,.0f}",
            spread(row["load_ms"]),
            *(spread(row[f"image_ms_batch_{batch}"]) for batch in BATCHES),
        ]
        lines.append(" | ".join(cells))
    return "\n".join(f"| {line} |" for line in lines)


def print_positions(size=200_000):
    print("| density | entropy | this code | bit mask | bit mask, zlib -9 |")
    for density in (0.02, 0.05, 0.1, 0.2, 0.5):
        mask = np.random.default_rng(0).random(size) < density
        ones = mask.mean()
        entropy = -ones * np.log2(ones) - (1 - ones) * np.log2(1 - ones)
        high, low, _ = positions.encode(mask)
        zipped = zlib.compress(np.packbits(mask).tobytes(), 9)
        bits = (8 * (len(high) + len(low)) / size, 1, 8 * len(zipped) / size)
        print(f"| {density:g} | {entropy:.3f} | " + " | ".join(f"{one:.3f}" for one in bits) + " |")


def main(_):
    logging.set_verbosity(logging.ERROR)
    if _POSITIONS.value:
        print_positions()
        return
    threads = len(os.sched_getaffinity(0))
    print(f"TensorFlow {tf.__version__}, {threads} threads, SNGAN of width {_WIDTH.value}")
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        root = pathlib.Path(_FOLDER.value or scratch)
        for sparsity in map(float, _SPARSITIES.value):
            rows += measure(root, sparsity, _WIDTH.value, _ROUNDS.value)
            print(f"measured sparsity {sparsity:g}", flush=True)
    print(table(rows))
    if _JSON.value:
        pathlib.Path(_JSON.value).write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    app.run(main)
