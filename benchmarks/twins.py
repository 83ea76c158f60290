"""The trainings that benchmarks compare: one by this package, and its twin in plain Keras.

The twin is the same architecture of plain layers, `keras.optimizers.Adam`, a plain moving average
and a loop as a user would write it.
"""

import functools
import statistics
import time

import keras
import tensorflow as tf

from stugan_tf.layers.masked import Masked
from stugan_tf.randomness import draw_latents
from stugan_tf.sparsity.exploration import Exploration
from stugan_tf.training.algorithm import Algorithm
from stugan_tf.training.gan import GAN
from stugan_tf.training.losses import hinge
from stugan_tf.training.masked_adam import MaskedAdam
from stugan_tf.training.steps import Steps

DECAY = 0.999


def seconds(function, *arguments):
    start = time.perf_counter()
    function(*arguments)
    return time.perf_counter() - start


def alternate(functions, num_rounds, least_seconds=0.0):
    """Seconds per call of each function, [function][round], called in turn after a warm-up.

    A function is repeated within a round until `least_seconds` have passed.
    """
    repetitions = []
    for function in functions:
        function()
        repetitions.append(max(1, round(least_seconds / seconds(function))))
    times = [[] for _ in functions]
    for _ in range(num_rounds):
        for mine, function, repeat in zip(times, functions, repetitions, strict=True):
            start = time.perf_counter()
            for _ in range(repeat):
                function()
            mine.append((time.perf_counter() - start) / repeat)
    return times


def median_ratio(numerators, denominators):
    """Median, least and greatest ratio, pair by pair."""
    ratios = [a / b for a, b in zip(numerators, denominators, strict=True)]
    return statistics.median(ratios), min(ratios), max(ratios)


def sparse_training(
    source,
    generator,
    discriminator,
    sparsities,
    batch,
    update_interval=500,
    moments="dense",
    execution="dense",
    jit_compile=False,
    rematerialize=False,
):
    """Returns (run `n` plain steps, run one step with a topology update)."""
    algorithm = Algorithm(
        total_steps=10**6,
        batch_size=batch,
        generator_batch_size=batch,
        generator_exploration=Exploration(update_interval=update_interval),
        average_decay=DECAY,
    )
    strategy = tf.distribute.OneDeviceStrategy("CPU:0")
    adam = functools.partial(MaskedAdam, moments=moments)
    with strategy.scope():
        gan = GAN(
            source.image_shape,
            source.num_classes,
            0,
            generator,
            discriminator,
            *sparsities,
            adam,
            adam,
        )
        gan.set_execution(execution)
        if rematerialize:
            gan.rematerialize()
        steps = Steps(gan, algorithm, strategy, seed=0, jit_compile=jit_compile)
    iterator = iter(
        strategy.distribute_datasets_from_function(lambda _: source.batches(batch, seed=0))
    )

    def run(num_steps):
        steps.run(iterator, 0, num_steps)
        steps.pop_metrics()

    def explore():
        steps.run(iterator, update_interval - 1, 1)
        steps.pop_metrics()

    return run, explore


def without_masks(model):
    """The same architecture of plain layers, with weights of its own."""

    def plain(layer):
        layer = layer.layer if isinstance(layer, Masked) else layer
        return layer.__class__.from_config(layer.get_config())

    return keras.models.clone_model(model, clone_function=plain)


def dense_training(source, generator, discriminator, batch, jit_compile=False):
    """Returns (run `n` steps) of the same training without masks."""
    networks = [network(source.image_shape) for network in (generator, generator, discriminator)]
    generator, average, discriminator = map(without_masks, networks)
    average.set_weights(generator.get_weights())
    adam = functools.partial(keras.optimizers.Adam, 2e-4, beta_1=0.0, beta_2=0.9, epsilon=1e-8)
    generator_optimizer, discriminator_optimizer = adam(), adam()
    generator_optimizer.build(generator.trainable_variables)
    discriminator_optimizer.build(discriminator.trainable_variables)
    loss = hinge()

    def latents(step, purpose):
        return draw_latents(batch, generator.input_shape[-1], 10, tf.stack([step, purpose]))[0]

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

    if jit_compile:
        train_step = tf.function(train_step, jit_compile=True, autograph=False)
    iterator = iter(source.batches(batch, seed=0))

    @tf.function
    def loop(num_steps):
        losses = 0.0, 0.0
        for step in tf.range(num_steps):
            losses = train_step(next(iterator)[0], step)
        return losses

    return lambda num_steps: loop(tf.constant(num_steps, tf.int64))[0].numpy()
