"""The figures of fidelity.md, section 6, from the models and the settings of sections 1 and 2."""

import keras
import pytest
from keras import layers

from stugan_tf.layers.masked import Masked
from stugan_tf.models.biggan import biggan_discriminator, biggan_generator
from stugan_tf.models.sngan import sngan_discriminator, sngan_generator
from stugan_tf.sparsity.criteria import gradient_magnitude, random_scores
from stugan_tf.sparsity.exploration import Exploration
from stugan_tf.sparsity.flops import at_sparsity, layer_costs, total_flops, with_densities
from stugan_tf.sparsity.training_flops import (
    Cost,
    Stretch,
    add_phases,
    as_dense,
    constant_stretch,
    cost_by_sparsity,
    num_dense_gradients,
    stretches_of,
    training_flops,
)
from stugan_tf.training.algorithm import Algorithm

SHAPE = (32, 32, 3)
SNGAN = {"total_steps": 50_048, "batch_size": 64, "generator_batch_size": 128}
SNGAN_TRAINED = Algorithm(**SNGAN, discriminator_steps=5)
SNGAN_COUNTED = Algorithm(**SNGAN, discriminator_steps=4)  # Those of Table 2 seem to be four.
BIGGAN = Algorithm(
    total_steps=125_000, batch_size=50, generator_batch_size=50, discriminator_steps=4
)


@pytest.fixture(scope="module")
def models():
    """The layers of the paper's four networks."""
    return {
        "sngan": (layer_costs(sngan_generator(SHAPE)), layer_costs(sngan_discriminator(SHAPE))),
        "biggan": (
            layer_costs(biggan_generator(SHAPE, 10)),
            layer_costs(biggan_discriminator(SHAPE, 10)),
        ),
    }


def cost(layers_of_network, sparsity):
    return Cost(*total_flops(at_sparsity(layers_of_network, sparsity)))


def spent(networks, sparsities, algorithm, convention):
    costs = (cost(network, s) for network, s in zip(networks, sparsities, strict=True))
    return training_flops([constant_stretch(*costs, algorithm)], algorithm, convention)


def test_a_forward_pass_costs_what_table_2_says(models):
    for name, discriminator in (("sngan", 5.441e8), ("biggan", 2.162e9)):
        costs = [cost(network, 0.0) for network in models[name]]
        # BigGAN's discriminator also has its last dense layer, of 256 weights.
        assert costs[0].dense == pytest.approx(2 * 1_681_129_472, rel=1e-12)
        assert costs[1].dense == pytest.approx(discriminator, rel=5e-4)
        ratios = [cost(models[name][0], s).sparse / costs[0].dense for s in (0.95, 0.9, 0.8)]
        assert ratios == pytest.approx([0.0525, 0.1024, 0.2021], abs=5e-5)


@pytest.mark.parametrize(
    ("model", "algorithm", "convention", "total", "share", "ratios"),
    [
        ("sngan", SNGAN_COUNTED, "updates", 5.32e16, 0.607, [0.230, 0.261, 0.321, 0.152, 0.183]),
        ("sngan", SNGAN_TRAINED, "updates", 5.84e16, None, []),
        ("sngan", SNGAN_TRAINED, "full", 1.81e17, 0.654, [0.209, 0.242, 0.307, 0.141, 0.173]),
        ("biggan", BIGGAN, "updates", 2.25e17, 0.280, [0.377, 0.390, 0.418, 0.233, 0.247]),
        ("biggan", BIGGAN, "full", 5.12e17, 0.287, [0.373, 0.388, 0.416, 0.231, 0.246]),
    ],
)
def test_training_costs_what_fidelity_computed(
    models, model, algorithm, convention, total, share, ratios
):
    dense = spent(models[model], (0.0, 0.0), algorithm, convention)
    assert dense.total == pytest.approx(total, rel=3e-3)
    if share:
        assert dense.generator_share == pytest.approx(share, abs=6e-4)
    sparsities = [(0.95, 0.5), (0.9, 0.5), (0.8, 0.5), (0.95, 0.7), (0.9, 0.7)][: len(ratios)]
    found = [
        spent(models[model], pair, algorithm, convention).total / dense.total for pair in sparsities
    ]
    assert found == pytest.approx(ratios, abs=6e-4)


@pytest.mark.parametrize(
    ("model", "algorithm", "convention", "ratio"),
    [
        ("sngan", SNGAN_COUNTED, "updates", 0.243),
        ("sngan", SNGAN_TRAINED, "full", 0.238),
        ("biggan", BIGGAN, "updates", 0.275),
        ("biggan", BIGGAN, "full", 0.274),
    ],
)
def test_the_last_column_of_table_2(models, model, algorithm, convention, ratio):
    dense = spent(models[model], (0.0, 0.0), algorithm, convention).total
    found = spent(models[model], (0.8, 0.7), algorithm, convention).total
    assert found / dense == pytest.approx(ratio, abs=6e-4)


@pytest.mark.parametrize(
    ("sparsity", "update_interval", "extra"),
    [(0.95, 1000, 0.006), (0.95, 500, 0.012), (0.8, 1000, 0.0013), (0.8, 500, 0.0026)],
)
def test_dense_gradients_of_topology_updates_cost_as_much_as_rigl_says(
    models, sparsity, update_interval, extra
):
    """(f_D - f_S) / (3 f_S (Delta T + 1)) of the sparse generator."""
    generator, discriminator = models["sngan"]
    costs = cost(generator, sparsity), cost(discriminator, 0.5)
    settings = {**SNGAN, "discriminator_steps": 5}
    explores = Algorithm(**settings, generator_exploration=Exploration(update_interval))
    with_growth, without = (
        training_flops([constant_stretch(*costs, algorithm)], algorithm, "updates")
        for algorithm in (explores, Algorithm(**settings))
    )
    assert with_growth.discriminator == without.discriminator
    assert with_growth.generator / without.generator - 1 == pytest.approx(extra, rel=0.1)


def test_phases_add_up(models):
    """An honest count of prune-and-finetune: the discriminator stays dense in both phases."""
    generator, discriminator = models["sngan"]
    dense = spent((generator, discriminator), (0.0, 0.0), SNGAN_COUNTED, "updates")
    pruned = [0.95, 0.0]
    fine_tuning = spent((generator, discriminator), pruned, SNGAN_COUNTED, "updates")
    assert add_phases([dense, fine_tuning]).total / dense.total == pytest.approx(1.42, abs=6e-3)
    # Tickets as Table 2 counts them, by the generator's density alone.
    uniform = {layer.name: 1.0 for layer in generator if layer.masked}
    for rounds, expected in ((7, 4.161), (10, 4.571), (9, 4.463)):
        phases = []
        for k in range(rounds + 1):
            left = with_densities(generator, {name: 0.8**k for name in uniform})
            masked = [layer for layer in left if layer.masked]
            phases.append(sum(layer.flops for layer in masked))
        assert sum(phases) / phases[0] == pytest.approx(expected, abs=6e-4)


def tiny():
    latents = keras.Input((4, 4, 2))
    outputs = Masked(layers.Conv2D(4, 3, padding="same", name="first"))(latents)
    outputs = Masked(layers.Conv2D(1, 1, name="second"))(outputs)
    outputs = layers.Dense(2, name="third")(outputs)
    return layer_costs(keras.Model(latents, outputs))


# 16 positions: 72, 4 and 2 weights.
TINY_DENSE = 2 * 16 * (72 + 4 + 2)


def test_a_step_by_hand():
    algorithm = Algorithm(
        total_steps=3, batch_size=2, generator_batch_size=5, discriminator_steps=7
    )
    stretches = [Stretch(2, Cost(10, 100), Cost(1, 8)), Stretch(1, Cost(20, 100), Cost(2, 8), 1, 1)]
    paper = training_flops(stretches, algorithm, "updates")
    assert paper.generator == 3 * 2 * (2 * 10 + 20) + 2 * (100 - 20)
    assert paper.discriminator == 3 * 7 * 2 * (2 * 1 + 2) + 2 * (8 - 2)
    full = training_flops(stretches, algorithm, "full")
    assert full.generator == (7 * 2 + 3 * 5) * (2 * 10 + 20) + 5 * (100 - 20)
    assert full.discriminator == 3 * (7 * 4 + 5) * (2 * 1 + 2) + 4 * (8 - 2)
    assert full.total == full.generator + full.discriminator
    dense = training_flops(as_dense(stretches), algorithm, "full")
    assert dense == (3 * 100 * (7 * 2 + 3 * 5), 3 * 8 * 3 * (7 * 4 + 5))


def test_costs_at_a_sparsity_by_hand():
    """ERK of kernels (3, 3, 2, 4) and (1, 1, 4, 1): the small one stays dense."""
    costs = {c.name: c for c in at_sparsity(tiny(), 0.5)}
    first = next(c for name, c in costs.items() if c.size == 72)
    assert [c.active for c in costs.values()] == [34, 4, 2]
    assert first.density == pytest.approx(34 / 72)
    halves = with_densities(tiny(), {first.name: 0.5})
    assert [c.active for c in halves] == [36, 4, 2]


def test_gradual_pruning_is_integrated_over_its_trajectory():
    generator, discriminator = at_sparsity(tiny(), 0.5), tiny()
    cost_at = cost_by_sparsity({"generator": (generator, 0.5), "discriminator": (discriminator, 0)})
    records = [
        {"step": 10, "generator_sparsity": 0.0, "discriminator_sparsity": 0.0},
        {"step": 20, "generator_sparsity": 0.25, "discriminator_sparsity": 0.0},
        {"step": 40, "generator_sparsity": 0.5, "discriminator_sparsity": 0.5},
    ]
    algorithm = Algorithm(total_steps=40)
    found = stretches_of(records, cost_at, algorithm)
    assert [stretch.steps for stretch in found] == [10, 10, 20]
    at_half = 2 * 16 * (34 + 4 + 2)
    assert [stretch.generator.sparse for stretch in found] == [
        TINY_DENSE,
        (TINY_DENSE + at_half) / 2,
        at_half,
    ]
    # Nothing is known of its layers: the masked ones count alike.
    assert [stretch.discriminator.sparse for stretch in found] == [
        TINY_DENSE,
        TINY_DENSE,
        2 * 16 * (38 + 2),
    ]


def test_a_trajectory_of_layers_is_counted_as_it_is():
    costs = tiny()
    names = [c.name for c in costs]
    records = [{"step": 1, "densities": {}}, {"step": 3, "densities": {names[0]: 0.25}}]

    def cost_at(name, record):
        layers_then = (
            costs if name == "discriminator" else with_densities(costs, record["densities"])
        )
        return Cost(*total_flops(layers_then))

    found = stretches_of(records, cost_at, Algorithm(total_steps=3))
    spent_there = training_flops(found, Algorithm(total_steps=3), "updates")
    quarter = 2 * 16 * (18 + 4 + 2)
    assert spent_there.generator == 64 * 3 * (TINY_DENSE + 2 * quarter)


def test_dense_gradients_are_those_of_updates_that_grow_by_gradient():
    settings = {"update_interval": 10, "grow_scores": gradient_magnitude}
    assert num_dense_gradients(Exploration(**settings), 0, 40, 40) == 3  # Not the last step.
    assert num_dense_gradients(Exploration(**settings), 10, 20, 40) == 1
    assert num_dense_gradients(Exploration(**settings, gradient_momentum=0.9), 10, 25, 40) == 15
    assert num_dense_gradients(Exploration(10, grow_scores=random_scores), 0, 40, 40) == 0
    assert num_dense_gradients(None, 0, 40, 40) == 0


def test_a_longer_training_costs_in_proportion():
    networks = (tiny(), tiny())
    once, five_times = (
        spent(networks, (0.5, 0.25), Algorithm(total_steps=steps), "full").total
        for steps in (100, 500)
    )
    assert five_times == 5 * once
