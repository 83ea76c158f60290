"""Measures what masks cost in dense execution, against the same training without masking code.

    python -m benchmarks.training_step [--quick] [--json=PATH]

Trains SNGAN at 90 % sparsity by this package, and its dense twin in plain Keras. Both run in one
process in turn; ratios are taken pair by pair. It also measures the cost of a topology update,
spread over the 500 steps between two of them, and the ratio of images per second that the input
delivers to those that the training takes.
"""

import functools
import json
import pathlib
import statistics

from absl import app, flags

from benchmarks.twins import dense_training, seconds, sparse_training
from stugan_tf.data import digits
from stugan_tf.models.sngan import sngan_discriminator, sngan_generator

_QUICK = flags.DEFINE_bool("quick", False, "A smaller network and fewer repetitions.")
_JSON = flags.DEFINE_string("json", None, "Where to write the measurements.")

BATCH, UPDATE_INTERVAL = 64, 500


def input_rate(source, num_batches):
    iterator = iter(source.batches(BATCH, seed=0))
    next(iterator)
    return num_batches * BATCH / seconds(lambda: [next(iterator) for _ in range(num_batches)])


def main(_):
    quick = _QUICK.value
    width, num_steps, num_pairs = (32, 4, 7) if quick else (64, 8, 15)
    source = digits(image_size=32)
    networks = (
        functools.partial(sngan_generator, width=width),
        functools.partial(sngan_discriminator, width=width // 2),
    )
    run, explore = sparse_training(source, *networks, (0.9, 0.9), BATCH, UPDATE_INTERVAL)
    twin = dense_training(source, *networks, BATCH)
    for warm_up in (functools.partial(run, 2), explore, functools.partial(twin, 2)):
        warm_up()
    ratios, steps, updates = [], [], []
    for _ in range(num_pairs):
        sparse, dense = seconds(run, num_steps), seconds(twin, num_steps)
        ratios.append(sparse / dense)
        steps.append(sparse / num_steps)
        updates.append(seconds(explore) - seconds(run, 1))
    step, update = statistics.median(steps), statistics.median(updates)
    rates = input_rate(source, 50 * num_steps), BATCH / step
    rows = [
        ("step, s = 0.9 / dense twin", statistics.median(ratios), min(ratios), max(ratios)),
        (
            f"topology update / {UPDATE_INTERVAL} steps",
            *(value / (UPDATE_INTERVAL * step) for value in (update, min(updates), max(updates))),
        ),
        ("input images/s / step images/s", rates[0] / rates[1], None, None),
    ]
    print(f"SNGAN {width}/{width // 2} at 32x32, batch {BATCH}: {step:.3f} s a step")
    print(f"{'ratio':<34}{'median':>12}{'min':>12}{'max':>12}")
    for name, *values in rows:
        print(f"{name:<34}" + "".join(f"{'' if v is None else f'{v:.4g}':>12}" for v in values))
    if _JSON.value:
        columns = ("case", "median", "min", "max")
        result = [dict(zip(columns, row, strict=True)) for row in rows]
        pathlib.Path(_JSON.value).write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    app.run(main)
