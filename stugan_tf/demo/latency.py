"""How long generators take, measured here and now."""

import dataclasses
import itertools
import os
import platform
import re
import time

import numpy as np
import tensorflow as tf

from stugan_tf.checks import check_positive
from stugan_tf.demo.drawing import COMPUTING

MIN_ROUNDS = 5


@dataclasses.dataclass(frozen=True)
class Latency:
    """Of one batch, in seconds.

    Attributes:
        median: half of the calls took less.
        quartiles: a quarter took less than the first, a quarter more than the second.
        num_calls: how many were measured.
    """

    median: float
    quartiles: tuple
    num_calls: int


def measure(generators, batch_size, num_rounds=30, seconds=10.0, clock=time.perf_counter):
    """Measures generators in turn, so that whatever slows the machine slows all alike.

    A call is from latents in memory to float images in memory. The first two of each are not
    counted: they compile.

    Args:
        generators: `ServedGenerator`s.
        batch_size: images a call.
        num_rounds: calls of each generator.
        seconds: once these have passed, it ends after the fifth round.
        clock: returns seconds.

    Returns:
        A `Latency` of each.
    """
    check_positive("batch_size", batch_size)
    check_positive("num_rounds", num_rounds)
    inputs = [generator.inputs(batch_size) for generator in generators]
    times = [[] for _ in generators]
    with COMPUTING:
        for _, (generator, given) in itertools.product(
            range(2), zip(generators, inputs, strict=True)
        ):
            _call(generator, given)
        end = clock() + seconds
        for number in range(num_rounds):
            if number >= MIN_ROUNDS and clock() > end:
                break
            for generator, given, taken in zip(generators, inputs, times, strict=True):
                start = clock()
                _call(generator, given)
                taken.append(clock() - start)
    return [_summary(taken) for taken in times]


def _call(generator, inputs):
    for _ in generator.batches(*inputs):
        pass


def _summary(times):
    low, median, high = (float(value) for value in np.percentile(times, [25, 50, 75]))
    return Latency(median, (low, high), len(times))


def machine():
    """What measures: processor, cores that may be used, GPUs, TensorFlow."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    devices = [f"{cores} core(s) of {_processor()}"]
    for device in tf.config.get_visible_devices("GPU"):
        details = tf.config.experimental.get_device_details(device)
        devices.append(details.get("device_name", device.name))
    return f"{', '.join(devices)}, TensorFlow {tf.__version__}"


def _processor():
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            found = re.search(r"^model name\s*:\s*(.+)$", file.read(), re.MULTILINE)
    except OSError:
        found = None
    return found[1] if found else platform.processor() or platform.machine()
