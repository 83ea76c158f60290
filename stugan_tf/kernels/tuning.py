"""Measures whether dense or sparse is faster, once for each problem."""

import functools
import json
import os
import time
from typing import NamedTuple

import numpy as np
import tensorflow as tf
from absl import logging

from stugan_tf.cores import num_cores
from stugan_tf.files import write_atomically
from stugan_tf.kernels import convolution, library

# Turns oneDNN, by which TensorFlow computes what is dense, on or off.
ONEDNN = "TF_ENABLE_ONEDNN_OPTS"
# Sparse must be faster by more than noise.
_MARGIN = 0.95
SECONDS = 0.1


class Problem(NamedTuple):
    """All that the times of a layer depend on."""

    batch: int
    height: int
    width: int
    kernel_shape: tuple  # (h, w, C, C')
    padding: str
    density: float
    normalized: bool = False  # this and the following say what is fused with it
    relu: bool = False
    upsampling: int = 1
    pooling: int = 1

    def __str__(self) -> str:
        """The name under which times are kept, e.g. '64x8x8 3x3x256x256 same 0.05 relu'."""
        kernel = "x".join(map(str, self.kernel_shape))
        size = f"{self.batch}x{self.height}x{self.width}"
        words = [size, kernel, self.padding, f"{self.density:.2g}"]
        words += ["normalized"] * self.normalized + ["relu"] * self.relu
        words += [f"upsampled by {self.upsampling}"] * (self.upsampling > 1)
        words += [f"pooled by {self.pooling}"] * (self.pooling > 1)
        return " ".join(words)


@functools.cache
def fastest(problem: Problem) -> convolution.Choice:
    """The `Choice` that takes the least time on this machine.

    The first call measures it on random numbers and keeps it, in memory and in `execution.json` in
    the cache folder. Later processes on an equal machine read it there, so a resumed run computes
    as before.
    """
    path = library.cache_folder() / "execution.json"
    name = str(problem)
    times = _read(path).get(machine(), {}).get(name)
    if times is None:
        times = measure(problem)
        logging.info("%s: %s", name, times)
        known = _read(path)  # Another process may have added to it.
        known.setdefault(machine(), {})[name] = times
        try:
            write_atomically(path, json.dumps(known, indent=1).encode())
        except OSError as error:
            logging.warning("Cannot keep the times of layers in %s: %s", path, error)
    return convolution.Choice(
        **{part: sparse < _MARGIN * dense for part, (dense, sparse) in times.items()}
    )


def _read(path):
    try:
        known = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


@functools.cache
def machine():
    """Names what times depend on: processor, threads, TensorFlow, oneDNN, the kernels' build."""
    model = "unknown processor"
    with open("/proc/cpuinfo", encoding="utf-8") as lines:
        model = next((line.split(":")[1].strip() for line in lines if "model name" in line), model)
    threads = tf.config.threading.get_intra_op_parallelism_threads() or num_cores()
    dense = f"TensorFlow {tf.__version__}, oneDNN {os.environ.get(ONEDNN, 'by default')}"
    return f"{model}, {threads} threads, {dense}, {library.fingerprint()}"


def measure(problem: Problem) -> dict[str, list[float]]:
    """The milliseconds, dense and sparse, of each part of the `Choice`."""
    random = np.random.default_rng(0)
    height, width, inputs, _ = problem.kernel_shape

    def draw(*shape):
        return tf.constant(random.standard_normal(shape, np.float32))

    images = draw(problem.batch, problem.height, problem.width, inputs)
    mask = tf.cast(random.random(problem.kernel_shape) < problem.density, tf.float32)
    kernel = mask * draw(*problem.kernel_shape)
    scale, shift = (draw(inputs), draw(inputs)) if problem.normalized else ((), ())
    parts = convolution.Parts(
        problem.padding,
        (height, width),
        scale,
        shift,
        problem.relu,
        problem.upsampling,
        problem.pooling,
    )
    gradient = draw(*parts.forward(True, images, kernel).shape)
    functions = {
        "forward": lambda is_sparse: parts.forward(is_sparse, images, kernel),
        "input_gradient": lambda is_sparse: parts.input_gradient(
            is_sparse, gradient, kernel, tf.shape(images)
        ),
        "kernel_gradient": lambda is_sparse: parts.kernel_gradient(
            is_sparse, images, gradient, mask
        ),
    }
    with tf.device("CPU:0"):
        return {part: _race(function) for part, function in functions.items()}


def _race(function):
    """The least milliseconds of `function(is_sparse=False)` and `function(is_sparse=True)`."""
    rivals = [
        tf.function(functools.partial(function, is_sparse), autograph=False)
        for is_sparse in (False, True)
    ]
    for rival in rivals:
        rival()  # Warms up: oneDNN chooses its code, the pattern is built.
    least = [float("inf")] * 2
    end = time.perf_counter() + SECONDS
    while True:
        for i, rival in enumerate(rivals):
            start = time.perf_counter()
            rival()
            least[i] = min(least[i], 1e3 * (time.perf_counter() - start))
        if time.perf_counter() > end:
            return [round(value, 4) for value in least]
