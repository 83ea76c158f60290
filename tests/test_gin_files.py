"""The files in gin/ are whole: base files build what they say, also followed by each method."""

import pathlib

import gin
import pytest
import tensorflow as tf

from stugan_tf import (
    config,
    models,  # noqa: F401 - registers them with gin, which a parsed file forbids
)
from stugan_tf.data import data
from stugan_tf.evaluation import evaluator  # noqa: F401 - the same
from stugan_tf.layers.masked import masked_layers
from stugan_tf.methods.method import chosen_method
from stugan_tf.runs.loop import Training
from stugan_tf.runs.plan import describe
from stugan_tf.sparsity.density_adjustment import DensityAdjustment
from stugan_tf.sparsity.exploration import Exploration
from stugan_tf.sparsity.pruning import GradualPruning
from stugan_tf.training.algorithm import Algorithm, longer
from tests.helpers.params import first_by_default

GIN = pathlib.Path(__file__).parents[1] / "gin"
METHODS = sorted(path.stem for path in (GIN / "methods").glob("*.gin"))
CIFAR = ["biggan_cifar10", "biggan_cifar10_small"]
IMAGENET = ["biggan_imagenet", "biggan_imagenet_small_dense"]


@pytest.fixture(autouse=True)
def _clean_configuration():
    yield
    config.parse_gin()


def parse(base, *methods, bindings=()):
    files = [GIN / f"{base}.gin", *(GIN / "methods" / f"{method}.gin" for method in methods)]
    config.parse_gin(files, bindings)


def tiny(width, size):
    """The same networks, narrow, of data that is there."""
    return [
        "data.source = @digits()",
        f"digits.image_size = {size}",
        f"biggan_generator.width = {width}",
        f"biggan_discriminator.width = {width}",
    ]


def build():
    """The training of the first phase."""
    method = chosen_method(config.value_of)
    with config.part(method.phases[0].settings):
        training = Training(data(), tf.distribute.OneDeviceStrategy("CPU:0"))
        config.check_all_used()
        method.check(training)
    return training


# What a method makes of the topologies of generator and discriminator; `itop` adds to another one.
RULES = {
    "adapt_relaxed": (Exploration, DensityAdjustment),
    "adapt_strict": (Exploration, DensityAdjustment),
    "dense": (None, None),
    "explore_d": (None, Exploration),
    "explore_gd": (Exploration, Exploration),
    "gmp": (GradualPruning, None),
    "gmp_gd": (GradualPruning, GradualPruning),
    "itop": (Exploration, None),
    "momentum": (Exploration, None),
    "sdst_balance": (Exploration, None),
    "sdst_strong": (Exploration, None),
    "set": (Exploration, None),
    "static": (None, None),
    "static_balance": (None, None),
    "static_strong": (None, None),
    "stu": (Exploration, None),
    # Of their first phase, which is dense, and later ones.
    "prune_and_finetune_gd": (None, None),
    "prune_and_finetune_global": (None, None),
    "prune_and_finetune_uniform": (None, None),
    "tickets": (None, None),
    "tickets_gd": (None, None),
}
# Sparsities where they are not those of the base file.
BALANCED, STRONG = (0.95, 0.95), (0.95, 0.0)
SPARSITIES = {
    "adapt_relaxed": BALANCED,
    "adapt_strict": BALANCED,
    "dense": (0.0, 0.0),
    "gmp": (0.0, 0.0),
    "gmp_gd": (0.0, 0.0),
    "sdst_balance": BALANCED,
    "sdst_strong": STRONG,
    "static_balance": BALANCED,
    "static_strong": STRONG,
    "prune_and_finetune_gd": (0.0, 0.0),
    "prune_and_finetune_global": (0.0, 0.0),
    "prune_and_finetune_uniform": (0.0, 0.0),
    "tickets": (0.0, 0.0),
    "tickets_gd": (0.0, 0.0),
}


def kinds(algorithm):
    return tuple(rule and type(rule) for rule in algorithm.topology_rules.values())


# One of each kind: an exploration, a method of several phases, one that masks dense layers.
FIRST = ("stu", "prune_and_finetune_uniform", "adapt_strict")


@pytest.mark.parametrize(
    "method", first_by_default(*FIRST, *sorted({*METHODS} - {*FIRST}), in_ci=len(FIRST) - 1)
)
def test_every_method_follows_biggan_on_cifar(method):
    parse("biggan_cifar10", method, bindings=tiny(2, 32))
    training = build()
    assert kinds(training.algorithm) == RULES[method]
    sparsities = [counts.sparsity for counts in training.counts().values()]
    assert sparsities == pytest.approx(SPARSITIES.get(method, (0.95, 0.5)), abs=0.02)
    masks_dense = method.startswith(("adapt", "sdst", "static_"))
    names = [layer.name for layer in masked_layers(training.gan.generator)]
    assert ("linear" in names) == masks_dense
    describe(training)


@pytest.mark.parametrize("base", [*CIFAR, *IMAGENET])
@pytest.mark.parametrize("method", METHODS)
def test_every_method_sets_the_algorithm_after_every_base_file(base, method):
    parse(base)
    total = Algorithm().total_steps
    parse(base, *(["stu"] if method == "itop" else []), method)
    algorithm = longer() if method == "itop" else Algorithm()
    assert kinds(algorithm) == RULES[method]
    assert algorithm.total_steps == (5 if method == "itop" else 1) * total
    for name, rule in algorithm.topology_rules.items():
        assert rule is None or rule.num_updates(total) > 0, name
    average = gin.query_parameter("GAN.average").configurable.wrapped
    of_adapt = method.startswith(("adapt", "sdst", "static_"))
    expected = "ema" if method == "dense" else "of_parameters" if of_adapt else "sema"
    assert average.__name__ == expected


def test_adapt_is_that_of_its_scripts():
    parse("sngan_cifar10", "adapt_strict")
    algorithm = Algorithm()
    generator, discriminator = algorithm.topology_rules.values()
    assert (generator.update_interval, discriminator.update_interval) == (500, 2000)
    assert (discriminator.low, discriminator.high) == (0.45, 0.55)
    assert (discriminator.increment, discriminator.min_density) == (0.05, 0.05)
    assert (discriminator.max_density, discriminator.explores_at_max) == (0.5, True)
    assert generator.update.__name__ == "prune_and_regrow_globally"
    assert (algorithm.balance_ratio.every, algorithm.balance_ratio.window) == (10, 100)
    parse("sngan_cifar10", "adapt_relaxed")
    relaxed = Algorithm().discriminator_exploration
    assert (relaxed.update_interval, relaxed.max_density, relaxed.explores_at_max) == (
        1000,
        1.0,
        False,
    )


def test_a_gradual_pruning_ends_at_the_sparsities_of_its_file():
    parse("sngan_cifar10", "gmp_gd")
    algorithm = Algorithm()
    total = algorithm.total_steps
    ends = [rule.sparsity_after(total, total) for rule in algorithm.topology_rules.values()]
    assert ends == pytest.approx([0.95, 0.5])


BASES = sorted(
    path.relative_to(GIN).with_suffix("").as_posix()
    for path in (*GIN.glob("*.gin"), *GIN.glob("images/*.gin"))
    if "GAN.generator = " in path.read_text() or "include" in path.read_text()
)


@pytest.mark.parametrize("base", BASES)
def test_every_base_file_has_scores_without_a_download_and_another_network_replaces_it(base):
    def chosen(name):
        return gin.query_parameter(name).configurable.name

    parse(base)
    assert chosen("train.evaluator") == "if_installed"
    assert chosen("if_installed.evaluator") == "Evaluator"
    of_digits = base == "quickstart"
    assert chosen("Evaluator.extractor") == (
        "digits_classifier" if of_digits else "efficientnet_lite0"
    )
    assert gin.query_parameter("train.best_by") == "fid"
    for name in ("inception", "paper", "saved_model"):
        config.parse_gin([GIN / f"{base}.gin", GIN / "evaluation" / f"{name}.gin"])
        assert chosen("train.evaluator") == "Evaluator"
        assert chosen("Evaluator.extractor") != "efficientnet_lite0"


@pytest.mark.parametrize("family", ["sngan", "biggan"])
def test_small_dense_networks_are_dense_and_half_as_wide(family):
    def widths():
        return [
            gin.query_parameter(f"{family}_{network}.width")
            for network in ("generator", "discriminator")
        ]

    parse(f"{family}_cifar10")
    wide = widths()
    parse(f"{family}_cifar10_small_dense")
    assert [2 * width for width in widths()] == wide
    assert gin.query_parameter("GAN.generator_sparsity") == 0
    assert kinds(Algorithm()) == (None, None)


@pytest.mark.ci
@pytest.mark.parametrize("base", first_by_default(*IMAGENET, in_ci=0))
def test_biggan_for_imagenet_is_built_as_its_file_says(base):
    parse(base, bindings=tiny(8, 128))
    gan = build().gan
    assert float(gan.generator_optimizer.learning_rate) == pytest.approx(1e-4)
    assert float(gan.discriminator_optimizer.learning_rate) == pytest.approx(4e-4)
    assert gan.latent_dim == 120
    assert gan.generator.get_layer("block0_bn1_gain").kernel.shape == (148, 128)
    assert gan.generator.get_layer("block3_attention_gamma").gamma.shape == ()
