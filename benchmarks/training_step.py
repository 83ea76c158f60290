"""What sparse training costs beside the same training without any masking code.

    python -m benchmarks.training_step [--quick] [--json=PATH]

Trains SNGAN at 90 % sparsity by this package, and its dense twin: the same architecture of plain
Keras layers, `keras.optimizers.Adam`, a plain moving average and a loop as a user would write it.
Both run in one process in turn; ratios are taken pair by pair. Further: what a topology update
costs, spread over the 500 steps between two of them, and how many images a second the input
delivers to how many the training takes.
"""

import functools
import json
import pathlib
import statistics
import time

import keras
import tensorflow as tf
from absl import app, flags

from stugan_tf.data import digits
from stugan_tf.layers.masked import Masked
from stugan_tf.models.sngan import sngan_discriminator, sngan_generator
from stugan_tf.sparsity.exploration import Exploration
from stugan_tf.training.algorithm import Algorithm
from stugan_tf.training.gan import GAN
from stugan_tf.training.losses import hinge
from stugan_tf.training.randomness import draw_latents
from stugan_tf.training.steps import Steps

_QUICK = flags.DEFINE_bool("quick", False, "A smaller network and fewer repetitions.")
_JSON = flags.DEFINE_string("json", None, "Where to write the measurements.")

BATCH, UPDATE_INTERVAL, DECAY = 64, 500, 0.999


def sparse_training(source, generator, discriminator):
    """Returns (run `n` plain steps, run one step with a topology update)."""
    algorithm = Algorithm(
        total_steps=10**6,
        batch_size=BATCH,
        generator_batch_size=BATCH,
        generator_exploration=Exploration(update_interval=UPDATE_INTERVAL),
        average_decay=DECAY,
    )
    strategy = tf.distribute.OneDeviceStrategy("CPU:0")
    with strategy.scope():
        gan = GAN(source.image_shape, source.num_classes, 0, generator, discriminator, 0.9, 0.9)
        steps = Steps(gan, algorithm, strategy, seed=0, jit_compile=False)
    iterator = iter(
        strategy.distribute_datasets_from_function(lambda _: source.batches(BATCH, seed=0))
    )

    def run(num_steps):
        steps.run(iterator, 0, num_steps)
        steps.pop_metrics()

    def explore():
        steps.run(iterator, UPDATE_INTERVAL - 1, 1)
        steps.pop_metrics()

    return run, explore


def dense_twin(source, generator, discriminator):
    """Returns (run `n` steps) of the same training without masks."""

    def unmasked(network):
        return keras.models.clone_model(
            network(source.image_shape),
            clone_function=lambda layer: (
                layer.layer.__class__.from_config(layer.layer.get_config())
                if isinstance(layer, Masked)
                else layer.__class__.from_config(layer.get_config())
            ),
        )

    generator, average = unmasked(generator), unmasked(generator)
    discriminator = unmasked(discriminator)
    average.set_weights(generator.get_weights())
    adam = functools.partial(keras.optimizers.Adam, 2e-4, beta_1=0.0, beta_2=0.9, epsilon=1e-8)
    generator_optimizer, discriminator_optimizer = adam(), adam()
    generator_optimizer.build(generator.trainable_variables)
    discriminator_optimizer.build(discriminator.trainable_variables)
    loss = hinge()

    def latents(step, purpose):
        return draw_latents(BATCH, generator.input_shape[-1], 10, tf.stack([step, purpose]))[0]

    def train_step(images, step):
        fake = generator(latents(step, 0), training=True)
        with tf.GradientTape() as tape:
            real_logits = discriminator(images, training=True)
            fake_logits = discriminator(tf.stop_gradient(fake), training=True)
            d_loss = loss.discriminator(real_logits, fake_logits)
        gradients = tape.gradient(d_loss, discriminator.trainable_variables)
        discriminator_optimizer.apply(gradients, discriminator.trainable_variables)
        with tf.GradientTape() as tape:
            fake_logits = discriminator(generator(latents(step, 1), training=True), training=True)
            g_loss = loss.generator(fake_logits)
        gradients = tape.gradient(g_loss, generator.trainable_variables)
        generator_optimizer.apply(gradients, generator.trainable_variables)
        for mine, theirs in zip(average.variables, generator.variables, strict=True):
            mine.assign(DECAY * mine + (1 - DECAY) * theirs)
        return d_loss, g_loss

    iterator = iter(source.batches(BATCH, seed=0))

    @tf.function
    def loop(num_steps):
        losses = 0.0, 0.0
        for step in tf.range(num_steps):
            losses = train_step(next(iterator)[0], step)
        return losses

    return lambda num_steps: loop(tf.constant(num_steps, tf.int64))[0].numpy()


def seconds(function, *arguments):
    start = time.perf_counter()
    function(*arguments)
    return time.perf_counter() - start


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
    run, explore = sparse_training(source, *networks)
    twin = dense_twin(source, *networks)
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
