"""Measures how many images per second extractors process on this machine.

    python -m benchmarks.extraction [--extractor=DIR] [--json=PATH]

Times the digits classifier on 16 x 16 x 1 and, with --extractor, a SavedModel on 32 x 32 x 3, in
batches of 100 images of random bytes. The rate is the median over repetitions, after one call that
compiles.
"""

import json
import pathlib
import statistics
import time

import numpy as np
import tensorflow as tf
from absl import app, flags

from stugan_tf.evaluation.extraction import Extraction
from stugan_tf.evaluation.extractors import digits_classifier, saved_model

_EXTRACTOR = flags.DEFINE_string("extractor", None, "Folder of a SavedModel.")
_JSON = flags.DEFINE_string("json", None, "Where to write the measurements.")

BATCH, NUM_REPETITIONS = 100, 20


def images_per_second(extractor, shape):
    extraction = Extraction(extractor, tf.distribute.OneDeviceStrategy("CPU:0"), BATCH)
    images = np.random.default_rng(0).integers(0, 256, [BATCH, *shape], np.uint8)
    extraction(images)
    rates = []
    for _ in range(NUM_REPETITIONS):
        start = time.perf_counter()
        extraction(images)
        rates.append(BATCH / (time.perf_counter() - start))
    return {
        "extractor": extractor.name,
        "features": extractor.num_features,
        "images": list(shape),
        "images_per_second": statistics.median(rates),
    }


def main(_):
    rows = [images_per_second(digits_classifier(), (16, 16, 1))]
    if _EXTRACTOR.value:
        rows.append(images_per_second(saved_model(_EXTRACTOR.value), (32, 32, 3)))
    for row in rows:
        print(row)
    if _JSON.value:
        pathlib.Path(_JSON.value).write_text(json.dumps(rows, indent=2))


if __name__ == "__main__":
    app.run(main)
