"""One small residual GAN (8x8, width 4) takes four steps, compiled and distributed in every way.

Tests of one fixture stand together: building another GAN sets the seed, after which TensorFlow
prepares all functions once more.
"""

import functools

import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from stugan_tf.errors import InputError
from stugan_tf.layers.masked import masked_layers
from stugan_tf.randomness import Purpose, draw_latents, fold
from stugan_tf.sparsity.criteria import random_scores
from stugan_tf.sparsity.exploration import Exploration
from stugan_tf.training.losses import Loss, hinge
from tests.helpers import reference
from tests.helpers.params import first_by_default
from tests.helpers.stepping import (
    ADAM,
    BATCH_SIZE,
    DECAY,
    IMAGES,
    NUM_STEPS,
    SEED,
    Run,
    algorithm,
    assert_close,
    assert_replicas_agree,
    assert_same_masks,
    build_gan,
    small_discriminator,
    small_generator,
)


@pytest.fixture(scope="module")
def plain():
    """One device, not compiled by XLA; two steps trace all that later ones need."""
    return Run().advance(2)


@pytest.fixture(scope="module")
def history(plain):
    """Snapshots after steps 0 to 4 of the plain run."""
    plain.restart()
    return [plain.snapshot(), *(plain.advance().snapshot() for _ in range(NUM_STEPS))]


@pytest.fixture(scope="module")
def two_replicas(mirrored):
    """Half the batch each, batch norm over both."""
    return Run(strategy=mirrored).advance(2)


@pytest.fixture(scope="module")
def compiled():
    """One device, compiled by XLA."""
    return Run(jit_compile=True).advance(2)


class SlowTraining:
    """Algorithm 1 line by line: eager calls of the networks, everything else in NumPy."""

    def __init__(self, settings, **networks):
        self.gan = build_gan(**networks)
        self._settings = settings
        self._adams = {
            id(variable): reference.Adam(variable.numpy(), **ADAM)
            for network in self.gan.networks.values()
            for variable in network.trainable_variables
        }
        self.averages = {v.path: v.numpy() for v in self.gan.generator.variables}
        self._seen = {
            layer.kernel.path: layer.kernel_mask.numpy() > 0
            for layer in masked_layers(self.gan.generator)
        }

    def take_step(self, step):
        per_step = self._settings.discriminator_steps
        for index in range(per_step):
            update = per_step * (step - 1) + index
            self._update_discriminator(IMAGES[update], update)
            if index == self._settings.generator_position - 1:
                self._update_generator(step)

    def _draw(self, purpose, step):
        seed = fold((SEED, 0), 0, purpose, step)
        return draw_latents(BATCH_SIZE, 6, 10, seed)[0]

    def _update_discriminator(self, images, update):
        latents = self._draw(Purpose.DISCRIMINATOR_UPDATE, update)
        fake_images = self.gan.generator(latents, training=True)
        with tf.GradientTape() as tape:
            if self._settings.joint_discrimination:
                logits = self.gan.discriminator(tf.concat([fake_images, images], 0), training=True)
                fake, real = logits[:BATCH_SIZE], logits[BATCH_SIZE:]
            else:
                real = self.gan.discriminator(images, training=True)
                fake = self.gan.discriminator(fake_images, training=True)
            loss = tf.reduce_mean(tf.maximum(0.0, 1 - real))
            loss += tf.reduce_mean(tf.maximum(0.0, 1 + fake))
        self._descend(self.gan.discriminator, tape, loss)

    def _update_generator(self, step):
        latents = self._draw(Purpose.GENERATOR_UPDATE, step)
        generator = self.gan.generator
        with tf.GradientTape() as tape:
            images = generator(latents, training=True)
            loss = -tf.reduce_mean(self.gan.discriminator(images, training=True))
        gradients = self._descend(generator, tape, loss)
        if self._settings.changes_topology(step)["generator"]:
            drop_fraction = self._settings.drop_fraction("generator", step)
            for layer in masked_layers(generator):
                layer.assign_mask(
                    reference.prune_and_regrow(
                        layer.kernel_mask.numpy(),
                        np.abs(layer.kernel.numpy()),
                        np.abs(gradients[id(layer.kernel)]),
                        drop_fraction,
                    )
                )
                self._adams[id(layer.kernel)].weight = layer.kernel.numpy().astype(np.float64)
        self._update_average(generator, 0 if step < self._settings.average_start else DECAY)

    def _descend(self, network, tape, loss):
        variables = network.trainable_variables
        masks = {id(layer.kernel): layer.kernel_mask.numpy() for layer in masked_layers(network)}
        gradients = tape.gradient(loss, [variable.value for variable in variables])
        for variable, gradient in zip(variables, gradients, strict=True):
            updated = self._adams[id(variable)].update(
                gradient.numpy().astype(np.float64), masks.get(id(variable), 1.0)
            )
            variable.assign(updated)
        return {id(v): g.numpy() for v, g in zip(variables, gradients, strict=True)}

    def _update_average(self, generator, decay):
        masks = {layer.kernel.path: layer.kernel_mask.numpy() for layer in masked_layers(generator)}
        for variable in generator.variables:
            path, value = variable.path, variable.numpy()
            blended = decay * self.averages[path] + (1 - decay) * value
            if path in masks:
                mask, seen = masks[path] > 0, self._seen[path]
                fresh = mask & ~seen & (value != 0)
                self.averages[path] = np.where(seen & mask, blended, np.where(fresh, value, 0))
                self._seen[path] = mask & (seen | fresh)
            else:
                self.averages[path] = value if path.endswith("mask") else blended


@pytest.mark.budget(10, "Every step is taken once more, line by line.")
def test_steps_are_those_of_a_slow_eager_implementation(plain):
    check_against_slow_training(plain.restart(), algorithm())


def check_against_slow_training(run, settings, **networks):
    slow = SlowTraining(settings, **networks)
    for step in range(1, NUM_STEPS + 1):
        slow.take_step(step)
        run.advance()
        for network, expected in zip(
            run.gan.networks.values(), slow.gan.networks.values(), strict=True
        ):
            for variable, expected_variable in zip(
                network.variables, expected.variables, strict=True
            ):
                np.testing.assert_allclose(
                    variable, expected_variable, rtol=1e-3, atol=1e-4, err_msg=variable.path
                )
        for variable, expected_average in zip(
            run.gan.averaged.model.variables, slow.averages.values(), strict=True
        ):
            np.testing.assert_allclose(variable, expected_average, rtol=1e-3, atol=1e-4)


def test_steps_of_one_call_are_those_of_many(plain, history):
    assert_close(plain.restart().advance(2).state(), history[2].state, tolerance=1e-5)
    assert_close(plain.advance(2).state(), history[4].state, tolerance=1e-5)


def test_static_masks_never_change(history):
    for snapshot in history[1:]:
        for mask, first in zip(
            snapshot.discriminator_masks, history[0].discriminator_masks, strict=True
        ):
            np.testing.assert_array_equal(mask, first)


def test_explored_masks_change_when_due_and_keep_their_counts(history):
    for step in range(1, NUM_STEPS + 1):
        pairs = list(
            zip(history[step].generator_masks, history[step - 1].generator_masks, strict=True)
        )
        assert [mask.sum() for mask, _ in pairs] == [former.sum() for _, former in pairs]
        changed = any(np.any(mask != former) for mask, former in pairs)
        assert changed == (step in (2, 4))


def test_weights_are_zero_outside_their_masks_after_every_step(history):
    for snapshot in history:
        for name in ("generator", "discriminator", "averaged"):
            masks = getattr(snapshot, f"{name}_masks")
            for kernel, mask in zip(getattr(snapshot, f"{name}_kernels"), masks, strict=True):
                assert np.all(kernel[mask == 0] == 0)
        for mask, averaged_mask in zip(
            snapshot.generator_masks, snapshot.averaged_masks, strict=True
        ):
            np.testing.assert_array_equal(mask, averaged_mask)


def test_the_average_of_a_grown_weight_is_the_weight_after_its_first_update(history):
    num_grown = 0
    for index in range(len(history[0].generator_masks)):
        former, grown, trained = (
            [snapshot.generator_masks[index], snapshot.generator_kernels[index]]
            for snapshot in history[1:4]
        )
        new = (grown[0] > 0) & (former[0] == 0)
        assert np.all(grown[1][new] == 0)
        assert np.all(history[2].averaged_kernels[index][new] == 0)
        averaged = history[3].averaged_kernels[index]
        np.testing.assert_array_equal(averaged[new], trained[1][new])
        num_grown += np.sum(averaged[new] != 0)
        old = (former[0] > 0) & (grown[0] > 0)
        expected = DECAY * history[2].averaged_kernels[index] + (1 - DECAY) * trained[1]
        np.testing.assert_allclose(averaged[old], expected[old], rtol=1e-5, atol=1e-7)
    assert num_grown > 20


def test_another_attempt_draws_other_numbers(plain, history):
    plain.restart().steps.attempt.assign(1)
    plain.advance()
    name = "metrics/generator"
    assert abs(plain.state()[name][0] - history[1].state[name][0]) > 1e-4


def test_metrics_are_means_since_they_were_last_taken(plain, history):
    plain.restart().advance(2)
    totals = [history[2].state[f"metrics/{name}"] for name in ("discriminator", "generator")]
    metrics = plain.steps.pop_metrics()
    rates = [metrics.pop(f"{letter}_learning_rate") for letter in "dg"]
    np.testing.assert_allclose(rates, ADAM["learning_rate"], rtol=1e-6)
    assert list(metrics) == [
        "d_loss",
        "d_real",
        "d_fake",
        "d_gradient_norm",
        "g_loss",
        "g_gradient_norm",
    ]
    means = np.concatenate([total[:-1] / total[-1] for total in totals])
    np.testing.assert_allclose(list(metrics.values()), means, rtol=1e-5)
    assert [total[-1] for total in totals] == [4, 2]
    metrics = plain.steps.pop_metrics()
    assert {value for name, value in metrics.items() if "learning_rate" not in name} == {0}


@pytest.mark.parametrize("name", first_by_default("plain", "two_replicas"))
def test_a_loss_that_is_not_finite_is_noticed_with_its_step(name, request):
    images = IMAGES.copy()
    images[3, -1, 0, 0, 0] = np.nan  # in the second update of step 2, on the last replica
    run = request.getfixturevalue(name).restart(images)
    run.advance()
    assert run.steps.first_bad() is None
    run.advance().advance()
    assert run.steps.first_bad() == (2, "the discriminator's loss")


@pytest.mark.ci
def test_two_replicas_take_the_steps_of_one(two_replicas, history):
    """The topology too: growth sees the gradient of the whole batch."""
    two_replicas.restart()
    for step in range(1, NUM_STEPS + 1):
        two_replicas.advance()
        assert_replicas_agree(two_replicas)
        assert_same_masks(two_replicas.snapshot(), history[step])
        assert_close(two_replicas.state(), history[step].state, tolerance=1e-3)


@pytest.mark.slow
def test_replicas_agree_although_each_normalises_by_its_own_part(mirrored):
    settings = algorithm(
        discriminator_exploration=Exploration(update_interval=2, grow_scores=random_scores)
    )
    run = Run(settings, mirrored, cross_replica_batch_norm=False)
    before = run.snapshot()
    for _ in range(NUM_STEPS):
        run.advance()
        assert_replicas_agree(run)
    after = run.snapshot()
    for name in ("generator_masks", "discriminator_masks"):
        pairs = zip(getattr(before, name), getattr(after, name), strict=True)
        assert any(np.any(old != new) for old, new in pairs)


@pytest.mark.ci
def test_the_first_step_compiled_by_xla_has_the_same_losses_and_gradients(compiled, history):
    """The second moments after one update are those of the gradients: (1 - beta_2) g^2."""
    state, expected = compiled.restart().advance().state(), history[1].state
    for name in ("metrics/discriminator", "metrics/generator"):
        np.testing.assert_allclose(state[name], expected[name], rtol=1e-4, atol=1e-5)
    moments = [name for name in state if name.startswith("generator_optimizer/second_moment/")]
    assert len(moments) == len(compiled.gan.generator.trainable_variables)
    gradients, expected_gradients = (
        [np.sqrt(values[name] / (1 - ADAM["beta_2"])) for name in moments]
        for values in (state, expected)
    )
    tolerance = 1e-4 * max(map(np.max, expected_gradients))
    for gradient, expected_gradient in zip(gradients, expected_gradients, strict=True):
        np.testing.assert_allclose(gradient, expected_gradient, atol=tolerance)


@pytest.mark.ci
def test_xla_takes_the_same_steps(compiled, history):
    compiled.restart()
    for step in range(1, NUM_STEPS + 1):
        compiled.advance()
        assert_same_masks(compiled.snapshot(), history[step])
        assert_close(compiled.state(), history[step].state, tolerance=1e-3)


@pytest.mark.ci
def test_xla_on_several_cpu_replicas_is_refused(mirrored):
    with pytest.raises(InputError, match=r"jit_compile = True does not work on 2 replicas on CPUs"):
        Run(strategy=mirrored, jit_compile=True)


@pytest.mark.ci
@pytest.mark.usefixtures("untraced")
def test_the_generator_follows_as_many_discriminator_updates_as_its_position_says():
    """And its average starts when it should; and one call sees real and generated images."""
    settings = algorithm(
        generator_position=2,
        average_start=3,
        generator_exploration=None,
        joint_discrimination=True,
    )
    networks = {"generator": small_generator, "discriminator": small_discriminator}
    check_against_slow_training(Run(settings, **networks), settings, **networks)


class BadGradient(layers.Layer):
    """The identity, of which the gradient is not a number."""

    def call(self, inputs):
        @tf.custom_gradient
        def identity(values):
            return tf.identity(values), lambda upstream: upstream * np.nan

        return identity(inputs)


@pytest.mark.ci
def test_a_gradient_that_is_not_finite_is_noticed_with_its_layer():
    run = Run(
        algorithm(generator_exploration=None),
        generator=functools.partial(small_generator, between=BadGradient),
        discriminator=small_discriminator,
    )
    run.advance()
    assert run.steps.first_bad() == (1, "the gradient of the generator's first/kernel")


@pytest.mark.ci
def test_a_loss_without_a_slope_moves_nothing():
    still = Loss(
        discriminator=lambda real, fake: 0 * hinge().discriminator(real, fake),
        generator=lambda fake: 0 * tf.reduce_mean(fake),
    )
    run = Run(algorithm(loss=still), generator=small_generator, discriminator=small_discriminator)
    for network in run.gan.networks.values():
        before = [variable.numpy() for variable in network.variables]
        run.advance()
        for variable, value in zip(network.variables, before, strict=True):
            np.testing.assert_array_equal(variable, value)
