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
from stugan_tf.methods.method import chosen_method
from stugan_tf.training.algorithm import Algorithm
from stugan_tf.training.loop import Training

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


@pytest.mark.parametrize("method", METHODS)
def test_every_method_follows_biggan_on_cifar(method):
    parse("biggan_cifar10", method, bindings=tiny(2, 32))
    training = build()
    explores = {
        name: exploration is not None
        for name, exploration in training.algorithm.explorations.items()
    }
    assert explores == {
        "generator": method in ("stu", "set", "explore_gd"),
        "discriminator": method in ("explore_d", "explore_gd"),
    }
    sparsity = training.counts()["generator"].sparsity
    begins_dense = method == "dense" or method.startswith(("prune_and_finetune", "tickets"))
    assert sparsity == pytest.approx(0.0 if begins_dense else 0.95, abs=0.01)


@pytest.mark.parametrize("base", [*CIFAR, *IMAGENET])
@pytest.mark.parametrize("method", METHODS)
def test_every_method_sets_the_algorithm_after_every_base_file(base, method):
    parse(base, method)
    assert Algorithm().explores(500)["generator"] == (method in ("stu", "set", "explore_gd"))
    average = gin.query_parameter("GAN.average").configurable.wrapped
    assert average.__name__ == ("ema" if method == "dense" else "sema")


@pytest.mark.parametrize("base", IMAGENET)
def test_biggan_for_imagenet_is_built_as_its_file_says(base):
    parse(base, bindings=tiny(8, 128))
    gan = build().gan
    assert float(gan.generator_optimizer.learning_rate) == pytest.approx(1e-4)
    assert float(gan.discriminator_optimizer.learning_rate) == pytest.approx(4e-4)
    assert gan.latent_dim == 120
    assert gan.generator.get_layer("block0_bn1_gain").kernel.shape == (148, 128)
    assert gan.generator.get_layer("block3_attention_gamma").gamma.shape == ()
