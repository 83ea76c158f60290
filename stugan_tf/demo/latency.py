"""Measures how long generators take on this machine."""

import dataclasses
import itertools
import platform
import re
import time
from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf

from stugan_tf.checks import check_positive
from stugan_tf.cores import num_cores
from stugan_tf.demo.drawing import COMPUTING
from stugan_tf.serving.generator import ServedGenerator

MIN_ROUNDS = 5


@dataclasses.dataclass(frozen=True)
class Latency:
    """The time that a batch takes, in seconds.

    Attributes:
        median: half of the calls took less.
        quartiles: (low, high); a quarter of the calls took less than low, a quarter more than high.
        num_calls: number of calls measured.
    """

    median: float
    quartiles: tuple[float, float]
    num_calls: int


def measure(
    generators: Sequence[ServedGenerator],
    batch_size: int,
    num_rounds: int = 30,
    seconds: float = 10.0,
    clock: Callable[[], float] = time.perf_counter,
) -> list[Latency]:
    """Measures generators in turn, so that other work on the machine slows all of them alike.

    A call goes from latents in memory to float images in memory. The first two calls of each
    generator do not count: they compile.

    Args:
        generators: the generators to measure.
        batch_size: number of images in a call.
        num_rounds: number of calls of each generator.
        seconds: after this time, measuring stops, but not before the fifth round.
        clock: returns the time in seconds.

    Returns:
        A `Latency` of each generator.
    """
    check_positive("batch_size", batch_size)
    check_positive("num_rounds", num_rounds)
    inputs = [generator.inputs(batch_size) for generator in generators]
    times: list[list[float]] = [[] for _ in generators]
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


def _call(generator: ServedGenerator, inputs: tuple[np.ndarray, np.ndarray]) -> None:
    for _ in generator.batches(*inputs):
        pass


def _summary(times: list[float]) -> Latency:
    low, median, high = (float(value) for value in np.percentile(times, [25, 50, 75]))
    return Latency(median, (low, high), len(times))


def machine() -> str:
    """The machine that measures: usable cores, processor, GPUs, TensorFlow."""
    devices = [f"{num_cores()} core(s) of {_processor()}"]
    for device in tf.config.get_visible_devices("GPU"):
        details = tf.config.experimental.get_device_details(device)
        devices.append(details.get("device_name", device.name))
    return f"{', '.join(devices)}, TensorFlow {tf.__version__}"


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            found = re.search(r"^model name\s*:\s*(.+)$", file.read(), re.MULTILINE)
    except OSError:
        found = None
    return found[1] if found else platform.processor() or platform.machine()
