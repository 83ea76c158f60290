"""Prune and fine-tune: what pruning changes and what it leaves, and runs that are killed."""

import json
import math

import numpy as np
import pytest
import tensorflow as tf

from stugan_tf.errors import InputError
from stugan_tf.layers.masked import masked_layers
from stugan_tf.methods.phases import Parent
from stugan_tf.methods.prune_and_finetune import prune_and_finetune
from stugan_tf.runs import events, loop
from stugan_tf.runs.checkpoints import Checkpoints
from stugan_tf.runs.phases import Overview
from stugan_tf.sparsity.magnitude_pruning import prune_jointly, prune_uniformly
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

SPARSITIES = {"generator": 0.7, "discriminator": 0.4}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """The workdir of a method that was never killed; both networks are pruned."""
    return run_through(prune_and_finetune(SPARSITIES), tmp_path_factory)


def layers_by_name(training, networks):
    """Per network, (kernel, mask, averaged kernel or None, seen or None) of its masked layers."""
    gan = training.gan
    averaged = masked_layers(gan.averaged.model)
    found = {}
    for name in networks:
        layers = masked_layers(gan.networks[name])
        is_averaged = name == "generator"
        found[name] = {
            "kernels": variable_names(training, lambda _, of=layers: [y.kernel.value for y in of]),
            "masks": variable_names(
                training, lambda _, of=layers: [y.kernel_mask.value for y in of]
            ),
            "averages": variable_names(training, lambda _: [y.kernel.value for y in averaged])
            if is_averaged
            else [],
            "copied masks": variable_names(
                training, lambda _: [y.kernel_mask.value for y in averaged]
            )
            if is_averaged
            else [],
            "seen": variable_names(training, lambda _: gan.averaged.seen) if is_averaged else [],
            "ever active": variable_names(
                training, lambda _, of=name: training.players[of].explorer.ever_active
            ),
        }
    return found


def kept_globally(kernels, sparsity):
    """Masks of the largest weights by sorting."""
    flat = np.concatenate([kernel.ravel() for kernel in kernels])
    kept = flat.size * round(100 * (1 - sparsity)) // 100
    marks = np.zeros(flat.size, np.float32)
    marks[np.argsort(-np.abs(flat), kind="stable")[:kept]] = 1
    parts = np.split(marks, np.cumsum([kernel.size for kernel in kernels])[:-1])
    return [part.reshape(kernel.shape) for part, kernel in zip(parts, kernels, strict=True)]


@pytest.mark.ci
def test_pruning_puts_masks_on_the_dense_checkpoint_and_keeps_all_else(uninterrupted, training):
    dense = states(uninterrupted / "dense")[STEPS]
    pruned = states(uninterrupted / "finetune")[0]
    changed = []
    for name, names in layers_by_name(training, SPARSITIES).items():
        masks = kept_globally([dense[kernel] for kernel in names["kernels"]], SPARSITIES[name])
        for kind in ("masks", "copied masks", "ever active"):
            for mask, variable in zip(masks, names[kind], strict=bool(names[kind])):
                np.testing.assert_array_equal(pruned[variable], mask, err_msg=variable)
        for mask, variable in zip(masks, names["seen"], strict=bool(names["seen"])):
            np.testing.assert_array_equal(pruned[variable], mask > 0)
        for kind in ("kernels", "averages"):
            for mask, variable in zip(masks, names[kind], strict=bool(names[kind])):
                np.testing.assert_array_equal(pruned[variable], dense[variable] * mask)
                assert np.any(pruned[variable])
        changed += [variable for kind in names.values() for variable in kind]
    # Adam's moments and clock, statistics, singular vectors, biases and their averages.
    assert_same_state(pruned, dense, but_for=changed)


@pytest.mark.ci
def test_masks_stay_and_the_rest_trains_on(uninterrupted, training):
    first, *_, last = states(uninterrupted / "finetune").values()
    for name, names in layers_by_name(training, SPARSITIES).items():
        size = sum(first[mask].size for mask in names["masks"])
        active = sum(int(first[mask].sum()) for mask in names["masks"])
        assert active == math.floor(size * (10 - 10 * SPARSITIES[name]) / 10 + 1e-9)
        for kernel, mask in zip(names["kernels"], names["masks"], strict=True):
            np.testing.assert_array_equal(first[mask], last[mask])
            assert not np.any(last[kernel][first[mask] == 0])
            assert np.any(last[kernel] != first[kernel])
        for average, mask in zip(names["averages"], names["masks"], strict=bool(names["averages"])):
            assert not np.any(last[average][first[mask] == 0])


@pytest.mark.ci
def test_lineage_and_overview_say_what_came_of_what(uninterrupted):
    beginnings = [manifest(uninterrupted / name)["phase"] for name in ("dense", "finetune")]
    assert [(b["name"], b["number"]) for b in beginnings] == [("dense", 1), ("finetune", 2)]
    assert beginnings[0]["parent"] is None
    digest = Checkpoints(uninterrupted / "dense" / "checkpoints", {}).digest(STEPS)
    assert beginnings[1]["parent"] == {"folder": "dense", "step": STEPS, "sha256": digest}
    assert beginnings[1]["pruning"] == "prune_jointly"
    weights = manifest(uninterrupted / "finetune")["weights"]
    phases = json.loads((uninterrupted / "phases.json").read_text())["phases"]
    assert [(p["name"], p["state"], p["steps"]) for p in phases] == [
        ("dense", "finished", STEPS),
        ("finetune", "finished", STEPS),
    ]
    for name, sparsity in SPARSITIES.items():
        assert weights[name]["sparsity"] == pytest.approx(sparsity, abs=1e-2)
        assert phases[1]["sparsity"][name] == weights[name]["sparsity"]
        assert phases[0]["sparsity"][name] == 0


@pytest.mark.ci
def test_a_run_killed_inside_and_between_phases_ends_like_an_uninterrupted_one(
    uninterrupted, tmp_path, monkeypatch
):
    method = prune_and_finetune(SPARSITIES)

    def start(**settings):
        method.run(tmp_path, opening(method, **settings))

    def saved(wanted):
        return lambda checkpoints, step, *_: step == wanted

    with killed(monkeypatch, loop, "record_end"):
        start()  # At the end of the dense training, which the overview has not heard of.
    with pytest.raises(KilledError):
        start(fails_at=["finetune"])  # Between the phases.
    with killed(monkeypatch, loop.Training, "assign_masks"):
        start()  # Pruned, but not saved.
    assert not states(tmp_path / "finetune")
    with killed(monkeypatch, Checkpoints, "save", saved(0)):
        start()
    with killed(monkeypatch, events.Health, "act", lambda _, state: state.step == 4):
        start()
    start(fails_at=["dense"])
    for name in ("dense", "finetune"):
        assert_same_phase(tmp_path / name, uninterrupted / name)
    # A run that is over is looked at once more, and stays as it is.
    start(fails_at=["dense"])
    assert_same_phase(tmp_path / "finetune", uninterrupted / "finetune")


def restored(training, workdir, method):
    """Begins the fine-tuning in a training; returns the kernels of the checkpoint."""
    parent = Parent(workdir / "dense", STEPS, workdir / "dense")
    parent.restore(training)
    kernels = [layer.kernel.numpy() for layer in masked_layers(training.gan.generator)]
    facts = method.phases[1].begin(training, parent)
    return kernels, facts


@pytest.mark.ci
@pytest.mark.parametrize("pruning", [prune_uniformly, prune_jointly])
def test_pruning_of_the_generator_alone_leaves_the_discriminator_dense(
    pruning, uninterrupted, training
):
    sparsities = {"generator": 0.9, "discriminator": 0.0}
    kernels, facts = restored(training, uninterrupted, prune_and_finetune(sparsities, pruning))
    masks = [layer.kernel_mask.numpy() for layer in masked_layers(training.gan.generator)]
    for mask, expected in zip(masks, pruning(kernels, 0.9), strict=True):
        np.testing.assert_array_equal(mask, expected)
    assert training.counts()["discriminator"].sparsity == 0
    assert facts == {"pruning": pruning.__name__, "sparsities": {"generator": 0.9}}


@pytest.mark.ci
def test_every_replica_is_pruned(uninterrupted, mirrored):
    training = small_training(mirrored)
    with mirrored.scope():
        kernels, _ = restored(training, uninterrupted, prune_and_finetune(SPARSITIES))
    expected = kept_globally(kernels, SPARSITIES["generator"])
    for layer, kernel, mask in zip(
        masked_layers(training.gan.generator), kernels, expected, strict=True
    ):
        for copy in mirrored.experimental_local_results(layer.kernel.value):
            np.testing.assert_array_equal(copy, kernel * mask)


@pytest.mark.ci
def test_it_starts_from_the_best_checkpoint_if_asked_to(uninterrupted, tmp_path):
    """The overview says which was the best when the dense training ended."""
    method = prune_and_finetune(SPARSITIES, start_from="best")
    overview = Overview(tmp_path, method.phases)
    overview.note(tmp_path, "dense", folder=uninterrupted / "dense", state="finished")
    overview.note(tmp_path, "dense", latest=STEPS, best=2)
    (uninterrupted / "dense" / "config.gin").touch()
    assert method.parent(2, method.phases[1], overview, "").step == 2
    assert overview.is_finished("dense")
    overview.note(tmp_path, "dense", best=3)  # It was removed since.
    assert not overview.is_finished("dense")
    overview.note(tmp_path, "dense", best=None)
    with pytest.raises(InputError, match=r"none is the best.*start_from = 'latest'"):
        method.parent(2, method.phases[1], overview, "")


@pytest.mark.parametrize(
    ("sparsities", "settings", "told"),
    [
        ({"generator": 0}, {}, "GAN.generator_sparsity is 0.*such as 0.9"),
        ({"generator": None}, {}, r"GAN.generator_sparsity must be in \[0, 1\), got None"),
        ({"discriminator": 50}, {}, r"GAN.discriminator_sparsity must be in \[0, 1\), got 50"),
        ({}, {"start_from": "first"}, "start_from must be one of latest, best, got 'first'"),
        ({}, {"pruning": "global"}, "prune_and_finetune.pruning must be a function, got 'global'"),
    ],
)
def test_wrong_settings_are_told_before_anything_is_built(sparsities, settings, told):
    with pytest.raises(InputError, match=told):
        prune_and_finetune(SPARSITIES | sparsities, **settings)


def test_a_best_checkpoint_without_scores_is_refused_before_the_dense_training(tmp_path):
    method = prune_and_finetune(SPARSITIES, start_from="best")
    with pytest.raises(InputError, match=r"none is marked.*train.best_by"):
        method.run(tmp_path / "run", opening(method))
    assert not (tmp_path / "run").exists()


@pytest.mark.ci
def test_a_pretraining_of_another_configuration_is_refused(uninterrupted, tmp_path):
    parent = Parent(uninterrupted / "dense", STEPS, uninterrupted / "dense")
    with pytest.raises(InputError, match=r"(?s)another configuration.*\+ train.seed = 1"):
        parent.check_configuration("train.seed = 1")
    parent.check_configuration("train.seed = 1", apart_from=["train.seed"])
    method = prune_and_finetune(SPARSITIES)
    with pytest.raises(InputError, match="belongs to another configuration"):
        method.run(uninterrupted, opening(method, config="train.seed = 1"))


@pytest.mark.ci
def test_a_layer_that_loses_all_weights_is_warned_of(uninterrupted, training, caplog):
    layers = masked_layers(training.gan.generator)

    def pruning(kernels, sparsity):
        del sparsity
        first, *others = kernels
        return [tf.zeros(first.shape), *(tf.ones(kernel.shape) for kernel in others)]

    restored(training, uninterrupted, prune_and_finetune({"generator": 0.5}, pruning))
    assert f"all weights of {layers[0].name} in the generator" in caplog.text


# Last, because what is compiled after functions were run untraced rounds in another way.
@pytest.mark.ci
@pytest.mark.usefixtures("untraced")
def test_the_average_goes_on_though_steps_are_counted_again(training, tmp_path_factory):
    """`average_start` is a step of the whole method: it has passed when fine-tuning begins."""
    settings = {"algorithm": {"average_start": 3}}
    workdir = run_through(prune_and_finetune(SPARSITIES), tmp_path_factory, **settings)
    names = layers_by_name(training, SPARSITIES)["generator"]
    states_of = {name: states(workdir / name) for name in ("dense", "finetune")}
    for kernel, average in zip(names["kernels"], names["averages"], strict=True):
        started = states_of["dense"][2]
        np.testing.assert_array_equal(started[average], started[kernel])
        goes_on = states_of["finetune"][2]
        assert np.any(goes_on[average] != goes_on[kernel])
