"""Measures how many 500 x 400 JPEGs per second `stugan_tf.shard` turns into squares of 128.

    python -m benchmarks.sharding [--images=2048] [--workers=2]

The count starts with the first finished shards: processes take seconds to start, once.
"""

import argparse
import os
import pathlib
import tempfile
import time

import numpy as np
from PIL import Image

from stugan_tf.data.sharding import Encoding, Sharding


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--images", type=int, default=2048)
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        (folder / "jpegs").mkdir()
        for index in range(arguments.images):
            write_jpeg(folder / "jpegs" / f"{index}.jpg", index)
        for image_format in ("jpeg", "png"):
            encoding = Encoding(128, image_format=image_format)
            plan = Sharding(
                str(folder / "jpegs"),
                str(folder / image_format),
                encoding,
                num_shards=arguments.images // 64,
            )
            rate, kilobytes = measure(plan, arguments.workers)
            print(
                f"{image_format:<6}{rate:>6.0f} images/s, {kilobytes:.1f} kB each   "
                f"({arguments.workers} workers, {os.cpu_count()} cores)",
                flush=True,
            )


def measure(plan, workers):
    shards, times = [], []

    def note(shard):
        shards.append(shard)
        times.append(time.perf_counter())

    plan.run(workers=workers, on_shard=note)
    num_images = sum(shard.num_images for shard in shards[workers:])
    size = sum(shard.num_bytes for shard in shards) / sum(shard.num_images for shard in shards)
    return num_images / (times[-1] - times[workers - 1]), size / 1000


def write_jpeg(path, seed):
    """A smooth random image of about 70 kB."""
    noise = np.random.default_rng(seed).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    Image.fromarray(noise).resize((500, 400), Image.Resampling.BICUBIC).save(path, quality=95)


if __name__ == "__main__":
    main()
