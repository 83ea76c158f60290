"""Scores real CIFAR-10 images: the whole set, halves, one class, with noise, and blurred.

A good score is near zero between two halves of one set and grows with corruption:

    python -m benchmarks.scores_of_real_images --extractor=DIR

DIR holds a SavedModel, see `stugan_tf.evaluation.extractors.saved_model`.
"""

import json

import numpy as np
import scipy.ndimage
import tensorflow as tf
from absl import app, flags

from stugan_tf.data import cifar10
from stugan_tf.evaluation.extraction import Extraction
from stugan_tf.evaluation.extractors import saved_model
from stugan_tf.evaluation.metrics import (
    InceptionScore,
    frechet_distance,
    kernel_distance,
    neighborhood_scores,
)
from stugan_tf.evaluation.statistics import Collector
from stugan_tf.progress import ProgressBar

NUM_SPLITS = 10
NUM_KEPT = 5000
_EXTRACTOR = flags.DEFINE_string("extractor", None, "Folder of a SavedModel.", required=True)
_NUM_IMAGES = flags.DEFINE_integer("num_images", 5000, "Images of each corrupted set.")
_JSON = flags.DEFINE_string("json", None, "Where to write the scores.")


class Seen:
    """Statistics and Inception Score of a set whose size is known."""

    def __init__(self, name, num_images, extractor):
        self.name, self.num_images = name, num_images
        self._collector = Collector(num_images, extractor.num_features, NUM_KEPT)
        self._inception_score = InceptionScore(num_images, NUM_SPLITS)

    def update(self, features, logits):
        """Takes in the next images."""
        self._collector.update(features)
        self._inception_score.update(logits)

    def compare(self, other):
        """A row of the table, scored as if `other` were the real images."""
        mine, others = (seen._collector.statistics({}) for seen in (self, other))
        kid, kid_std = kernel_distance(others.features, mine.features)
        return {
            "images": self.name,
            "against": other.name,
            "num_images": self.num_images,
            "num_real": other.num_images,
            "fid": frechet_distance(mine.mean, mine.covariance, others.mean, others.covariance),
            "inception_score": self._inception_score.result()[0],
            "kid": kid,
            "kid_std": kid_std,
            **neighborhood_scores(others.features, mine.features),
        }


def blurred(sigma):
    def blur(images):
        images = scipy.ndimage.gaussian_filter(images.astype(np.float32), (0, sigma, sigma, 0))
        return np.round(images).astype(np.uint8)

    return blur


def noisy(sigma):
    """Adds noise whose deviation is `sigma` where pixels are in [-1, 1]."""
    random = np.random.default_rng(0)

    def add(images):
        noise = random.normal(scale=127.5 * sigma, size=images.shape)
        return np.clip(np.round(images + noise), 0, 255).astype(np.uint8)

    return add


def see_train(extraction):
    """The training set whole, its two halves and its cats, in one pass."""
    source = cifar10()
    extractor = extraction.extractor
    counts = source.inspect().class_counts
    sets = [
        (Seen("train", 50_000, extractor), lambda i, y: np.full(len(y), True)),
        (Seen("train, every second", 25_000, extractor), lambda i, y: i % 2 == 0),
        (Seen("train, the others", 25_000, extractor), lambda i, y: i % 2 == 1),
        (Seen("train, cats alone", counts[3], extractor), lambda i, y: y == 3),
    ]
    first = 0
    with ProgressBar(50_000, "image", "train") as progress:
        for images, labels in source.in_order(extraction.batch_size).as_numpy_iterator():
            features, logits = extraction(images)
            numbers = np.arange(first, first + len(labels))
            for seen, belongs in sets:
                chosen = belongs(numbers, labels)
                seen.update(features[chosen], logits[chosen])
            first += len(labels)
            progress.advance(len(labels))
    return [seen for seen, _ in sets]


def see_test(extraction, name, num_images, corrupt):
    """The first images of the test set, corrupted."""
    seen = Seen(name, num_images, extraction.extractor)
    batches = cifar10(split="test").in_order(extraction.batch_size)
    left = num_images
    with ProgressBar(num_images, "image", name) as progress:
        for images, _ in batches.as_numpy_iterator():
            images = corrupt(images[:left])
            if not len(images):
                break
            seen.update(*extraction(images))
            left -= len(images)
            progress.advance(len(images))
    return seen


def main(_):
    strategy = tf.distribute.OneDeviceStrategy("CPU:0")
    extraction = Extraction(saved_model(_EXTRACTOR.value), strategy, 100)
    train, half, other_half, cats = see_train(extraction)
    rows = [half.compare(other_half), cats.compare(train)]
    show(rows[0], header=True)
    show(rows[1])
    corruptions = {"test": lambda images: images}
    corruptions |= {f"test, noise of {sigma}": noisy(sigma) for sigma in (0.02, 0.05, 0.1, 0.2)}
    corruptions |= {f"test, blur of {sigma} px": blurred(sigma) for sigma in (0.4, 0.6, 1.0, 2.0)}
    for name, corrupt in corruptions.items():
        rows.append(see_test(extraction, name, _NUM_IMAGES.value, corrupt).compare(train))
        show(rows[-1])
    if _JSON.value:
        with open(_JSON.value, "w") as file:
            json.dump(rows, file, indent=1)


def show(row, header=False):
    if header:
        print("|", " | ".join(row), "|")
        print("|", " | ".join("---" for _ in row), "|")
    cells = [f"{value:.4g}" if isinstance(value, float) else str(value) for value in row.values()]
    print("|", " | ".join(cells), "|", flush=True)


if __name__ == "__main__":
    app.run(main)
