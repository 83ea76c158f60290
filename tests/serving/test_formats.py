"""Every format draws what the generator does that was trained."""

import concurrent.futures
import dataclasses
import os
import re
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st
from keras import layers

from stugan_tf.errors import InputError
from stugan_tf.images import to_uint8
from stugan_tf.latents import between_classes
from stugan_tf.layers.mixing import mixing_classes
from stugan_tf.serving import artifact, compact, lite, positions, saved_model
from stugan_tf.serving.folding import fold_into_plain_layers
from stugan_tf.serving.formats import FORMATS, Settings, format_of
from stugan_tf.serving.generator import ServedGenerator
from stugan_tf.serving.graph import to_keras
from stugan_tf.serving.loading import load
from tests.helpers.params import first_by_default
from tests.helpers.served_networks import CLASSES, generator, images_of, inputs_of, interface_of

BATCHES = (1, 4)


def write(folder, name, kind, precision="float32"):
    """An artifact of a generator, as `export` makes it, without a model card."""
    model = generator(name)
    interface = interface_of(model)
    graph = fold_into_plain_layers(model)
    folder.mkdir(parents=True, exist_ok=True)
    FORMATS[kind].write(folder, graph, interface, Settings(precision, BATCHES))
    artifact.write_manifest(folder, kind, interface)
    return folder


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """`(name, kind, precision) -> folder`, written once."""
    folders = {}

    def folder_of(name, kind, precision="float32"):
        key = (name, kind, precision)
        if key not in folders:
            folders[key] = write(tmp_path_factory.mktemp("artifact") / "1", *key)
        return folders[key]

    return folder_of


@pytest.mark.parametrize(
    ("name", "kind", "precision", "tolerance"),
    [
        pytest.param("sngan", "saved_model", "float32", 1e-5, marks=pytest.mark.slow),
        pytest.param("biggan", "saved_model", "float32", 1e-5, marks=pytest.mark.ci),
        pytest.param("biggan_imagenet", "saved_model", "float32", 1e-5, marks=pytest.mark.slow),
        ("sngan", "sparse", "float32", 1e-5),
        pytest.param("biggan_imagenet", "sparse", "float32", 1e-5, marks=pytest.mark.ci),
        pytest.param("biggan_imagenet", "sparse", "float16", 0.01, marks=pytest.mark.ci),
        ("sngan", "html", "float32", 1e-5),
        pytest.param("biggan_imagenet", "html", "float16", 0.01, marks=pytest.mark.ci),
        pytest.param("sngan", "onnx", "float32", 1e-5, marks=pytest.mark.slow),
        pytest.param("biggan", "onnx", "float32", 1e-5, marks=pytest.mark.ci),
        ("biggan_imagenet", "onnx", "float32", 1e-5),
        pytest.param("sngan", "tflite", "float32", 1e-5, marks=pytest.mark.slow),
        pytest.param("biggan", "tflite", "float32", 1e-5, marks=pytest.mark.ci),
        pytest.param("biggan_imagenet", "tflite", "float16", 0.01, marks=pytest.mark.slow),
        ("sngan", "tflite", "int8", 0.1),
    ],
)
def test_a_loaded_generator_makes_the_same_images(written, name, kind, precision, tolerance):
    loaded = load(written(name, kind, precision))
    model = generator(name)
    latents, labels = inputs_of(model, num=6)  # of batches of 4, 1 and 1
    expected = images_of(model, latents, labels)
    images = loaded(latents=latents, labels=labels, dtype="float32")
    np.testing.assert_allclose(images, expected, rtol=0, atol=tolerance)
    pixels = loaded(latents=latents, labels=labels)
    np.testing.assert_array_equal(pixels, to_uint8(images))


@pytest.mark.parametrize(
    ("name", "kind"),
    first_by_default(("sngan", "sparse"), ("biggan", "saved_model"), ("biggan", "tflite")),
)
def test_an_image_is_the_same_among_more(written, name, kind):
    loaded = load(written(name, kind))
    many = loaded(70, seed=3)
    assert many.shape == (70, *loaded.interface.image_shape)
    few = loaded(3, seed=3)
    assert np.abs(many[:3].astype(int) - few).max() <= 1
    assert np.abs(few.astype(int) - loaded(3, seed=4)).max() > 1
    assert np.abs(few.astype(int) - loaded(3, seed=3, truncation=0.5)).max() > 1


@pytest.mark.ci
def test_signatures_of_latents_and_of_a_seed_agree(written):
    folder = written("biggan", "saved_model")
    loaded = tf.saved_model.load(str(folder))
    functions, served = loaded.signatures, load(folder)
    for truncation in (None, 0.7):
        latents, labels = served.inputs(70, 5, truncation)
        of_latents = functions["images_of_latents"](
            latents=tf.constant(latents), labels=tf.constant(labels)
        )
        of_seed = {
            "seed": tf.constant(5, tf.int64),
            "num_images": tf.constant(70),
            "truncation": tf.constant(truncation or 0.0),
            "class_id": tf.constant(-1),
        }
        images = functions["images_of_seed"](**of_seed)["images"]
        np.testing.assert_allclose(images, of_latents["images"], rtol=0, atol=1e-5)
        pixels = functions["pixels_of_seed"](**of_seed)["pixels"]
        assert pixels.dtype == tf.uint8
        assert np.abs(pixels.numpy().astype(int) - to_uint8(images)).max() <= 1
    of_seed["class_id"] = tf.constant(3)
    of_class = functions["images_of_latents"](
        latents=tf.constant(latents), labels=tf.constant([3] * 70)
    )
    images = functions["images_of_seed"](**of_seed)["images"]
    np.testing.assert_allclose(images, of_class["images"], rtol=0, atol=1e-5)


@pytest.mark.ci
@pytest.mark.parametrize(
    ("name", "kind"), first_by_default(("biggan", "saved_model"), ("biggan_imagenet", "sparse"))
)
def test_mixtures_of_classes_are_those_of_the_trained_generator(written, name, kind):
    model = generator(name)
    latents, _ = inputs_of(model)
    weights = between_classes([7], [2], CLASSES, 5)
    expected = images_of(mixing_classes(model), latents, weights)
    (images,) = load(written(name, kind), by="tensorflow").batches(latents, weights)
    np.testing.assert_allclose(images, expected, rtol=0, atol=1e-5)


@pytest.mark.ci
def test_a_saved_model_is_refused_that_is_not_what_its_manifest_says(written):
    folder = written("biggan", "saved_model")
    interface = interface_of(generator("biggan"))
    for other in ({"latent_dim": 9}, {"image_shape": (32, 32, 1)}, {"conditional": False}):
        with pytest.raises(InputError, match="has no signature images_of_latents that takes"):
            saved_model.read(folder, dataclasses.replace(interface, **other))


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"seed": 2**63}, "seed must be below"),
        ({"latents": "x"}, "latents must be numbers"),
        ({"latents": [[1], [2, 3]]}, "latents must be numbers"),
        ({"latents": [[1e300] * 8]}, "latents must be finite"),
        ({"latents": [[0] * 8]}, "needs labels for given latents"),
        ({"latents": [[0] * 9], "labels": 1}, "must be of shape"),
        ({"labels": [[1], [2, 3]]}, "labels must be numbers"),
        ({"labels": 1.0}, "labels must be an integer"),
        ({"labels": CLASSES}, "labels must be from 0 to 9"),
        ({"labels": [1, 2]}, "labels must be an integer or 1 of them"),
        ({"num_images": 2**30}, "num_images must be at most"),
        ({"num_images": True}, "num_images must be a positive integer"),
        ({"dtype": "float16"}, "dtype must be"),
    ],
)
def test_what_fits_no_generator_is_told(arguments, told):
    interface = interface_of(generator("biggan"))
    with pytest.raises(InputError, match=told):
        ServedGenerator(interface, None, {}, "nothing")(**arguments)


@pytest.mark.ci
def test_tflite_has_nothing_between_classes(written):
    with pytest.raises(InputError, match="a TensorFlow Lite file takes labels only"):
        load(written("biggan", "tflite")).check_mixes()


ALONE = """
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "stugan_tf":
            raise ImportError(name + " is blocked")
sys.meta_path.insert(0, Blocker())
import numpy as np, tensorflow as tf
functions = tf.saved_model.load(sys.argv[1]).signatures
inputs = dict(seed=tf.constant(5, tf.int64), num_images=tf.constant(3),
    truncation=tf.constant(0.7), class_id=tf.constant(-1))
np.save(sys.argv[2], functions["pixels_of_seed"](**inputs)["pixels"])
assert "stugan_tf" not in sys.modules
"""


@pytest.mark.ci
def test_a_saved_model_needs_tensorflow_alone(written, tmp_path):
    folder = written("biggan", "saved_model")
    environment = {"PATH": os.environ["PATH"], "CUDA_VISIBLE_DEVICES": "-1"}
    command = [sys.executable, "-I", "-c", ALONE, str(folder), str(tmp_path / "pixels.npy")]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    pixels = np.load(tmp_path / "pixels.npy")
    expected = load(folder)(3, seed=5, truncation=0.7)
    assert np.abs(pixels.astype(int) - expected).max() <= 1


@pytest.mark.parametrize("name", ["sngan", "biggan_imagenet"])
def test_a_sparse_file_survives_a_round_trip(written, name):
    path = written(name, "sparse") / FORMATS["sparse"].file
    graph, manifest = compact.read(path)
    expected = fold_into_plain_layers(generator(name)).weights()
    assert graph.weights().keys() == expected.keys()
    for weight, value in expected.items():
        np.testing.assert_array_equal(graph.weights()[weight], value)
    again = path.with_name("again.safetensors")
    compact.write(again, graph, "float32", {"interface": manifest["interface"]})
    assert compact.read(again)[1]["tensors"].keys() == manifest["tensors"].keys()
    again.unlink()


def test_a_sparse_file_may_tell_of_zeros(tmp_path):
    """As many as stand in the place of its digest while that is computed, wherever they are."""
    graph, path = fold_into_plain_layers(generator("sngan")), tmp_path / "x.safetensors"
    for _ in range(4):  # The library orders texts at random.
        compact.write(path, graph, "float32", {"told": "0" * 64, "sha256": "0" * 64})
        assert compact.read(path)[1]["told"] == "0" * 64


@pytest.mark.parametrize("density", [0.02, 0.05, 0.1, 0.2, 0.5])
def test_positions_take_little_more_than_their_entropy(density):
    mask = np.random.default_rng(0).random(200_000) < density
    high, low, k = positions.encode(mask)
    bits = 8 * (len(high) + len(low)) / len(mask)
    actual = mask.mean()
    entropy = -actual * np.log2(actual) - (1 - actual) * np.log2(1 - actual)
    assert entropy <= bits <= 1.04 * entropy
    assert bits <= 1.0001
    if density == 0.5:
        np.testing.assert_array_equal(
            np.unpackbits(high)[: len(mask)][: mask.nonzero()[0][-1] + 1],
            mask[: mask.nonzero()[0][-1] + 1],
        )
        assert k == 0


@given(st.lists(st.booleans(), min_size=1, max_size=300), st.integers(0, 200))
def test_positions_survive_a_round_trip(mask, num_zeros):
    mask = np.array([False] * num_zeros + mask)
    high, low, k = positions.encode(mask)
    decoded = positions.decode(high, low, k, int(mask.sum()), len(mask))
    np.testing.assert_array_equal(decoded, np.flatnonzero(mask))


@given(
    st.binary(max_size=40),
    st.binary(max_size=40),
    st.integers(-1, 30),
    st.integers(-1, 60),
    st.integers(0, 400),
)
def test_positions_of_any_bytes_are_masks_or_refused(high, low, k, count, size):
    high, low = (np.frombuffer(part, np.uint8) for part in (high, low))
    try:
        found = positions.decode(high, low, k, count, size)
    except ValueError:
        return
    assert len(found) == count
    assert np.all(np.diff(found) > 0)
    assert count == 0 or (found[0] >= 0 and found[-1] < size)


def test_a_sparse_file_is_as_small_as_its_non_zeros(tmp_path):
    """Within 5 % of values and one bit for each position."""
    # As wide as a real one: small arrays have overheads of their own.
    model = keras.Sequential([keras.Input([400]), layers.Dense(1000), layers.Dense(400)])
    random = np.random.default_rng(0)
    for layer in model.layers:
        there = random.random(layer.kernel.shape) < 0.1
        layer.kernel.assign(random.normal(size=layer.kernel.shape) * there)
    graph = fold_into_plain_layers(model)
    num_values = sum(np.count_nonzero(value) for value in graph.weights().values())
    num_positions = sum(value.size for value in graph.weights().values())
    path = tmp_path / "model.safetensors"
    compact.write(path, graph, "float32", {})
    with open(path, "rb") as file:
        header = 8 + int.from_bytes(file.read(8), "little")  # A file of safetensors begins so.
    size = path.stat().st_size - header
    assert size < 1.05 * (4 * num_values + num_positions / 8)
    assert size < 0.9 * (4 * num_values + num_positions / 8)


@pytest.mark.ci
def test_tflite_may_be_called_by_many_threads(written):
    loaded = load(written("sngan", "tflite"))
    many = [inputs_of(generator("sngan"), num=6, seed=seed)[0] for seed in range(16)]
    expected = [loaded(latents=latents) for latents in many]
    with concurrent.futures.ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda latents: loaded(latents=latents), many))
    np.testing.assert_array_equal(found, expected)


@pytest.mark.ci
def test_what_tflite_stores_sparse_is_told(tmp_path):
    model = generator("sngan")
    weights = lite.write(
        tmp_path / "x.tflite",
        to_keras(fold_into_plain_layers(model)),
        interface_of(model),
        "float32",
        (1,),
    )
    told = "\n".join(lite.notes(weights, "float32", (1,)))
    assert any(weight.sparse for weight in weights)
    assert "are stored sparse" in told
    assert "Nothing is stored sparse" in "\n".join(lite.notes(weights, "int8", (1,)))


def test_a_format_reads_what_has_no_manifest_yet(written):
    folder, interface = written("sngan", "sparse"), interface_of(generator("sngan"))
    assert FORMATS["sparse"].read(folder, interface, {})(2).shape[0] == 2


def test_a_format_that_there_is_not_is_told_in_words():
    with pytest.raises(
        InputError, match=r"no format 'npz'. Choose .* saved_model, tflite, onnx, sparse and ht"
    ):
        format_of("npz")


@pytest.mark.parametrize(
    ("name", "precision", "batch_sizes", "told"),
    [
        (
            *("tflite", "int4", None),
            "`--format=tflite` supports float32, float16 and int8, got `--precision=int4`.",
        ),
        ("sparse", "int8", None, "`--format=sparse` supports float32 and float16, got"),
        ("saved_model", "float16", None, "`--format=saved_model` supports float32, got"),
        ("sparse", "float32", [8], "--batch_size is for --format=tflite: sparse takes"),
    ],
)
def test_what_a_format_cannot_is_told(name, precision, batch_sizes, told):
    with pytest.raises(InputError, match=re.escape(told)):
        format_of(name).check(precision, batch_sizes)


def test_every_format_takes_its_own_precisions():
    for one in FORMATS.values():
        for precision in one.precisions:
            one.check(precision, [1] if one.fixed_batches else None)
    assert [name for name, one in FORMATS.items() if not one.trusted] == ["sparse", "html"]
