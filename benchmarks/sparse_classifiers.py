"""Trains small classifiers sparse with Keras' `fit`: accuracy by method, and time by sparsity.

    python -m benchmarks.sparse_classifiers --output=DIR [--data=cifar10] [--epochs=10] [--width=32]
        [--seeds=0,1,2] [--sparsities=0.8,0.9,0.95] [--methods=dense,static,set,rigl,gmp]
    python -m benchmarks.sparse_classifiers --output=DIR --collect_only
    python -m benchmarks.sparse_classifiers --output=DIR --timing

Each cell (method, sparsity, seed) is a network of seven convolutions, batch norm and one dense
layer, trained by Adam with a cosine, on images that are flipped at random. All kernels are under
masks. A cell leaves a JSON file, so the command can be killed and started again: it goes on with
the epoch that was lost. `--collect_only` writes the table of what is there. `--timing` measures a
training step of each sparsity beside the dense network in turn, and needs an idle machine.
"""

import itertools
import json
import pathlib
import statistics

import keras
import numpy as np
import tensorflow as tf
from absl import app, flags, logging

import stugan_tf as st
from benchmarks.twins import alternate, median_ratio
from stugan_tf.files import write_atomically
from stugan_tf.tables import markdown

METHODS = ("dense", "static", "set", "rigl", "gmp")
_OUTPUT = flags.DEFINE_string("output", None, "Folder of the results.", required=True)
_DATA = flags.DEFINE_enum("data", "cifar10", ["cifar10", "digits"], "Images.")
_EPOCHS = flags.DEFINE_integer("epochs", 10, "Epochs of each cell.")
_WIDTH = flags.DEFINE_integer("width", 32, "Channels of the first three convolutions.")
_BATCH = flags.DEFINE_integer("batch", 128, "Images in a step.")
_RATE = flags.DEFINE_float("learning_rate", 2e-3, "Learning rate at the start.")
_INTERVAL = flags.DEFINE_integer("update_interval", 100, "Steps between topology updates.")
_SEEDS = flags.DEFINE_list("seeds", ["0", "1", "2"], "Seeds.")
_SPARSITIES = flags.DEFINE_list("sparsities", ["0.8", "0.9", "0.95"], "Sparsities.")
_METHODS = flags.DEFINE_list("methods", list(METHODS), f"Some of {', '.join(METHODS)}.")
_COLLECT = flags.DEFINE_bool("collect_only", False, "Only write the table of what is there.")
_TIMING = flags.DEFINE_bool("timing", False, "Only measure steps.")


def network(image_shape, num_classes, width):
    """A strided convolution, then two in each of three stages, and one dense layer."""

    def convolution(filters, strides=1):
        return [
            keras.layers.Conv2D(filters, 3, strides, padding="same", use_bias=False),
            keras.layers.BatchNormalization(momentum=0.9),
            keras.layers.ReLU(),
        ]

    layers = [keras.Input(image_shape), *convolution(width, strides=2)]
    for stage in range(3):
        layers += convolution(width * 2**stage) + convolution(width * 2**stage)
        if stage < 2:
            layers.append(keras.layers.MaxPooling2D())
    layers += [keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(num_classes)]
    return keras.Sequential(layers)


def sources():
    """Training and test images."""
    if _DATA.value == "cifar10":
        return st.cifar10("train", flip=True), st.cifar10("test")
    return st.digits(), st.digits()


def compiled(method, sparsity, seed, image_shape, num_classes, total_steps):
    """A model of a method, compiled."""
    keras.utils.set_random_seed(seed)
    model = network(image_shape, num_classes, _WIDTH.value)
    decay = keras.optimizers.schedules.CosineDecay(_RATE.value, total_steps)
    optimizer = keras.optimizers.Adam(decay)
    rule = {
        "static": st.Static,
        "set": lambda: st.SET(update_interval=_INTERVAL.value),
        "rigl": lambda: st.RigL(update_interval=_INTERVAL.value),
        "gmp": lambda: st.GMP(update_interval=_INTERVAL.value, final_sparsity=sparsity),
    }.get(method)
    if method != "dense":
        model = st.sparsify(model, 0.0 if method == "gmp" else sparsity, seed=seed)
        st.set_execution(model, "auto")
    if rule:
        optimizer = st.SparseOptimizer(optimizer, rule(), total_steps=total_steps, seed=seed)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss, metrics=["accuracy"], jit_compile=False)
    return model


class Progress(keras.callbacks.Callback):
    """Logs each epoch."""

    def on_epoch_end(self, epoch, logs=None):
        """Writes a line."""
        logging.info("  epoch %d: %s", epoch + 1, {k: round(v, 4) for k, v in logs.items()})


def train(folder, method, sparsity, seed):
    """Trains one cell, or goes on with it; returns its result."""
    training, test = sources()
    steps = training.num_images // _BATCH.value
    total_steps = steps * _EPOCHS.value
    shape, classes = training.image_shape, training.num_classes
    model = compiled(method, sparsity, seed, shape, classes, total_steps)
    backup = keras.callbacks.BackupAndRestore(folder / "backup", double_checkpoint=True)
    batches = training.batches(_BATCH.value, seed=seed)
    model.fit(
        batches,
        epochs=_EPOCHS.value,
        steps_per_epoch=steps,
        verbose=0,
        callbacks=[backup, Progress()],
    )
    tested = test.in_order(500).map(
        lambda images, labels: (tf.cast(images, tf.float32) / 127.5 - 1, labels)
    )
    loss, accuracy = model.evaluate(tested, verbose=0)
    counts = st.count_weights(model) if method != "dense" else None
    return {
        "method": method,
        "sparsity": sparsity,
        "seed": seed,
        "accuracy": accuracy,
        "loss": loss,
        "sparsity_reached": counts.sparsity if counts else 0.0,
        "epochs": _EPOCHS.value,
        "width": _WIDTH.value,
        "parameters": model.count_params(),
    }


def cells():
    """(method, sparsity, seed) of all cells; dense has no sparsity."""
    for method, sparsity, seed in itertools.product(
        _METHODS.value, map(float, _SPARSITIES.value), map(int, _SEEDS.value)
    ):
        if method != "dense":
            yield method, sparsity, seed
        elif sparsity == float(_SPARSITIES.value[0]):
            yield method, 0.0, seed


def collect(output):
    """Writes the table of mean and standard deviation of accuracy."""
    found = [json.loads(path.read_text()) for path in sorted(output.glob("*/result.json"))]
    rows = []
    for method in METHODS:
        mine = [one for one in found if one["method"] == method]
        cells = []
        for sparsity in [0.0] if method == "dense" else map(float, _SPARSITIES.value):
            values = [100 * one["accuracy"] for one in mine if one["sparsity"] == sparsity]
            spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
            cells.append(f"{statistics.mean(values):.2f}{spread}" if values else "")
        if method == "dense":
            cells = [cells[0]] * len(_SPARSITIES.value)
        rows.append([method, *cells])
    text = markdown(["accuracy, %", *_SPARSITIES.value], rows)
    print(text)
    write_atomically(output / "table.md", text.encode())


def measure():
    """Prints milliseconds of a training step by sparsity beside those of the dense network."""
    training, _ = sources()
    batch = next(iter(training.batches(_BATCH.value, seed=0)))
    shape, classes = training.image_shape, training.num_classes

    def step_of(method, sparsity):
        model = compiled(method, sparsity, 0, shape, classes, 10**6)
        return lambda: model.train_on_batch(*batch)

    for sparsity in map(float, _SPARSITIES.value):
        for method in ("static", "rigl"):
            dense, sparse = alternate([step_of("dense", 0.0), step_of(method, sparsity)], 15, 1.0)
            ratio, least, greatest = median_ratio(dense, sparse)
            print(
                f"{method} {sparsity:g}: dense {1e3 * np.median(dense):.1f} ms, sparse "
                f"{1e3 * np.median(sparse):.1f} ms, {ratio:.2f} ({least:.2f} to {greatest:.2f}) "
                "times as fast"
            )


def main(_):
    """Runs what is missing, then collects."""
    output = pathlib.Path(_OUTPUT.value)
    if _TIMING.value:
        measure()
        return
    for method, sparsity, seed in () if _COLLECT.value else cells():
        folder = output / f"{method}-{sparsity:g}-{seed}"
        if (folder / "result.json").exists():
            continue
        logging.info("%s", folder.name)
        folder.mkdir(parents=True, exist_ok=True)
        result = train(folder, method, sparsity, seed)
        logging.info("%s: accuracy %.4f", folder.name, result["accuracy"])
        write_atomically(folder / "result.json", (json.dumps(result, indent=2) + "\n").encode())
        keras.backend.clear_session()
    collect(output)


if __name__ == "__main__":
    tf.get_logger().setLevel("ERROR")
    app.run(main)
