"""Measures time and memory of the scores, and compares the Frechet distance with its usual forms.

    python -m benchmarks.metrics [--quick] [--json=PATH]

Features are artificial: not negative, correlated, float32 like those of an extractor. Seconds are
the median over repetitions on this machine, without the import of TF-GAN. MiB are the most memory
that a part takes beyond what the process already holds; the second size reuses memory of the
first. `scipy.linalg.sqrtm` and TF-GAN run once, on the same features as ours.
"""

import functools
import json
import pathlib
import statistics
import time

import numpy as np
import tensorflow as tf
from absl import app, flags

from stugan_tf.evaluation.metrics import (
    InceptionScore,
    density_coverage,
    frechet_distance,
    kernel_distance,
    neighborhood_scores,
    precision_recall,
)
from stugan_tf.evaluation.moments import Moments

_QUICK = flags.DEFINE_bool("quick", False, "Fewer vectors and features, one repetition.")
_JSON = flags.DEFINE_string("json", None, "Where to write the measurements.")

BATCH, NUM_CLASSES = 100, 1000


def made_up_features(seed, num_vectors, num_features, shift=0.0):
    """Features, float32 [n, D]. The mixing, common to both sets, does not depend on the seed."""
    mixing = np.random.default_rng(0).normal(size=[num_features, num_features])
    mixing = (mixing * np.geomspace(1, 1e-2, num_features)).astype(np.float32)
    latents = np.random.default_rng(seed).standard_normal([num_vectors, num_features], np.float32)
    return np.maximum(0, (latents + shift) @ mixing.T / np.sqrt(num_features))


def moments_of(features, num_vectors):
    """Moments of `num_vectors` vectors, taken batch by batch from the features, repeated."""
    moments = Moments(features.shape[1])
    for start in range(0, num_vectors, BATCH):
        start %= len(features)
        moments.update(features[start : start + BATCH])
    return moments


def inception_score(num_images):
    score = InceptionScore(num_images)
    logits = np.random.default_rng(0).normal(size=[BATCH, NUM_CLASSES]).astype(np.float32)
    for _ in range(num_images // BATCH):
        score.update(logits)
    return score.result()


def memory(name):
    """MiB of this process in memory now (VmRSS) or at most (VmHWM); nan where it is not known."""
    try:
        lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return float("nan")
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(name))


def forget_peak():
    path = pathlib.Path("/proc/self/clear_refs")
    if path.exists():
        path.write_text("5")


def measure(rows, part, num_vectors, num_features, function, num_repetitions=1):
    """Times a function, adds a row and prints it; returns the last value of the function."""
    forget_peak()
    before, seconds = memory("VmRSS"), []
    for _ in range(num_repetitions):
        start = time.perf_counter()
        value = function()
        seconds.append(time.perf_counter() - start)
    row = {
        "part": part,
        "vectors": num_vectors,
        "features": num_features,
        "seconds": statistics.median(seconds),
        "mib": memory("VmHWM") - before,
    }
    rows.append(row)
    print(
        f"{part:34}{num_vectors:>10,}{num_features:>10,}{row['seconds']:10.2f}{row['mib']:10.0f}",
        flush=True,
    )
    return value


def parts(rows, num_kept, num_vectors, num_features, num_repetitions):
    """Times all scores; returns both sets of features."""
    real = made_up_features(1, num_kept, num_features)
    generated = made_up_features(2, num_kept, num_features, shift=0.3)
    for count in (num_kept, num_vectors):
        case = functools.partial(measure, rows, "moments, batches of 100", count, num_features)
        case(functools.partial(moments_of, real, count), num_repetitions)
    for part, function in [
        ("kernel distance", kernel_distance),
        ("precision, recall", precision_recall),
        ("density, coverage", density_coverage),
        ("both pairs of them", neighborhood_scores),
    ]:
        case = functools.partial(measure, rows, part, num_kept, num_features)
        case(functools.partial(function, real, generated), num_repetitions)
    return real, generated


def frechet(rows, real, generated, num_repetitions):
    """Times the distance from moments, and from features against TF-GAN."""
    from scipy.linalg import sqrtm

    from stugan_tf.evaluation.tfgan import tfgan

    sizes = real.shape
    moments = [moments_of(features, len(features)) for features in (real, generated)]
    gaussians = [(each.mean, each.covariance) for each in moments]

    def ours():
        return frechet_distance(*gaussians[0], *gaussians[1])

    def by_sqrtm():
        (mean, covariance), (other_mean, other_covariance) = gaussians
        root = sqrtm(covariance @ other_covariance).real
        traces = np.trace(covariance + other_covariance - 2 * root)
        return np.sum((mean - other_mean) ** 2) + traces

    def ours_from_features():
        both = [moments_of(features, len(features)) for features in (real, generated)]
        return frechet_distance(*(part for each in both for part in (each.mean, each.covariance)))

    def tf_gan():
        distance = tfgan.eval.frechet_classifier_distance_from_activations
        return float(distance(tf.constant(real, tf.float64), tf.constant(generated, tf.float64)))

    distance = measure(rows, "Frechet distance", *sizes, ours, num_repetitions)
    compare(rows, measure(rows, "  by scipy.linalg.sqrtm", *sizes, by_sqrtm), distance)
    distance = measure(
        rows, "Frechet distance with moments", *sizes, ours_from_features, num_repetitions
    )
    compare(rows, measure(rows, "  by TF-GAN", *sizes, tf_gan), distance)


def compare(rows, other_distance, distance):
    """Adds to the last row its ratio to the row before."""
    rows[-1]["ratio"] = rows[-1]["seconds"] / rows[-2]["seconds"]
    rows[-1]["relative_difference"] = abs(distance / other_distance - 1)
    print(
        f"    {rows[-1]['ratio']:.1f} times our seconds; the distances differ by "
        f"{rows[-1]['relative_difference']:.1e} of {other_distance:.4g}"
    )


def main(argv):
    del argv
    num_kept, num_vectors, sizes, num_repetitions = 10_000, 50_000, (2048, 1280), 3
    if _QUICK.value:
        num_kept, num_vectors, sizes, num_repetitions = 1000, 5000, (256, 128), 1
    kernel_distance(np.ones([2, 1]), np.ones([2, 1]))  # imports TF-GAN
    rows = []
    print(f"{'part':34}{'vectors':>10}{'features':>10}{'seconds':>10}{'MiB':>10}")
    for num_features in sizes:
        real, generated = parts(rows, num_kept, num_vectors, num_features, num_repetitions)
        frechet(rows, real, generated, num_repetitions)
    case = functools.partial(measure, rows, "Inception Score", num_vectors, NUM_CLASSES)
    case(functools.partial(inception_score, num_vectors), num_repetitions)
    if _JSON.value:
        pathlib.Path(_JSON.value).write_text(json.dumps(rows, indent=2))


if __name__ == "__main__":
    app.run(main)
