"""Steps under topology rules other than explorations by magnitude: pruning, ADAPT, GraSP."""

import numpy as np
import pytest
import reference
import tensorflow as tf
from tensorflow_model_optimization.python.core.sparsity.keras import pruning_schedule as tfmot
from test_balance import SMOOTH
from test_loop import Scripted, StopAtTwoError, tiny_algorithm, tiny_training
from test_steps import (
    BATCH_SIZE,
    IMAGES,
    NUM_STEPS,
    SEED,
    Run,
    algorithm,
    assert_close,
    assert_replicas_agree,
    assert_same_masks,
    build_gan,
)

from stugan_tf.errors import InputError
from stugan_tf.layers.masked import masked_layers
from stugan_tf.randomness import Purpose, draw_latents, fold
from stugan_tf.sparsity.criteria import gradient_flow, taylor_expansion
from stugan_tf.sparsity.density_adjustment import DensityAdjustment
from stugan_tf.sparsity.exploration import Exploration
from stugan_tf.sparsity.pruning import GradualPruning
from stugan_tf.training.algorithm import Algorithm
from stugan_tf.training.balance import BalanceRatio
from stugan_tf.training.losses import non_saturating

DENSE = {"generator_sparsity": 0.0, "discriminator_sparsity": 0.0}


def pruning(final=0.8, **settings):
    """Prunes after steps 1 to 3."""
    return GradualPruning(
        schedule=lambda *_: tfmot.PolynomialDecay(0.0, final, 0, 3, frequency=1), **settings
    )


def gradual(**settings):
    return algorithm(
        generator_exploration=pruning(),
        discriminator_exploration=pruning(0.4, drop_scores=taylor_expansion),
        **settings,
    )


def adapt(bounds=(-1e9, 1e9), **settings):
    """ADAPT that decides every second step; with these bounds it always finds balance."""
    low, high = bounds
    adjustment = DensityAdjustment(update_interval=2, low=low, high=high, **settings)
    return algorithm(
        generator_exploration=Exploration(update_interval=2, drop_scores=gradient_flow),
        discriminator_exploration=adjustment,
        balance_ratio=BalanceRatio(every=1, window=2),
        loss=non_saturating(),
    )


DENSER = (-1e9 - 1, -1e9)  # Any ratio is too large.
SPARSER = (1e9, 1e9 + 1)


def record(run):
    return [run.snapshot(), *(run.advance().snapshot() for _ in range(NUM_STEPS))]


@pytest.fixture(scope="module")
def pruned():
    """Snapshots of a pruning of both networks after steps 0 to 4."""
    return record(Run(gradual(), **SMOOTH, **DENSE))


@pytest.fixture(scope="module")
def adapted():
    """Snapshots of an ADAPT whose discriminator grows."""
    return record(Run(adapt(DENSER), **SMOOTH))


def num_active(masks):
    return [int(mask.sum()) for mask in masks]


def test_a_gradual_pruning_leaves_what_its_schedule_says(pruned):
    schedule = tfmot.PolynomialDecay(0.0, 0.8, 0, 3, frequency=1)
    for step, snapshot in enumerate(pruned):
        sparsity = float(schedule(tf.constant(min(step, 3)))[1]) if step else 0.0
        sizes = [mask.size for mask in snapshot.generator_masks]
        expected = [round((1 - sparsity) * size) for size in sizes]
        assert num_active(snapshot.generator_masks) == expected
        for name in ("generator", "discriminator", "averaged"):
            masks = getattr(snapshot, f"{name}_masks")
            for kernel, mask in zip(getattr(snapshot, f"{name}_kernels"), masks, strict=True):
                assert np.all(kernel[mask == 0] == 0)
        for mask, averaged in zip(snapshot.generator_masks, snapshot.averaged_masks, strict=True):
            np.testing.assert_array_equal(mask, averaged)


def test_pruning_keeps_the_averages_and_the_moments_of_what_it_keeps(pruned):
    """SEMA does not begin anew; second moments go on, those of pruned weights too."""
    for index, mask in enumerate(pruned[4].generator_masks):
        kernel = pruned[4].generator_kernels[index]
        averaged = 0.9 * pruned[3].averaged_kernels[index] + 0.1 * kernel
        np.testing.assert_allclose(pruned[4].averaged_kernels[index], averaged * mask, rtol=1e-5)
    moments = pruned[4].state["generator_optimizer/004"]
    assert moments.shape == pruned[4].generator_kernels[0].shape
    assert np.all(moments[pruned[4].generator_masks[0] == 0] > 0)


@pytest.mark.parametrize(
    ("bounds", "settings", "densities"),
    [
        (DENSER, {}, [0.5, 0.5, 0.55, 0.55, 0.6]),
        (SPARSER, {}, [0.5, 0.5, 0.45, 0.45, 0.4]),
        ((-1e9, 1e9), {}, [0.5] * 5),
        (DENSER, {"max_density": 0.5, "explores_at_max": True}, [0.5] * 5),
    ],
)
def test_adapt_moves_the_density_of_the_discriminator(bounds, settings, densities):
    """From the step on in which the window is full, which here is the second."""
    run = Run(adapt(bounds, **settings), **SMOOTH)
    history = record(run)
    sizes = [mask.size for mask in history[0].discriminator_masks]
    for snapshot, density in zip(history, densities, strict=True):
        assert sum(num_active(snapshot.discriminator_masks)) == round(density * sum(sizes))
        assert num_active(snapshot.generator_masks) == num_active(history[0].generator_masks)
    moved = [
        np.any(new != old)
        for new, old in zip(
            history[2].discriminator_masks, history[1].discriminator_masks, strict=True
        )
    ]
    assert any(moved) == (bounds != (-1e9, 1e9))


def test_a_window_that_is_not_full_decides_nothing():
    settings = adapt(DENSER)
    late = Algorithm(**{**settings.__dict__, "balance_ratio": BalanceRatio(every=2, window=2)})
    history = record(Run(late, **SMOOTH))
    counts = [sum(num_active(snapshot.discriminator_masks)) for snapshot in history]
    assert counts[0] == counts[3] < counts[4]


def test_the_discriminator_grows_where_its_last_gradient_was_largest():
    run = Run(adapt(DENSER), **SMOOTH).advance()
    (former,) = run.snapshot().discriminator_masks
    run.advance()
    (gradient,) = run.steps.explorers["discriminator"].growth_gradients
    num_grown = round(0.55 * former.size) - int(former.sum())
    grown = reference.mark_largest(np.abs(gradient.numpy()), num_grown, former == 0)
    snapshot = run.snapshot()
    np.testing.assert_array_equal(snapshot.discriminator_masks[0], former + grown)
    assert not np.any(snapshot.discriminator_kernels[0][grown > 0])


def hessian_gradients(gan, name, images, step):
    """H g of the kernels by central differences along g, by eager calls of the networks."""
    network, loss = gan.networks[name], non_saturating()
    update = 2 * (step - 1)
    purpose, count = {
        "generator": (Purpose.GENERATOR_UPDATE, step),
        "discriminator": (Purpose.DISCRIMINATOR_UPDATE, update),
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


@pytest.mark.parametrize("name", ["generator", "discriminator"])
def test_gradient_flow_is_scored_by_hessian_gradient_products(name):
    """After step 1: weights w fall out where w (H g) is lowest, g and H on its batch."""
    exploration = Exploration(
        update_interval=1, drop_scores=gradient_flow, drop_fraction=lambda _: 0.25
    )
    settings = {"generator_exploration": None, f"{name}_exploration": exploration}
    run = Run(algorithm(loss=non_saturating(), discriminator_steps=1, **settings), **SMOOTH)
    seen = []
    explore = run.steps.explorers[name].explore

    def listen(amount, seed, products):
        seen.extend(tf.identity(product) for product in products)
        explore(amount, seed, products)

    run.steps.explorers[name].explore = listen
    tf.config.run_functions_eagerly(True)
    try:
        run.steps.run(run._iterator, 0, 1)
    finally:
        tf.config.run_functions_eagerly(False)
    # The masks have moved since; go back to those that were scored, with the weights of then.
    fresh = Run(
        algorithm(loss=non_saturating(), discriminator_steps=1, generator_exploration=None),
        **SMOOTH,
    ).advance()
    expected = hessian_gradients(fresh.gan, name, IMAGES[0], 1)
    for product, by_differences in zip(seen, expected, strict=True):
        scale = np.abs(by_differences).max()
        np.testing.assert_allclose(product, by_differences, atol=0.02 * scale)
        assert scale > 0
    for layer, scored, product, mask in zip(
        masked_layers(run.gan.networks[name]),
        masked_layers(fresh.gan.networks[name]),
        seen,
        fresh.snapshot().__dict__[f"{name}_masks"],
        strict=True,
    ):
        scores = scored.kernel.numpy() * product.numpy()
        num_kept = int(mask.sum()) - int(np.ceil(0.25 * mask.sum()))
        kept = reference.mark_largest(scores, num_kept, mask > 0)
        assert np.all(layer.kernel_mask.numpy() >= kept)


def test_two_replicas_change_the_topology_as_one_does(mirrored, pruned, adapted):
    for settings, expected, networks in [
        (gradual(), pruned, {**SMOOTH, **DENSE}),
        (adapt(DENSER), adapted, SMOOTH),
    ]:
        run = Run(settings, mirrored, **networks)
        for snapshot in expected[1:]:
            run.advance()
            assert_replicas_agree(run)
            assert_same_masks(run.snapshot(), snapshot)
            assert_close(run.state(), snapshot.state, tolerance=1e-3)


def test_xla_changes_the_topology_likewise(adapted):
    run = Run(adapt(DENSER), jit_compile=True, **SMOOTH)
    for snapshot in adapted[1:]:
        run.advance()
        assert_same_masks(run.snapshot(), snapshot)
        assert_close(run.state(), snapshot.state, tolerance=1e-3)


@pytest.mark.parametrize("rules", ["pruning", "adapt"])
def test_a_run_that_was_stopped_ends_like_one_that_was_not(tmp_path, rules):
    """Stopped between measurements that are in one window, and between two updates."""
    made = {"pruning": gradual, "adapt": lambda: adapt(SPARSER)}[rules]()
    names = ("generator_exploration", "discriminator_exploration", "balance_ratio")
    settings = {name: getattr(made, name) for name in names}

    def training(**arguments):
        return tiny_training(
            None, tiny_algorithm(total_steps=5, **settings), checkpoint_every=1, **arguments
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
    sparsities = {n: c.sparsity for n, c in resumed.counts().items()}
    assert sparsities["discriminator"] > 0.3
    last = (tmp_path / "stopped" / "metrics.jsonl").read_text().splitlines()[-1]
    assert f'"discriminator_sparsity": {sparsities["discriminator"]}' in last


def test_the_discriminator_may_be_as_sparse_as_the_generator_and_dense_layers_masked():
    gan = build_gan(generator_sparsity=0.7, discriminator_sparsity=None, mask_dense=True)
    for network, dense in zip(gan.networks.values(), ("l1", "l5"), strict=True):
        layers_ = masked_layers(network)
        assert dense in [layer.name for layer in layers_]
        sizes = [layer.kernel_mask.numpy().size for layer in layers_]
        active = sum(layer.num_active() for layer in layers_)
        assert active == pytest.approx(0.3 * sum(sizes), abs=len(sizes))


def test_dense_layers_of_a_factory_that_does_not_ask_cannot_be_masked():
    with pytest.raises(InputError, match=r"Only with GAN.mask_dense is either called with mask_d"):
        build_gan(**SMOOTH, mask_dense=True)


def test_five_times_the_length_is_five_times_the_steps_with_schedules_over_all():
    exploration = Exploration(update_interval=10)
    base = Algorithm(total_steps=100, generator_exploration=exploration)
    longer = Algorithm(total_steps=100, length=5, generator_exploration=exploration)
    assert longer.total_steps == 500
    assert exploration.num_updates(longer.total_steps) == 49
    assert longer.drop_fraction("generator", 250) == base.drop_fraction("generator", 50)
    with pytest.raises(InputError, match=r"Algorithm\.length must be a positive integer, got 0"):
        Algorithm(total_steps=100, length=0)
