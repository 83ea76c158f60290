"""Measures how long Beam takes to ingest a data set, for each number of workers.

    python -m benchmarks.beam_ingest [--images=60000] [--workers 1 2]

Images are 32 x 32 RGB, PNG in TFRecord shards, as in CIFAR-10. Workers beyond the first are
processes; the time in which each imports TensorFlow is included. The bytes of the shards are
compared: they must not depend on the workers.
"""

import argparse
import hashlib
import os
import pathlib
import tempfile
import time

import numpy as np
import tensorflow as tf

from stugan_tf import config
from stugan_tf.data import data
from stugan_tf.data.sharding import example
from stugan_tf.pipelines import ingestion
from stugan_tf.pipelines.settings import Beam, Ingest


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--images", type=int, default=60_000)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    arguments = parser.parse_args()
    print(f"{os.cpu_count()} cores, load average {os.getloadavg()[0]:.1f}")
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        write(folder, arguments.images)
        text = (
            "data.source = @tfrecords()\n"
            f"tfrecords.pattern = '{folder}/source-*.tfrecord'\n"
            "tfrecords.num_classes = 10\n"
            "tfrecords.image_size = None\n"
        )
        digests = set()
        for workers in arguments.workers:
            output = folder / f"out{workers}"
            output.mkdir()
            config.parse_gin((), [text])
            start = time.perf_counter()
            ingestion.ingest(data(), text, Ingest(), Beam(num_workers=workers), str(output))
            seconds = time.perf_counter() - start
            digests.add(digest(output))
            print(
                f"{workers} workers: {seconds:6.1f} s, {arguments.images / seconds:6.0f} images/s",
                flush=True,
            )
    assert len(digests) == 1, "the shards differ"


def write(folder, num_images, num_shards=10):
    generator = np.random.default_rng(0)
    for shard in range(num_shards):
        with tf.io.TFRecordWriter(str(folder / f"source-{shard}.tfrecord")) as writer:
            start, stop = (num_images * end // num_shards for end in (shard, shard + 1))
            for _ in range(start, stop):
                coarse = generator.integers(0, 256, [8, 8, 3], dtype=np.uint8)
                pixels = coarse.repeat(4, axis=0).repeat(4, axis=1)
                writer.write(example(tf.io.encode_png(pixels).numpy(), int(generator.integers(10))))


def digest(folder):
    found = hashlib.sha256()
    for path in sorted(folder.glob("*.tfrecord")):
        found.update(path.read_bytes())
    return found.hexdigest()


if __name__ == "__main__":
    main()
