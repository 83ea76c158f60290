"""Measures how much memory rematerialisation saves a training step, and the time it costs.

    python -m benchmarks.rematerialization [--quick] [--json=PATH]

Trains SNGAN at 64x64, where activations are far larger than weights, with and without
rematerialisation, in the classic graph and compiled by XLA, each in a process of its own. Memory of
the graph is the peak of the process minus the peak with a batch of 2, which covers program, weights
and traces. Memory of XLA is what its largest program allocates besides arguments and results. The
dry run's estimate of activations stands beside both. Time is summed over all cores. Linux only.
"""

import functools
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time

from absl import app, flags

from benchmarks.twins import sparse_training
from stugan_tf.data import digits
from stugan_tf.models.sngan import sngan_discriminator, sngan_generator
from stugan_tf.runs.plan import memory_estimate
from stugan_tf.training.algorithm import Algorithm
from stugan_tf.training.gan import GAN

_QUICK = flags.DEFINE_bool("quick", False, "Narrower networks, a smaller batch, fewer steps.")
_JSON = flags.DEFINE_string("json", None, "Where to write the measurements.")
_CASE = flags.DEFINE_list("case", None, "Measure one: graph or xla, kept or again, batch size.")

SIZE, SMALL_BATCH = 64, 2
SPARSITIES = (0.9, 0.5)


def train(compiler, activations, batch, networks, num_steps):
    """Prints the peak of this process in MiB and the seconds of a step, over all cores."""
    run, _ = sparse_training(
        digits(image_size=SIZE),
        *networks,
        SPARSITIES,
        int(batch),
        jit_compile=compiler == "xla",
        rematerialize=activations == "again",
    )
    run(1)  # Traces and compiles.
    start = time.process_time()
    run(num_steps)
    cpu_seconds = (time.process_time() - start) / num_steps
    status = pathlib.Path("/proc/self/status").read_text()
    peak = int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) / 2**10
    print(json.dumps({"peak": peak, "seconds": cpu_seconds}))


def child(compiler, activations, batch):
    """The output of `train` in a process of its own, and MiB of the largest program of XLA."""
    command = [sys.executable, "-m", "benchmarks.rematerialization", f"--quick={_QUICK.value}"]
    command.append(f"--case={compiler},{activations},{batch}")
    with tempfile.TemporaryDirectory() as folder:
        dump = f"--xla_dump_to={folder} --xla_dump_hlo_as_text"
        environment = {**os.environ, **({"XLA_FLAGS": dump} if compiler == "xla" else {})}
        done = subprocess.run(
            command, stdout=subprocess.PIPE, text=True, check=True, env=environment
        )
        sizes = [
            int(size)
            for path in pathlib.Path(folder).glob("*buffer-assignment.txt")
            for size in re.findall(r"size (\d+), preallocated-temp", path.read_text())
        ]
    return {**json.loads(done.stdout.splitlines()[-1]), "program": max(sizes, default=0) / 2**20}


def measure(compiler, activations, batch):
    found = child(compiler, activations, batch)
    if compiler == "graph":
        memory = found["peak"] - child(compiler, activations, SMALL_BATCH)["peak"]
    else:
        memory = found["program"]
    return memory, found["seconds"]


def estimate(activations, batch, networks):
    gan = GAN((SIZE, SIZE, 1), 10, 0, *networks, *SPARSITIES)
    if activations == "again":
        gan.rematerialize()
    algorithm = Algorithm(total_steps=1, batch_size=batch, generator_batch_size=batch)
    return memory_estimate(gan, algorithm)["activations of one micro-batch"] / 2**20


def main(_):
    width, batch, num_steps = (16, 16, 3) if _QUICK.value else (64, 32, 5)
    networks = (
        functools.partial(sngan_generator, width=width),
        functools.partial(sngan_discriminator, width=width),
    )
    if _CASE.value:
        train(*_CASE.value, networks, num_steps)
        return
    print(f"SNGAN {width}/{width} at {SIZE}x{SIZE}, batch {batch}")
    print(f"{'':<16}{'MiB':>10}{'estimate':>10}{'CPU s/step':>12}", flush=True)
    rows = []
    for compiler in ("graph", "xla"):
        for activations in ("kept", "again"):
            memory, step = measure(compiler, activations, batch)
            estimated = estimate(activations, batch, networks)
            name = f"{compiler}, {activations}"
            print(f"{name:<16}{memory:>10.0f}{estimated:>10.0f}{step:>12.2f}", flush=True)
            rows.append({"case": name, "mib": memory, "estimate": estimated, "cpu_seconds": step})
    if _JSON.value:
        pathlib.Path(_JSON.value).write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    app.run(main)
