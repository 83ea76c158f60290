"""GAN Tickets: what a round prunes, what it rewinds, and runs that are killed."""

import itertools
import json

import numpy as np
import pytest
import tensorflow as tf

from stugan_tf.errors import InputError
from stugan_tf.layers.masked import masked_layers
from stugan_tf.methods.phases import Parent
from stugan_tf.methods.tickets import tickets
from stugan_tf.runs.checkpoints import Checkpoints
from stugan_tf.sparsity.magnitude_pruning import prune_remaining
from tests.helpers.small import (
    STEPS,
    KilledError,
    assert_same_phase,
    assert_same_state,
    killed,
    manifest,
    opening,
    run_through,
    small_training,
    states,
    variable_names,
)

BOTH = {"generator": 0.36, "discriminator": 0.36}  # Two rounds.
NAMES = ("dense", "round_01", "round_02")


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """The workdir of two rounds on both networks."""
    return run_through(tickets(BOTH), tmp_path_factory)


def names_of(training, network):
    """What checkpoints call kernels, masks and what follows from them."""
    layers = masked_layers(training.gan.networks[network])
    averaged = masked_layers(training.gan.averaged.model)
    kernels = variable_names(training, lambda _: [layer.kernel.value for layer in layers])
    masks = variable_names(training, lambda _: [layer.kernel_mask.value for layer in layers])
    explorer = training.players[network].explorer
    follow = variable_names(training, lambda _: explorer.ever_active)
    if network == "generator":
        follow += variable_names(training, lambda _: training.gan.averaged.seen)
        follow += variable_names(training, lambda _: [y.kernel_mask.value for y in averaged])
    return kernels, masks, follow


@pytest.mark.ci
def test_each_round_prunes_the_trained_weights_and_rewinds_the_rest(uninterrupted, training):
    beginning = states(uninterrupted / "dense")[0]
    for before, after in itertools.pairwise(NAMES):
        trained = states(uninterrupted / before)[STEPS]
        begun = states(uninterrupted / after)[0]
        changed = []
        for network in BOTH:
            kernels, masks, follow = names_of(training, network)
            flat = np.concatenate([np.abs(trained[kernel]).ravel() for kernel in kernels])
            former = np.concatenate([trained[mask].ravel() for mask in masks])
            order = np.argsort(-np.where(former > 0, flat, -1), kind="stable")
            left = int(former.sum()) - round(0.2 * int(former.sum()))
            expected = np.zeros(flat.size)
            expected[order[:left]] = 1
            found = np.concatenate([begun[mask].ravel() for mask in masks])
            np.testing.assert_array_equal(found, expected)
            for kernel, mask in zip(kernels, masks, strict=True):
                np.testing.assert_array_equal(begun[kernel], beginning[kernel] * begun[mask])
            for index, name in enumerate(follow):
                np.testing.assert_array_equal(begun[name], begun[masks[index % len(masks)]])
            changed += kernels + masks + follow
        averaged = variable_names(
            training,
            lambda _: [layer.kernel.value for layer in masked_layers(training.gan.averaged.model)],
        )
        kernels, _, _ = names_of(training, "generator")
        for average, kernel in zip(averaged, kernels, strict=True):
            np.testing.assert_array_equal(begun[average], begun[kernel])
        # Other parameters, statistics, both optimizers: as they were before the first step.
        assert_same_state(begun, beginning, but_for=changed + averaged)


@pytest.mark.ci
def test_what_is_left_after_k_rounds_is_08_to_the_k(uninterrupted):
    phases = json.loads((uninterrupted / "phases.json").read_text())["phases"]
    assert [phase["name"] for phase in phases] == list(NAMES)
    for network, size in {"generator": 144, "discriminator": 72 + 288}.items():
        for number, name in enumerate(NAMES):
            weights = manifest(uninterrupted / name)["weights"][network]
            assert weights["maskable"] == size
            assert weights["active"] == pytest.approx(size * 0.8**number, abs=1)
            assert phases[number]["sparsity"][network] == weights["sparsity"]


@pytest.mark.ci
def test_a_discriminator_of_sparsity_0_is_only_reset(uninterrupted):
    method = tickets({"generator": 0.2, "discriminator": 0.0})
    dense = uninterrupted / "dense"
    method.phases[1].begin(fresh := small_training(), Parent(dense, STEPS, dense))
    beginning = states(dense)[0]
    counts = fresh.counts()
    assert counts["discriminator"].active == counts["discriminator"].maskable
    assert counts["generator"].active == 144 - round(0.2 * 144)
    state = {name: variable.numpy() for name, variable in fresh.state().items()}
    reset = [variable.value for variable in fresh.gan.discriminator.variables]
    for name in variable_names(fresh, lambda _: reset):
        np.testing.assert_array_equal(state[name], beginning[name])


@pytest.mark.slow
def test_a_run_killed_inside_and_between_rounds_ends_like_an_uninterrupted_one(
    uninterrupted, tmp_path, monkeypatch
):
    method = tickets(BOTH)

    def start(**settings):
        method.run(tmp_path, opening(method, **settings))

    with pytest.raises(KilledError):
        start(fails_at=["round_01"])
    with killed(monkeypatch, Checkpoints, "restore"):  # Amidst the pruning of the first round.
        start(fails_at=["dense"])
    with killed(monkeypatch, Checkpoints, "save", lambda _, step, *rest: step == 2):
        start(fails_at=["dense"])
    start(fails_at=["dense"])
    for name in NAMES:
        assert_same_phase(tmp_path / name, uninterrupted / name)


@pytest.mark.ci
def test_rewinding_goes_to_the_weights_of_the_dense_start_whatever_would_be_drawn_now(
    uninterrupted,
):
    other = small_training(seed=1)
    dense = uninterrupted / "dense"
    tickets(BOTH).phases[1].begin(other, Parent(dense, STEPS, dense))
    expected = states(uninterrupted / "round_01")[0]
    for name, variable in other.state().items():
        np.testing.assert_array_equal(variable, expected[name], err_msg=name)


@pytest.mark.ci
def test_a_damaged_checkpoint_is_told_with_the_way_out(uninterrupted, tmp_path, training):
    folder = tmp_path / "dense"
    source = uninterrupted / "dense" / "checkpoints" / f"step_{STEPS:08d}"
    target = folder / "checkpoints" / source.name
    target.mkdir(parents=True)
    for path in source.iterdir():
        (target / path.name).write_bytes(path.read_bytes()[: 100 if "data" in path.name else None])
    with pytest.raises(InputError, match=r"damaged.*remove it and all later.*trains dense again"):
        Parent(folder, STEPS, folder).restore(training)


@pytest.mark.parametrize(
    ("sparsity", "rounds"), [(0.2, 1), (0.7903, 7), (0.8, 7), (0.8658, 9), (0.87, 9), (0.8926, 10)]
)
def test_rounds_follow_from_the_sparsity(sparsity, rounds):
    """fidelity.md, section 5: 0.8**7 = 20.97 %, 0.8**9 = 13.42 %, 0.8**10 = 10.74 %."""
    phases = tickets({"generator": sparsity, "discriminator": 0.0}).phases
    assert [phase.name for phase in phases[1:]] == [f"round_{k + 1:02d}" for k in range(rounds)]
    assert f"{1 - 0.8**rounds:.2%}" in phases[-1].about


def test_counts_of_the_papers_generator_are_within_rounding():
    size = 3_742_464
    mask, left = tf.ones([size]), []
    kernel = tf.random.stateless_normal([size], seed=(0, 1))
    for _ in range(3):
        (mask,) = prune_remaining([kernel], [mask], 0.2)
        left.append(int(tf.reduce_sum(mask)))
    assert left == [size - 748_493, 2_993_971 - 598_794, 2_395_177 - 479_035]


@pytest.mark.parametrize(
    ("sparsities", "settings", "told"),
    [
        ({"generator": 0.0}, {}, "GAN.generator_sparsity is 0.*such as 0.8926 for 10 rounds"),
        ({"generator": None}, {}, r"GAN.generator_sparsity must be in \[0, 1\), got None"),
        ({}, {"rounds": 3}, "reached by 2 .* of 20%, but 3 are configured, which reach 0.4880"),
        (
            {"discriminator": 0.5},
            {},
            "discriminator_sparsity = 0.5 is reached by 3 .* 2 are configured",
        ),
        ({}, {"rounds": 0}, "tickets.rounds must be a positive integer, got 0"),
        ({}, {"rate": 0.0}, "tickets.rate is 0"),
        ({}, {"rate": 20}, r"tickets.rate must be in \[0, 1\), got 20"),
    ],
)
def test_wrong_settings_are_told_before_anything_is_built(sparsities, settings, told):
    with pytest.raises(InputError, match=told):
        tickets(BOTH | sparsities, **settings)
