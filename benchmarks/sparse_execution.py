"""Measures what sparse execution saves on a CPU, compared with the faster dense mode.

    python -m benchmarks.sparse_execution [--quick] [--json=PATH] [--plot=PATH]
        [--parts=layers,inference,training,memory]

Layers: the forward product, and all three of training, at several shapes, densities and batches.
Inference: images of the full-width SNGAN generator. Training: whole steps of the full-width SNGAN,
one update of each network with optimizer, spectral norm, average and data. Memory: the most that a
training process takes. Dense means plain Keras layers without masks (`benchmarks/twins.py`), in the
faster of TensorFlow's classic graph and XLA. Both run in one process in turn, and a speed-up is the
median of the ratios taken pair by pair.

JSON rows: case, density, batch, dense_ms, sparse_ms, speedup and its least and greatest value.
"""

import functools
import json
import os
import pathlib
import statistics
import subprocess
import sys

import numpy as np
import tensorflow as tf
from absl import app, flags, logging

from benchmarks.twins import (
    alternate,
    dense_training,
    median_ratio,
    seconds,
    sparse_training,
    without_masks,
)
from stugan_tf.data import digits
from stugan_tf.kernels import convolution
from stugan_tf.layers.fusion import fuse
from stugan_tf.layers.masked import set_execution
from stugan_tf.models.sngan import sngan_discriminator, sngan_generator
from stugan_tf.sparsity.sparsify import sparsify

PARTS = ("layers", "inference", "training", "memory")
_QUICK = flags.DEFINE_bool("quick", False, "Fewer cases and repetitions: about a minute.")
_JSON = flags.DEFINE_string("json", None, "Where to write the measurements.")
_PLOT = flags.DEFINE_string("plot", None, "Where to draw the layers' speed-ups.")
_PARTS = flags.DEFINE_list("parts", list(PARTS), "What to measure.")
_PEAK_OF = flags.DEFINE_enum(
    "peak_of", None, ["dense", "sparse"], "Measure the peak memory of one kind, in this process."
)

# Kernel size, side of the images, channels in and out. A side of one pixel is a dense layer.
SHAPES = (
    (3, 8, 256, 256),
    (3, 16, 256, 256),
    (3, 32, 256, 256),
    (3, 32, 128, 128),
    (3, 16, 64, 64),
    (1, 16, 256, 256),
    (3, 32, 256, 3),
    (1, 1, 128, 4096),
)
DENSITIES = (0.05, 0.1, 0.2, 0.3, 0.5)
BATCHES = (1, 16, 64)
SPARSITIES = ((0.95, 0.7), (0.9, 0.5), (0.8, 0.7))
SIZE, TRAINING_BATCH, UPDATE_INTERVAL = 32, 64, 1000


class Rows(list):
    """Measurements, printed as they come."""

    def add(self, case, density, batch, dense, sparse, note=""):
        """Adds seconds of dense and sparse rounds as a row."""
        speedup, least, greatest = median_ratio(dense, sparse)
        row = {
            "case": case,
            "density": density,
            "batch": batch,
            "dense_ms": 1e3 * statistics.median(dense),
            "sparse_ms": 1e3 * statistics.median(sparse),
            "speedup": speedup,
            "speedup_least": least,
            "speedup_greatest": greatest,
        }
        self.append(row)
        print(
            f"{case:<32}{density:>8}{batch:>6}{row['dense_ms']:>11.2f}{row['sparse_ms']:>11.2f}"
            f"{speedup:>7.1f}  {least:.1f} to {greatest:.1f}  {note}",
            flush=True,
        )


def faster(*functions):
    """The fastest of several functions, after a warm-up of each."""
    for function in functions:
        function()
    return min(functions, key=lambda function: min(seconds(function) for _ in range(2)))


def graph(function):
    return tf.function(function, autograph=False)


def peak_rate():
    """GFLOP/s of a large matrix product: about the peak of the machine."""
    matrix = tf.random.normal([2048, 2048])
    product = graph(lambda: tf.matmul(matrix, matrix))
    return 2 * 2048**3 / min(alternate([product], 10)[0]) / 1e9


def layers(rows, shapes, densities, batches, num_rounds):
    peak = peak_rate()
    print(f"A dense matrix product reaches {peak:.0f} GFLOP/s: the peak below.")
    for size, side, inputs, outputs in shapes:
        for batch in batches:
            for density in densities:
                _layer(rows, size, side, inputs, outputs, batch, density, num_rounds, peak)


def _layer(rows, size, side, inputs, outputs, batch, density, num_rounds, peak):
    random = np.random.default_rng(0)
    shape = size, size, inputs, outputs
    images = tf.constant(random.standard_normal((batch, side, side, inputs), np.float32))
    gradient = tf.constant(random.standard_normal((batch, side, side, outputs), np.float32))
    mask = tf.cast(random.random(shape) < density, tf.float32)
    kernel = mask * random.standard_normal(shape, np.float32)
    parts = convolution.Parts("same", (size, size))

    def forward(is_sparse):
        return parts.forward(is_sparse, images, kernel)

    def triple(is_sparse):
        return (
            forward(is_sparse),
            parts.input_gradient(is_sparse, gradient, kernel, images.shape),
            parts.kernel_gradient(is_sparse, images, gradient, mask),
        )

    name = f"{side}x{side} {size}x{size} {inputs}->{outputs}"
    flops = 2 * float(tf.reduce_sum(mask)) * batch * side**2  # Counting padding as work.
    for what, function, products in (("forward", forward, 1), ("triple", triple, 3)):
        dense_functions = [
            tf.function(functools.partial(function, False), autograph=False, jit_compile=jit)
            for jit in (False, True)
        ]
        dense, sparse = alternate(
            [faster(*dense_functions), graph(functools.partial(function, True))], num_rounds, 0.02
        )
        rate = products * flops / statistics.median(sparse) / 1e9
        note = f"{rate:.0f} GFLOP/s, {rate / peak:.0%} of peak"
        rows.add(f"{name} {what}", density, batch, dense, sparse, note)


def inference(rows, densities, batches, num_rounds):
    plain = without_masks(sngan_generator((SIZE, SIZE, 3)))
    for density in densities:
        # A new one: weights that were zeroed once stay zero.
        generator = set_execution(sparsify(sngan_generator((SIZE, SIZE, 3)), 1 - density), "auto")
        fused = fuse(generator)
        for batch in batches:
            latents = tf.random.stateless_normal([batch, 128], seed=(0, 0))
            dense_functions = [
                tf.function(functools.partial(plain, latents, training=False), jit_compile=jit)
                for jit in (False, True)
            ]
            sparse_function = graph(functools.partial(fused, latents, training=False))
            dense, sparse = alternate([faster(*dense_functions), sparse_function], num_rounds, 0.05)
            rows.add("SNGAN-256 generator", density, batch, dense, sparse)


def networks():
    return sngan_generator, sngan_discriminator


def training(rows, sparsities, num_rounds, batch, jit_modes):
    source = digits(image_size=SIZE)
    twin = faster(
        *(
            functools.partial(dense_training(source, *networks(), batch, jit_compile), 1)
            for jit_compile in jit_modes
        )
    )
    for pair in sparsities:
        run, explore = sparse_training(
            source, *networks(), pair, batch, UPDATE_INTERVAL, moments="active", execution="auto"
        )
        explore()
        dense, sparse = alternate([twin, functools.partial(run, 1)], num_rounds)
        case = f"training step, s_D {pair[1]}"
        rows.add(case, round(1 - pair[0], 2), batch, dense, sparse)
        updates = [seconds(explore) - seconds(run, 1) for _ in range(3)]
        share = statistics.median(updates) / UPDATE_INTERVAL / statistics.median(sparse)
        print(f"    topology update, spread over {UPDATE_INTERVAL} steps: {share:.2%} of them")


def memory(batch):
    """Prints the most memory of two training processes, beyond what TensorFlow takes."""
    for mode in ("dense", "sparse"):
        module = [sys.executable, "-m", "benchmarks.sparse_execution"]
        command = [*module, f"--peak_of={mode}"]
        output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        print(f"peak memory of {mode} training, batch {batch}: {output.split()[-1]} MiB")


def print_peak(mode, batch):
    source = digits(image_size=SIZE)
    tf.matmul(tf.zeros([8, 8]), tf.zeros([8, 8]))
    before = resident("VmRSS")
    pathlib.Path("/proc/self/clear_refs").write_text("5")  # Forgets the peak of importing.
    if mode == "dense":
        run = dense_training(source, *networks(), batch)
    else:
        run, _ = sparse_training(
            source, *networks(), SPARSITIES[0], batch, moments="active", execution="sparse"
        )
    run(3)
    print(resident("VmHWM") - before)


def resident(name):
    """MiB of this process in memory now (VmRSS) or at most (VmHWM)."""
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) // 1024 for line in lines if line.startswith(name))


def plot(rows, path):
    from matplotlib import pyplot

    cases = [row for row in rows if row["case"].endswith("triple")]
    batches = sorted({row["batch"] for row in cases})
    figure, axes = pyplot.subplots(
        1, len(batches), figsize=(4 * len(batches) + 2, 4.2), sharey=True, squeeze=False
    )
    for axis, batch in zip(axes[0], batches, strict=True):
        for name in dict.fromkeys(row["case"] for row in cases):
            points = [row for row in cases if row["case"] == name and row["batch"] == batch]
            axis.plot(
                [row["density"] for row in points],
                [row["speedup"] for row in points],
                marker="o",
                markersize=3,
                label=name.removesuffix(" triple"),
            )
        axis.axhline(1, color="black", linewidth=0.8, linestyle="--")
        axis.set(title=f"batch {batch}", xlabel="density", xscale="log", yscale="log")
        axis.set_xticks(DENSITIES, [f"{density:.0%}" for density in DENSITIES], minor=False)
        axis.set_yticks([0.5, 1, 2, 4, 8], ["0.5", "1", "2", "4", "8"])
        axis.minorticks_off()
        axis.grid(alpha=0.3)
    axes[0][0].set_ylabel("times faster than dense: forward, dX and dW")
    axes[0][-1].legend(fontsize="small", loc="upper left", bbox_to_anchor=(1, 1))
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main(_):
    logging.set_verbosity(logging.WARNING)
    quick, parts = _QUICK.value, _PARTS.value
    batch = 16 if quick else TRAINING_BATCH
    if _PEAK_OF.value:
        print_peak(_PEAK_OF.value, batch)
        return
    if unknown := set(parts) - set(PARTS):
        raise app.UsageError(f"--parts are {', '.join(PARTS)}, got {', '.join(unknown)}.")
    threads = len(os.sched_getaffinity(0))
    print(f"TensorFlow {tf.__version__}, {threads} threads")
    titles = f"{'case':<32}{'density':>8}{'batch':>6}{'dense ms':>11}{'sparse ms':>11}"
    print(f"{titles}{'times':>7}  least to greatest")
    rows = Rows()
    if "layers" in parts:
        if quick:
            layers(rows, SHAPES[1:2] + SHAPES[4:5], (0.05, 0.3), (1, 16), 3)
        else:
            layers(rows, SHAPES, DENSITIES, BATCHES, 5)
    if "inference" in parts:
        inference(rows, (0.05,) if quick else (0.05, 0.1, 0.3), (1, 16) if quick else BATCHES, 5)
    if "training" in parts:
        if quick:  # XLA takes a minute to compile a step that was always slower.
            training(rows, SPARSITIES[:1], 3, batch, (False,))
        else:
            training(rows, SPARSITIES, 7, batch, (False, True))
    if "memory" in parts and not quick:
        memory(batch)
    if _JSON.value:
        pathlib.Path(_JSON.value).write_text(json.dumps(rows, indent=1))
    if _PLOT.value:
        plot(rows, _PLOT.value)


if __name__ == "__main__":
    app.run(main)
