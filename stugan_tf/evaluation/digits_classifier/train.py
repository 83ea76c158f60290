"""Trains the classifier: `python -m stugan_tf.evaluation.digits_classifier.train --output=FILE`.

Deterministic on one machine: the same command writes the same bytes.
"""

import numpy as np
from absl import flags
from tqdm import trange

from stugan_tf import command
from stugan_tf.checks import check_positive
from stugan_tf.errors import InputError
from stugan_tf.files import local_path

FLAGS = flags.FLAGS
flags.DEFINE_string("output", None, "The .npz file to write the weights to.")
flags.DEFINE_integer("epochs", 60, "Passes over the digits that are not held out.")

BATCH_SIZE = 64
LEARNING_RATE = 3e-3
MAX_SHIFT_PIXELS = 1.5
MAX_ROTATION = 0.2  # radians
MAX_SCALING = 0.1


def _check_flags():
    if not FLAGS.output:
        raise InputError("--output is missing: the .npz file to write the weights to.")
    check_positive("--epochs", FLAGS.epochs)


with command.late_imports(__name__, _check_flags):
    import keras
    import tensorflow as tf

    from stugan_tf.evaluation.digits_classifier import model as digits
    from stugan_tf.evaluation.weights import sha256_of_keras


def main(_):
    """Trains, writes the weights, says how good they are on held-out digits."""
    tf.config.experimental.enable_op_determinism()
    train_set, held_out = digits.split()
    model = train(*train_set, FLAGS.epochs)
    digits.save(model, local_path(FLAGS.output, "--output"))
    print(f"accuracy on {len(held_out[1])} held-out digits: {accuracy(model, *held_out):.2%}")
    print(f"sha256 {sha256_of_keras(model)}")


def train(images, labels, epochs, seed=0):
    """A model trained on uint8 [n, 16, 16, 1] and int32 [n], by Adam and cosine decay."""
    keras.utils.set_random_seed(seed)  # For the dropout.
    model = digits.build(seed)
    num_steps = len(images) // BATCH_SIZE
    schedule = keras.optimizers.schedules.CosineDecay(LEARNING_RATE, epochs * num_steps)
    optimizer = keras.optimizers.Adam(schedule)
    optimizer.build(model.trainable_variables)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)

    @tf.function
    def step(batch, targets, step_seed):
        with tf.GradientTape() as tape:
            _, logits = model(moved(digits.PREPROCESSING(batch), step_seed), training=True)
            value = loss(targets, logits)
        weights = model.trainable_variables
        optimizer.apply_gradients(zip(tape.gradient(value, weights), weights, strict=True))
        return value

    order = np.random.default_rng(seed)
    for epoch in (progress := trange(epochs, unit="epoch")):
        batches = order.permutation(len(images))[: num_steps * BATCH_SIZE].reshape(num_steps, -1)
        for index, batch in enumerate(batches):
            value = step(images[batch], labels[batch], tf.constant([seed, epoch * 1000 + index]))
        progress.set_postfix(loss=f"{float(value):.4f}")
    return model


def accuracy(model, images, labels):
    """The fraction of uint8 [n, 16, 16, 1] whose largest logit is that of the label."""
    _, logits = digits.compute(model, digits.PREPROCESSING(tf.constant(images)))
    return float(np.mean(np.argmax(logits, axis=1) == labels))


def moved(images, seed):
    """Shifts, turns and scales images [B, H, W, 1] in [-1, 1] a little, each differently."""
    batch_size, height, width, _ = images.shape
    bounds = tf.constant([MAX_ROTATION, MAX_SCALING, MAX_SHIFT_PIXELS, MAX_SHIFT_PIXELS])
    moves = tf.random.stateless_uniform([batch_size, 4], seed, -1.0, 1.0) * bounds
    angle, scaling, right, down = tf.unstack(moves, axis=1)
    cosine, sine = ((1.0 + scaling) * wave for wave in (tf.cos(angle), tf.sin(angle)))
    # About the centre: input position = matrix (output position - centre) + centre + shift.
    x, y = (width - 1) / 2, (height - 1) / 2
    left, top = x - cosine * x + sine * y + right, y - sine * x - cosine * y + down
    zero = tf.zeros_like(angle)
    return tf.raw_ops.ImageProjectiveTransformV3(
        images=images,
        transforms=tf.stack([cosine, -sine, left, sine, cosine, top, zero, zero], axis=1),
        output_shape=[height, width],
        interpolation="BILINEAR",
        fill_mode="CONSTANT",
        fill_value=-1.0,
    )


if __name__ == "__main__":
    command.run(main)
