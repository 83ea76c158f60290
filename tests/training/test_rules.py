"""Steps under topology rules other than explorations by magnitude: pruning, ADAPT, GraSP."""

import json

import gin
import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow_model_optimization.python.core.sparsity.keras import pruning_schedule as tfmot

from stugan_tf.errors import InputError
from stugan_tf.layers.masked import masked_layers
from stugan_tf.models.sngan import sngan_discriminator
from stugan_tf.randomness import Purpose, draw_latents, fold
from stugan_tf.sparsity.criteria import gradient_flow
from stugan_tf.sparsity.density_adjustment import DensityAdjustment
from stugan_tf.sparsity.exploration import Exploration
from stugan_tf.sparsity.pruning import GradualPruning
from stugan_tf.training.algorithm import Algorithm, longer
from stugan_tf.training.balance import BalanceRatio
from stugan_tf.training.losses import non_saturating
from tests.helpers import reference
from tests.helpers.params import first_by_default
from tests.helpers.stepping import (
    BATCH_SIZE,
    IMAGES,
    NUM_STEPS,
    SEED,
    SMOOTH,
    Run,
    algorithm,
    assert_close,
    assert_replicas_agree,
    assert_same_masks,
    build_gan,
    masks_of,
)
from tests.helpers.tiny_training import (
    Scripted,
    StopAtTwoError,
    tiny_algorithm,
    tiny_gan,
    tiny_training,
)

TRACED = pytest.mark.parametrize("tracing", ["traced"], indirect=True)
DENSE = {"generator_sparsity": 0.0}
DENSER = (-1e9 - 1, -1e9)  # Any balance ratio is too large.
SPARSER = (1e9, 1e9 + 1)
BALANCED = (-1e9, 1e9)
STRICT = {"max_density": 0.5, "explores_at_max": True}


def gradual(*_):
    """Prunes after steps 1 to 3."""
    return tfmot.PolynomialDecay(0.0, 0.8, 0, 3, frequency=1)


def rules(bounds=DENSER, **settings):
    """A generator that is pruned as GraSP would, a discriminator that ADAPT adjusts each step."""
    low, high = bounds
    return algorithm(
        generator_exploration=GradualPruning(schedule=gradual, drop_scores=gradient_flow),
        discriminator_exploration=DensityAdjustment(
            update_interval=1, low=low, high=high, increment=0.1, **settings
        ),
        balance_ratio=BalanceRatio(every=1, window=2),
        loss=non_saturating(),
        generator_position=2,
    )


@pytest.fixture(scope="module")
def run(tracing):
    """One device, not compiled by XLA."""
    del tracing
    return Run(rules(), **SMOOTH, **DENSE)


def use_rules_of(run, settings):
    for name, rule in settings.topology_rules.items():
        run.steps.players[name].rule = rule


def record(run, settings):
    """Snapshots after steps 0 to 4; what the host decides needs no second trace."""
    use_rules_of(run, settings)
    run.restart()
    return [run.snapshot(), *(run.advance().snapshot() for _ in range(NUM_STEPS))]


@pytest.fixture(scope="module")
def history(run):
    return record(run, rules())


def num_active(masks):
    return [int(mask.sum()) for mask in masks]


def test_a_gradual_pruning_leaves_what_its_schedule_says(history):
    for step, snapshot in enumerate(history):
        sparsity = float(gradual()(tf.constant(min(step, 3)))[1]) if step else 0.0
        sizes = [mask.size for mask in snapshot.generator_masks]
        expected = [round((1 - sparsity) * size) for size in sizes]
        assert num_active(snapshot.generator_masks) == expected
        for name in ("generator", "discriminator", "averaged"):
            masks = getattr(snapshot, f"{name}_masks")
            for kernel, mask in zip(getattr(snapshot, f"{name}_kernels"), masks, strict=True):
                assert np.all(kernel[mask == 0] == 0)
        for mask, averaged in zip(snapshot.generator_masks, snapshot.averaged_masks, strict=True):
            np.testing.assert_array_equal(mask, averaged)


def test_pruning_keeps_the_averages_and_the_moments_of_what_it_keeps(history):
    """SEMA does not begin anew; second moments go on, those of history weights too."""
    for index, mask in enumerate(history[4].generator_masks):
        kernel = history[4].generator_kernels[index]
        averaged = 0.9 * history[3].averaged_kernels[index] + 0.1 * kernel
        np.testing.assert_allclose(history[4].averaged_kernels[index], averaged * mask, rtol=1e-5)
    moments = history[4].state["generator_optimizer/second_moment/conv2d/kernel"]
    assert moments.shape == history[4].generator_kernels[0].shape
    assert np.all(moments[history[4].generator_masks[0] == 0] > 0)


@pytest.mark.parametrize(
    ("bounds", "settings", "densities"),
    first_by_default(
        (DENSER, {}, [0.5, 0.5, 0.6, 0.7, 0.8]),
        (SPARSER, {}, [0.5, 0.5, 0.4, 0.3, 0.2]),
        (BALANCED, {}, [0.5] * 5),
        (DENSER, STRICT, [0.5] * 5),
    ),
)
def test_adapt_moves_the_density_of_the_discriminator(run, bounds, settings, densities):
    """From step 2 on, when the window is full."""
    snapshots = record(run, rules(bounds, **settings))
    size = sum(mask.size for mask in snapshots[0].discriminator_masks)
    for step, (snapshot, density) in enumerate(zip(snapshots, densities, strict=True)):
        count = sum(num_active(snapshot.discriminator_masks))
        assert count == pytest.approx(density * size, abs=step)  # Rounded once a step.
    for step, moves in ((1, False), (2, bounds != BALANCED)):
        pairs = zip(
            snapshots[step].discriminator_masks,
            snapshots[step - 1].discriminator_masks,
            strict=True,
        )
        assert any(np.any(new != old) for new, old in pairs) == moves


def test_the_discriminator_grows_where_its_last_gradient_was_largest(run):
    use_rules_of(run, rules())
    (former,) = run.restart().advance().snapshot().discriminator_masks
    snapshot = run.advance().snapshot()
    (gradient,) = run.steps.discriminator.explorer.growth_gradients
    (mask,) = snapshot.discriminator_masks
    num_grown = int(mask.sum() - former.sum())
    assert num_grown == round((former.mean(dtype=np.float64) + 0.1) * mask.size) - former.sum()
    grown = reference.mark_largest(np.abs(gradient.numpy()), num_grown, former == 0)
    np.testing.assert_array_equal(mask, former + grown)
    assert not np.any(snapshot.discriminator_kernels[0][grown > 0])


@pytest.mark.ci
@TRACED
def test_two_replicas_change_the_topology_as_one_does(mirrored, history):
    run = Run(rules(), mirrored, **SMOOTH, **DENSE)
    for snapshot in history[1:]:
        run.advance()
        assert_replicas_agree(run)
        assert_same_masks(run.snapshot(), snapshot)
        assert_close(run.state(), snapshot.state, tolerance=1e-3)


@pytest.mark.slow
@TRACED
def test_xla_changes_the_topology_likewise(history):
    run = Run(rules(), jit_compile=True, **SMOOTH, **DENSE)
    for snapshot in history[1:]:
        run.advance()
        assert_same_masks(run.snapshot(), snapshot)
        assert_close(run.state(), snapshot.state, tolerance=1e-3)


class FreshMoments(Exploration):
    """Moments of the weights that it drops or grows start again."""

    slots = "zero"


def test_moments_start_again_where_the_rule_says_so(untraced):
    run = Run(algorithm(generator_exploration=FreshMoments(update_interval=1)), **SMOOTH)
    (former,) = run.snapshot().generator_masks
    after = run.advance().snapshot()
    (mask,) = after.generator_masks
    moment = after.state["generator_optimizer/second_moment/conv2d/kernel"]
    assert np.any(former != mask)
    assert not np.any(moment[former != mask])
    assert np.all(moment[former == mask])


def test_moments_of_the_paper_have_no_ages(untraced):
    rule = FreshMoments(update_interval=1)
    object.__setattr__(rule, "slots", "age")
    with pytest.raises(InputError, match=r"FreshMoments.slots = 'age' of the generator needs"):
        Run(algorithm(generator_exploration=rule), **SMOOTH)


def hessian_gradients(gan, name, images, step):
    """H g of the kernels by central differences along g, by eager calls of the networks."""
    network, loss = gan.networks[name], non_saturating()
    purpose, count = {
        "generator": (Purpose.GENERATOR_UPDATE, step),
        "discriminator": (Purpose.DISCRIMINATOR_UPDATE, step - 1),
    }[name]
    latents, _ = draw_latents(BATCH_SIZE, 6, 10, fold((SEED, 0), 0, purpose, count))
    kernels = [layer.kernel for layer in masked_layers(network)]
    masks = [layer.kernel_mask.numpy() for layer in masked_layers(network)]
    weights = [kernel.numpy() for kernel in kernels]

    def gradients(offsets):
        for kernel, weight, offset in zip(kernels, weights, offsets, strict=True):
            kernel.assign(weight + offset)
        with tf.GradientTape() as tape:
            fake = gan.discriminator(gan.generator(latents))
            if name == "generator":
                value = loss.generator(fake)
            else:
                value = loss.discriminator(gan.discriminator(images), fake)
        found = tape.gradient(value, [kernel.value for kernel in kernels])
        for kernel, weight in zip(kernels, weights, strict=True):
            kernel.assign(weight)
        return [gradient.numpy() for gradient in found]

    direction = [
        mask * gradient for mask, gradient in zip(masks, gradients([0.0] * len(masks)), strict=True)
    ]
    length = 0.02 / np.sqrt(sum(np.sum(part**2) for part in direction))
    ahead = gradients([length * part for part in direction])
    behind = gradients([-length * part for part in direction])
    return [(a - b) / (2 * length) for a, b in zip(ahead, behind, strict=True)]


class Listener:
    """Keeps what the topology update of a network scores."""

    def __init__(self, explorer):
        self._explorer, self._update = explorer, explorer.update
        kernels = [layer.kernel.value for layer in explorer.masks]
        self.kernels, self.masks, self.products = (
            [tf.Variable(tf.zeros_like(kernel), trainable=False) for kernel in kernels]
            for _ in range(3)
        )
        explorer.update = self

    def __call__(self, amount, seed, products):
        for layer, product, *kept in zip(
            self._explorer.masks, products, self.kernels, self.masks, self.products, strict=True
        ):
            for variable, value in zip(
                kept, (layer.kernel.value, layer.kernel_mask.value, product), strict=True
            ):
                variable.assign(value)
        self._update(amount, seed, products)


@pytest.mark.usefixtures("tracing")
def test_gradient_flow_is_scored_by_products_of_hessian_and_gradient():
    """Weights w fall out where w (H g) is lowest; g and H of the last batch, at these weights."""
    exploration = Exploration(
        update_interval=1, drop_scores=gradient_flow, drop_fraction=lambda _: 0.25
    )
    settings = algorithm(
        loss=non_saturating(),
        discriminator_steps=1,
        generator_exploration=exploration,
        discriminator_exploration=exploration,
    )
    run = Run(settings, **SMOOTH)
    heard = {name: Listener(player.explorer) for name, player in run.steps.players.items()}
    run.advance()
    found = {name: masks_of(network) for name, network in run.gan.networks.items()}
    # The generator's masks were the first to change: the discriminator met the new ones.
    for name, listener in reversed(heard.items()):
        for layer, kernel, mask in zip(
            masked_layers(run.gan.networks[name]), listener.kernels, listener.masks, strict=True
        ):
            layer.kernel.assign(kernel)
            layer.kernel_mask.assign(mask)
        expected = hessian_gradients(run.gan, name, IMAGES[0], 1)
        for product, by_differences, kernel, mask, new_mask in zip(
            listener.products, expected, listener.kernels, listener.masks, found[name], strict=True
        ):
            scale = np.abs(by_differences).max()
            assert scale > 0
            np.testing.assert_allclose(product, by_differences, atol=0.02 * scale)
            num_active = int(tf.reduce_sum(mask))
            num_kept = num_active - int(np.ceil(0.25 * num_active))
            scores = kernel.numpy() * product.numpy()
            kept = reference.mark_largest(scores, num_kept, mask.numpy() > 0)
            assert np.all(new_mask >= kept)


@pytest.mark.ci
@pytest.mark.usefixtures("untraced")
def test_a_run_that_was_stopped_ends_like_one_that_was_not(tmp_path):
    """Stopped when the window of the balance ratio is full, between two updates."""
    made = rules(SPARSER)
    names = ("generator_exploration", "discriminator_exploration", "balance_ratio")
    settings = {name: getattr(made, name) for name in names}

    def training(**arguments):
        return tiny_training(
            tiny_gan(**SMOOTH, **DENSE),
            tiny_algorithm(total_steps=5, **settings),
            checkpoint_every=1,
            **arguments,
        )

    straight = training()
    straight.run(tmp_path / "straight", "")
    stopping = Scripted.of([StopAtTwoError])
    with pytest.raises(StopAtTwoError):
        training(evaluator=stopping, evaluate_every=3).run(tmp_path / "stopped", "")
    resumed = training()
    resumed.run(tmp_path / "stopped", "")
    expected = straight.state()
    for name, variable in resumed.state().items():
        np.testing.assert_array_equal(variable, expected[name], err_msg=name)
    metrics = json.loads((tmp_path / "stopped" / "metrics.jsonl").read_text().splitlines()[-1])
    for name, counts in resumed.counts().items():
        assert metrics[f"{name}_sparsity"] == counts.sparsity > 0.5
    assert "balance_ratio" in metrics


@pytest.mark.ci
def test_the_discriminator_may_be_as_sparse_as_the_generator_and_dense_layers_masked():
    gan = build_gan(
        discriminator=sngan_discriminator,
        generator_sparsity=0.7,
        discriminator_sparsity=None,
        mask_dense=True,
    )
    for network, dense in zip(gan.networks.values(), ("l1", "l5"), strict=True):
        layers_ = masked_layers(network)
        assert dense in [layer.name for layer in layers_]
        sizes = [layer.kernel_mask.numpy().size for layer in layers_]
        active = sum(layer.num_active() for layer in layers_)
        assert active == pytest.approx(0.3 * sum(sizes), abs=len(sizes))


@pytest.mark.parametrize("mask_dense", [None, False, True])
def test_one_setting_puts_dense_layers_of_any_factory_under_masks(mask_dense):
    gan = build_gan(**SMOOTH, mask_dense=mask_dense)
    for network in gan.networks.values():
        inner = [type(layer.layer) for layer in masked_layers(network)]
        assert (keras.layers.Dense in inner) == bool(mask_dense)
        assert keras.layers.Conv2D in inner


def test_five_times_the_length_is_five_times_the_steps_with_schedules_over_all():
    exploration = Exploration(update_interval=10)
    base = Algorithm(total_steps=100, generator_exploration=exploration)
    with gin.unlock_config():
        gin.bind_parameter("Algorithm.total_steps", 100)
        gin.bind_parameter("Algorithm.generator_exploration", exploration)
    try:
        longest = longer(5)
        with pytest.raises(InputError, match=r"longer\.factor must be a positive integer, got 0"):
            longer(0)
    finally:
        gin.clear_config()
    assert longest.total_steps == 500
    assert exploration.num_updates(longest.total_steps) == 49
    assert longest.drop_fraction("generator", 250) == base.drop_fraction("generator", 50)
