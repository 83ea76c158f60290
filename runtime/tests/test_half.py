"""Half precision: computed by the processor, or by the compiler's emulation of the same source."""

import copy
import math

import keras
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import stugan_runtime
from sparse_files import (
    CLASSES,
    check_threads_and_batches,
    images_of,
    layer_graph,
    served,
    write,
)
from stugan_runtime.__main__ import main
from stugan_runtime.generator import loads
from stugan_tf.errors import InputError
from stugan_tf.serving.folding import fold_into_plain_layers
from stugan_tf.serving.graph import to_keras
from stugan_tf.serving.interface import Interface
from stugan_tf.serving.loading import load

UNIT = 2.0**-11  # The most that one rounding adds, relative.
few = settings(
    max_examples=5,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
sizes, channels = st.integers(2, 9), st.integers(1, 40)


@pytest.fixture(autouse=True)
def emulated(monkeypatch, tmp_path):
    """Whatever the processor, half precision can be had."""
    monkeypatch.setenv("STUGAN_INSTRUCTION_SET", "emulated-fp16")
    try:
        loads(write(tmp_path / "probe", *served("sngan")), 1, "float16")
    except stugan_runtime.UnsupportedFileError as error:
        pytest.skip(f"{error} (-DSTUGAN_EMULATE_HALVES=ON)")


def with_magnitudes(graph):
    """The graph whose images are the sums of the magnitudes that the images of `graph` sum."""
    result = copy.deepcopy(graph)
    for node in result.nodes.values():
        node.weights = {name: np.abs(value) for name, value in node.weights.items()}
    return result


def check(build, shape, path, density=0.1, conditional=False, num_images=3):
    """Compares both precisions by the error model of sums.

    A sum of n products, each step rounded, differs from the exact one by at most
    sqrt(n) * 5 * UNIT of the sum of their magnitudes, but for 2 n exp(-12.5) of all sums (Higham
    and Mary, 2019). What is rounded before and after it counts as further steps.
    """

    def then_larger(x, labels):
        # Images are float32, so the layer must not be the last one.
        return keras.layers.UpSampling2D(2)(build(x, labels))

    graph, interface = layer_graph(then_larger, shape, density=density, conditional=conditional)
    data = write(path / "file", graph, interface)
    half, single = loads(data, 1, "float16"), loads(data, 1)
    assert (half.precision, single.precision) == ("float16", "float32")
    latents = np.random.default_rng(1).normal(size=[num_images, interface.latent_dim])
    latents = latents.astype(np.float32)
    labels = np.arange(num_images, dtype=np.int32) % CLASSES if conditional else None
    found, expected = (
        each(latents=latents, labels=labels, dtype="float32") for each in (half, single)
    )
    steps = sum(
        2 * np.count_nonzero(node.weights["kernel"], axis=(0, 1, 2)).max() + 8
        for node in graph.nodes.values()
        if node.kind == "Conv2D"
    )
    magnitudes = images_of(to_keras(with_magnitudes(graph)), np.abs(latents), labels)
    bound = 5 * math.sqrt(steps) * UNIT * magnitudes + 2.0**-20
    assert np.all(np.abs(found - expected) <= bound)
    assert np.any(found != expected) or not np.any(expected)


@few
@given(sizes, channels, channels, st.sampled_from([1, 3, 5]), st.booleans(), st.booleans())
def test_convolution(tmp_path, size, inputs, filters, window, relu, grows):
    def build(x, _):
        x = keras.layers.UpSampling2D()(x) if grows else x
        activation = "relu" if relu else None
        return keras.layers.Conv2D(filters, window, padding="same", activation=activation)(x)

    check(build, (size, size + 1, inputs), tmp_path)


@few
@given(sizes, channels, channels, st.booleans(), st.booleans())
def test_scaling_and_relu_before_a_convolution(tmp_path, size, inputs, filters, relu, grows):
    def build(x, _):
        x = keras.layers.BatchNormalization()(x)
        x = keras.layers.ReLU()(x) if relu else x
        x = keras.layers.UpSampling2D()(x) if grows else x
        return keras.layers.Conv2D(filters, 3, padding="same")(x)

    check(build, (size, size, inputs), tmp_path)


@few
@given(sizes, channels, st.booleans())
def test_scaling_by_class_before_a_convolution(tmp_path, size, width, relu):
    def build(x, labels):
        scale, shift = (
            keras.layers.Reshape([1, 1, width])(keras.layers.Embedding(CLASSES, width)(labels))
            for _ in range(2)
        )
        x = keras.layers.Add()([keras.layers.Multiply()([x, scale]), shift])
        x = keras.layers.ReLU()(x) if relu else x
        return keras.layers.Conv2D(5, 3, padding="same")(x)

    check(build, (size, size, width), tmp_path, conditional=True, num_images=7)


@few
@given(sizes, channels, st.sampled_from([1, 3]))
def test_a_block_with_its_shortcut(tmp_path, size, width, window):
    """What lies between two convolutions stays in half precision, as does the shortcut."""

    def build(x, _):
        outputs = keras.layers.UpSampling2D()(keras.layers.ReLU()(x))
        outputs = keras.layers.Conv2D(width, 3, padding="same")(outputs)
        outputs = keras.layers.Conv2D(7, 3, padding="same")(keras.layers.ReLU()(outputs))
        short = keras.layers.Conv2D(7, window, padding="same")(keras.layers.UpSampling2D()(x))
        return keras.layers.Add()([outputs, short])

    check(build, (size, size, width), tmp_path)


@few
@given(sizes, channels)
def test_layers_of_single_precision_between_those_of_half(tmp_path, size, width):
    def build(x, _):
        x = keras.layers.Conv2D(width, 3, padding="same")(x)
        x = keras.layers.BatchNormalization()(x)  # By a step of its own: two layers need it.
        x = keras.layers.LeakyReLU(negative_slope=0.2)(x)
        both = [keras.layers.Conv2D(4, 3, padding="same")(x) for _ in range(2)]
        x = keras.layers.Concatenate()(both)
        return keras.layers.Conv2D(3, 3, padding="same")(x)

    check(build, (size, size, width), tmp_path)


def test_weights_are_rounded_to_the_nearest_half(tmp_path):
    """A weight is what is left of one times one weight, if no other is there."""
    random = np.random.default_rng(0)
    weights = np.concatenate(
        [random.normal(size=60) * 2.0 ** random.integers(-26, 15, size=60),
         [1 + 2**-11, 1 + 3 * 2**-11, 65504, 2**-24, 2**-25, 1.5 * 2**-24, 2**-14 - 2**-26]]
    ).astype(np.float32)  # fmt: skip
    latents = keras.Input([16])
    layer = keras.layers.Conv2D(len(weights), 1, use_bias=False)
    outputs = keras.layers.UpSampling2D()(layer(keras.layers.Reshape([2, 2, 4])(latents)))
    model = keras.Model(latents, outputs)
    kernel = np.zeros([1, 1, 4, len(weights)], np.float32)
    kernel[0, 0, 2] = weights
    layer.kernel.assign(kernel)
    data = write(
        tmp_path / "file",
        fold_into_plain_layers(model),
        Interface(16, tuple(outputs.shape[1:]), CLASSES, False),
    )
    found = loads(data, 1, "float16")(latents=np.ones([1, 16]), dtype="float32")
    np.testing.assert_array_equal(found[0, 0, 0], weights.astype(np.float16).astype(np.float32))


@pytest.fixture(scope="module", params=["sngan", "biggan", "biggan_imagenet"])
def path(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("generators") / "generator.safetensors"
    write(path, *served(request.param), ranges={"layer": 10.0})
    return path


def test_images_are_close_to_those_of_single_precision(path):
    half = stugan_runtime.load(path)
    assert half.precision == "float16"
    assert half.instruction_set == "emulated-fp16"
    single = stugan_runtime.load(path, precision="float32")
    assert single.precision == "float32"
    assert half.workspace_bytes < single.workspace_bytes * 1.5
    labels = {"labels": 3} if half.conditional else {}
    found, expected = (each(9, seed=2, dtype="float32", **labels) for each in (half, single))
    steps = 127.5 * (found - expected)
    assert 0 < np.sqrt(np.mean(steps**2)) <= 0.5


def test_images_do_not_depend_on_threads_or_batches(path):
    check_threads_and_batches(path)


def test_an_instruction_set_without_it_is_told(path, monkeypatch):
    monkeypatch.setenv("STUGAN_INSTRUCTION_SET", "baseline")
    assert stugan_runtime.load(path).precision == "float32"
    with pytest.raises(stugan_runtime.UnsupportedFileError, match=r"AVX512-FP16.*Choose float32"):
        stugan_runtime.load(path, precision="float16")


@pytest.mark.parametrize(
    ("ranges", "used", "allowed"),
    [
        ({}, "float32", True),
        ({"ranges": {"a": 1.0, "b": 4000.0}}, "float16", True),
        ({"ranges": {"a": 1.0, "b": 4200.0}}, "float32", True),
        ({"ranges": {"a": 7e4, "b": 1.0}}, "float32", False),
    ],
)
def test_files_say_whether_they_overflow(tmp_path, ranges, used, allowed):
    data = write(tmp_path / "file", *served("sngan"), **ranges)
    assert loads(data, 1).precision == used
    if allowed:
        assert loads(data, 1, "float16").precision == "float16"
    else:
        with pytest.raises(stugan_runtime.UnsupportedFileError, match=r"reach 70000.*Choose"):
            loads(data, 1, "float16")


@pytest.mark.parametrize("ranges", [[1.0], 3, {"a": "1"}, {"a": -1}, {"a": float("nan")}])
def test_wrong_ranges_are_refused(tmp_path, ranges):
    with pytest.raises(stugan_runtime.DamagedFileError, match="ranges of its layers"):
        loads(write(tmp_path / "file", *served("sngan"), ranges=ranges), 1)


def test_weights_that_are_too_large_are_refused(tmp_path):
    graph, interface = served("sngan")
    graph = copy.deepcopy(graph)
    node = next(node for node in graph.nodes.values() if node.kind == "Conv2D")
    node.weights["kernel"] = node.weights["kernel"] * np.float32(1e7)
    data = write(tmp_path / "file", graph, interface, ranges={"layer": 1.0})
    assert loads(data, 1).precision == "float32"
    with pytest.raises(stugan_runtime.UnsupportedFileError, match="Weights reach"):
        loads(data, 1, "float16")


@pytest.mark.parametrize("precision", ["half", "", None, 1])
def test_a_wrong_precision_is_told(path, precision):
    with pytest.raises(stugan_runtime.WrongArgumentError, match="precision must be 'auto'"):
        stugan_runtime.load(path, precision=precision)


def test_the_command_takes_a_precision(path, tmp_path, monkeypatch, capsys):
    output = tmp_path / "grid.png"
    given = [str(path), f"--output={output}", "--num_images=2", "--precision=float16"]
    assert main(given) == 0
    monkeypatch.setenv("STUGAN_INSTRUCTION_SET", "baseline")
    assert main(given) == 1
    assert "Choose float32" in capsys.readouterr().err


def test_serving_computes_in_single_precision_unless_asked(path):
    assert "fp16" not in load(path).computed_by
    assert "emulated-fp16" in load(path, precision="float16").computed_by
    assert "emulated-fp16" in load(path, precision="auto").computed_by
    with pytest.raises(InputError, match="precision must be"):
        load(path, precision="half")
    with pytest.raises(InputError, match='by="tensorflow" was given'):
        load(path, by="tensorflow", precision="float16")
