"""Measures images per second of each source on this machine, from the first full batch on.

    python benchmarks/input_pipeline.py [--quick] [--json=rates.json]

The folder and the shards hold generated JPEGs of ImageNet's usual 500 x 375, to be decoded and
resized to 128. "from memory" is a set within `cache_gib` after its first decoding.
"""

import argparse
import io
import json
import os
import pathlib
import tempfile
import time

import numpy as np
import tensorflow as tf
from PIL import Image

from stugan_tf.data import cifar10, digits, image_folder, tfrecords
from stugan_tf.errors import InputError


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="about half a minute, rougher")
    parser.add_argument("--json", type=pathlib.Path, help="file to write the rows to")
    arguments = parser.parse_args()
    seconds, num_images = (2, 128) if arguments.quick else (20, 2048)

    rows = []
    print(f"{'source':<28}{'batch':>6}{'images/s':>12}   ({os.cpu_count()} cores)")
    with tempfile.TemporaryDirectory() as folder:
        for name, source, batch_size in sources(pathlib.Path(folder), num_images):
            rate = images_per_second(source, batch_size, seconds)
            rows.append({"source": name, "batch_size": batch_size, "images_per_second": rate})
            print(f"{name:<28}{batch_size:>6}{rate:>12.0f}", flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps({"num_cores": os.cpu_count(), "rows": rows}, indent=2))


def sources(folder, num_images):
    """Yields (name, source, batch size)."""
    yield "digits", digits(), 64
    yield "digits at 32", digits(32), 64
    try:
        source = cifar10()
        source.inspect()
        yield "cifar10", source, 64
    except InputError as error:
        print(f"cifar10 is left out: {error}")
    jpegs = [jpeg(seed) for seed in range(num_images)]
    (folder / "jpegs").mkdir()
    for index, encoded in enumerate(jpegs):
        (folder / "jpegs" / f"{index}.jpg").write_bytes(encoded)
    write_shards(folder, jpegs)
    pattern = str(folder / "*.tfrecord")
    yield "JPEG folder, streamed", image_folder(str(folder / "jpegs"), 128, cache_gib=0), 64
    yield "JPEG folder, from memory", image_folder(str(folder / "jpegs"), 128), 64
    yield "TFRecords, streamed", tfrecords(pattern, 128, cache_gib=0), 64
    yield "TFRecords, from memory", tfrecords(pattern, 128), 64


def images_per_second(source, batch_size, seconds):
    batches = iter(source.batches(batch_size, seed=0))
    next(batches)
    num_batches, start = 0, time.perf_counter()
    while time.perf_counter() < start + seconds:
        next(batches)
        num_batches += 1
    return num_batches * batch_size / (time.perf_counter() - start)


def jpeg(seed):
    """A smooth random image, encoded to about 70 kB."""
    noise = np.random.default_rng(seed).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).resize((500, 375), Image.Resampling.BICUBIC).save(
        file, "JPEG", quality=95
    )
    return file.getvalue()


def write_shards(folder, jpegs, num_shards=8):
    for shard in range(num_shards):
        with tf.io.TFRecordWriter(str(folder / f"{shard}.tfrecord")) as writer:
            for encoded in jpegs[shard::num_shards]:
                image = tf.train.Feature(bytes_list=tf.train.BytesList(value=[encoded]))
                features = tf.train.Features(feature={"image/encoded": image})
                writer.write(tf.train.Example(features=features).SerializeToString())


if __name__ == "__main__":
    main()
