import functools
import re

import keras
import pytest
from keras import layers

from stugan_tf.layers.graph import activation_size
from stugan_tf.layers.masked import mask_layers
from stugan_tf.runs.plan import (
    describe,
    flops_so_far,
    learning_rate,
    memory_estimate,
    network_table,
)
from stugan_tf.sparsity.exploration import Exploration
from stugan_tf.training.algorithm import Algorithm
from stugan_tf.training.gan import GAN
from stugan_tf.training.learning_rates import linear_decay
from stugan_tf.training.masked_adam import MaskedAdam
from stugan_tf.training.precision import computing_in
from tests.helpers.tiny_training import tiny_algorithm, tiny_training


def generator(image_shape):
    latents = keras.Input([2])
    outputs = layers.Reshape([4, 4, 1])(layers.Dense(16)(latents))
    outputs = layers.Conv2D(image_shape[-1], 3, padding="same")(outputs)
    return keras.Model(latents, layers.Activation("tanh", dtype="float32")(outputs))


def discriminator(image_shape):
    images = keras.Input(image_shape)
    outputs = layers.BatchNormalization()(layers.Conv2D(2, 1)(images))
    return keras.Model(images, layers.Dense(1)(layers.Flatten()(outputs)))


@pytest.fixture(scope="module")
def gan():
    return GAN(
        (4, 4, 1),
        2,
        generator=generator,
        discriminator=discriminator,
        generator_sparsity=0.0,
        discriminator_sparsity=0.0,
    )


def half_sparse_training():
    """One whose generator has half its weights."""
    return tiny_training(
        functools.partial(
            GAN,
            generator=lambda _: small(8),
            discriminator=discriminator,
            generator_sparsity=0.5,
            discriminator_sparsity=0.0,
        )
    )


def test_memory_by_hand(gan):
    """Generator: 32 + 16 and 9 + 1 weights; discriminator: 2 + 2, 2 * 2 of batch norm, 32 + 1."""
    settings = {"total_steps": 9, "batch_size": 12, "generator_batch_size": 24}
    exploration = Exploration(update_interval=2)
    parts = memory_estimate(gan, Algorithm(**settings, generator_exploration=exploration))
    iteration_and_rate = 8 + 4
    # Dense, reshaped, convolved, tanh: 16 numbers each; 32, 32, 32 and 1.
    activations = {"generator": 4 * 64, "discriminator": 4 * 97}
    assert parts == {
        "parameters": 4 * (58 + 41),
        "masks and statistics": 4 * (9 + 2 + 2 * 2),
        "moments of the optimizers": 4 * (58 + 41) + 2 * iteration_and_rate,
        "averaged generator": 4 * (58 + 9) + 9,
        "exploration": 4 * (9 + 2) + 4 * 9,
        "gradients": 4 * 58,
        "activations of one micro-batch": 24 * sum(activations.values()),
    }
    parts = memory_estimate(gan, Algorithm(**settings, accumulation_steps=2), 3, True)
    assert parts["gradients"] == 4 * 58 + 4 * (58 + 41)
    assert parts["activations of one micro-batch"] == 4 * sum(activations.values())
    assert parts["exploration"] == 4 * (9 + 2)
    mostly_real = Algorithm(total_steps=9, batch_size=96, generator_batch_size=24)
    parts = memory_estimate(gan, mostly_real)
    assert parts["activations of one micro-batch"] == 96 * 2 * activations["discriminator"]


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_activations_take_half_the_memory_in_half_precision(precision):
    with computing_in(precision):
        model = generator((4, 4, 1))
    assert activation_size(model) == 2 * 48 + 4 * 16  # Images are float32.
    nested = keras.Sequential([keras.Input([2]), generator((4, 4, 1))])
    assert activation_size(nested) == 4 * 64


def test_the_plan_says_what_is_theory_and_what_an_estimate():
    training = half_sparse_training()
    text = describe(training)
    steps = training.algorithm.total_steps
    assert f"theoretical FLOPs of training at the present densities, {steps} steps:" in text
    ratios = dict(re.findall(r"^  (updates|full) +\S+, (\S+) of dense$", text, re.MULTILINE))
    assert ratios.keys() == {"updates", "full"}
    assert "estimate of the memory of one device: " in text


def test_what_was_done_is_counted_at_the_densities_it_was_done_with():
    training = half_sparse_training()
    (sparsity,) = (c.sparsity for n, c in training.counts().items() if n == "generator")
    at_end = {"discriminator_sparsity": 0.0, "generator_sparsity": sparsity}
    start = {"discriminator_sparsity": 0.0, "generator_sparsity": 0.0}
    middle, last = training.algorithm.total_steps // 2, training.algorithm.total_steps
    constant = flops_so_far(training, [{"step": last, **at_end}])
    assert constant.splitlines()[1:] == re.findall(
        r"^  (?:updates|full) .* of dense$", describe(training), re.M
    )
    pruned = flops_so_far(training, [{"step": middle, **start}, {"step": last, **at_end}])
    dense = flops_so_far(training, [{"step": middle, **start}, {"step": last, **start}])
    phases = flops_so_far(
        training, [{"step": middle, **start}], [{"step": last - middle, **at_end}]
    )
    assert f"of the {last} steps logged so far in 2 phases:" in phases
    assert phases.splitlines()[1:] == pruned.splitlines()[1:]
    ratios = [
        [float(ratio) for ratio in re.findall(r"([\d.]+) of dense", text)]
        for text in (constant, pruned, dense)
    ]
    assert ratios[2] == [1.0, 1.0]
    assert ratios[1] == pytest.approx([(1 + ratio) / 2 for ratio in ratios[0]], abs=1e-4)


def test_how_many_parameters_are_not_under_masks_is_said_and_how_to_change_it(gan):
    """Generator: 32 + 16 and 9 + 1 weights, of which 9 are under a mask."""
    first, said, *_ = network_table("generator", gan.generator).splitlines()
    assert "of the 9 weights under masks" in first
    assert said.strip() == (
        "49 parameters (84.5%) are not under masks; GAN.mask_dense = True puts the 32 of dense "
        "layers under masks"
    )
    masked = mask_layers(gan.generator, mask_dense=True)
    said = network_table("generator", masked).splitlines()[1]
    assert said.strip() == "17 parameters (29.3%) are not under masks"


def small(size):
    latents = keras.Input([2])
    outputs = layers.Reshape([size, size, 1])(layers.Dense(size * size)(latents))
    return keras.Model(latents, layers.Conv2D(1, 3, padding="same")(outputs))


def test_the_plan_names_learning_rates_and_those_that_end_too_early():
    def plan_of(optimizer):
        gan = functools.partial(
            GAN,
            generator=lambda _: small(8),
            discriminator=discriminator,
            generator_sparsity=0.5,
            discriminator_sparsity=0.0,
            generator_optimizer=functools.partial(MaskedAdam, 1e-3),
            discriminator_optimizer=optimizer,
        )
        return describe(tiny_training(gan, tiny_algorithm(total_steps=12)))

    text = plan_of(lambda: MaskedAdam(linear_decay(2e-4, 4)))
    assert "generator: learning rate 0.001\n" in text
    assert (
        "discriminator: learning rate from 0.0002 to 0, in 12 updates; it is 0 after 4 updates, "
        "so the last 8 change nothing\n"
    ) in text
    rate = learning_rate(MaskedAdam(linear_decay(2e-4, 12)), 12)
    assert rate == "learning rate from 0.0002 to 1.66667e-05, in 12 updates"


def test_a_report_never_prevents_a_training():
    """Nothing of this model can be counted, and its inner model is for images of any size."""
    steps = keras.Input([5, 3])
    text = network_table("generator", mask_layers(keras.Model(steps, layers.GRU(2)(steps))))
    assert "theoretical FLOPs of a forward pass on one image: 0\n" in text
    assert "not counted: 'gru" in text


def test_kernels_that_stay_dense_are_in_the_report():
    images = keras.Input([4, 4, 1])
    outputs = layers.SpectralNormalization(layers.Conv2D(2, 3, name="norm"))(images)
    model = mask_layers(keras.Model(images, layers.Conv2D(2, 1, name="c1")(outputs)))
    text = network_table("discriminator", model)
    assert "these kernels stay dense: SpectralNormalization(Conv2D) (18)" in text
    assert re.search(r"norm +3x3x1x2 +18 +18 +unmasked", text)
    assert "of the 4 weights under masks, 0.0000 of all 26 parameters" in text
