"""What is out of bounds draws no image, for callers that know only TensorFlow, too."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from stugan_tf.serving import lite, saved_model
from stugan_tf.serving.interface import Interface

LATENTS = np.linspace(-1, 1, 8, dtype=np.float32).reshape(2, 4)
OUTSIDE = [-1, -3, 3, 10, 1000]
SEED = {"seed": 5, "num_images": 2, "truncation": 0.0, "class_id": -1}


def network(conditional):
    keras.utils.set_random_seed(0)
    latents, labels = keras.Input([4]), keras.Input([], dtype="int32")
    outputs = keras.layers.Dense(16)(latents)
    if conditional:
        table = keras.layers.Embedding(3, 16, embeddings_initializer="normal")
        outputs = keras.layers.Add()([outputs, table(labels)])
    outputs = keras.layers.Conv2D(2, 3, padding="same")(keras.layers.Reshape([4, 4, 1])(outputs))
    outputs = keras.layers.Activation("tanh")(outputs)
    return keras.Model([latents, labels] if conditional else latents, outputs)


@pytest.fixture(scope="module", params=["conditional", "plain"])
def either(request, tmp_path_factory):
    return written(tmp_path_factory.mktemp("model"), request.param == "conditional")


@pytest.fixture(scope="module")
def conditional(tmp_path_factory):
    return written(tmp_path_factory.mktemp("model"), True)


def written(folder, conditional):
    """Folder of a SavedModel, its signatures, its Keras model, and whether it takes labels."""
    model = network(conditional)
    saved_model.write(folder, model, Interface(4, (4, 4, 2), 3, conditional))
    return folder, tf.saved_model.load(str(folder)), model, conditional


def of_latents(loaded, kind, labels):
    function = loaded.signatures[f"{kind}_of_latents"]
    return function(latents=tf.constant(LATENTS), labels=tf.constant(labels))[kind].numpy()


@pytest.mark.parametrize("kind", ["images", "pixels"])
@pytest.mark.parametrize("label", OUTSIDE)
def test_labels_out_of_range_are_refused(conditional, kind, label):
    _, loaded, *_ = conditional
    with pytest.raises(tf.errors.InvalidArgumentError, match="labels must be from 0 to 2"):
        of_latents(loaded, kind, [1, label])


@pytest.mark.parametrize("labels", [[1], [0, 1, 2]])
def test_labels_must_be_one_for_each_of_the_latents(conditional, labels):
    _, loaded, *_ = conditional
    with pytest.raises(tf.errors.InvalidArgumentError, match="one for each of the latents"):
        of_latents(loaded, "images", labels)


@pytest.mark.parametrize("num", [1, 3])
def test_weights_of_classes_must_be_one_row_for_each_of_the_latents(conditional, num):
    _, loaded, model, _ = conditional
    mixed = loaded.signatures["images_of_mixtures"]
    with pytest.raises(tf.errors.InvalidArgumentError, match="one row for each of the latents"):
        mixed(latents=tf.constant(LATENTS), class_weights=tf.ones([num, 3]) / 3)
    images = mixed(latents=tf.constant(LATENTS), class_weights=tf.eye(3)[1:])["images"]
    np.testing.assert_allclose(images, model([LATENTS, np.int32([1, 2])]), atol=1e-6)


def test_what_is_inside_is_as_the_model_makes_it(conditional):
    _, loaded, model, _ = conditional
    for labels in ([0, 1], [2, 2]):
        expected = model([LATENTS, np.int32(labels)]).numpy()
        np.testing.assert_allclose(of_latents(loaded, "images", labels), expected, atol=1e-6)


@pytest.mark.ci
def test_under_xla_which_drops_assertions_images_are_not_numbers(conditional):
    _, loaded, *_ = conditional
    compiled = tf.function(loaded.signatures["images_of_latents"], jit_compile=True)
    for label in OUTSIDE:
        images = compiled(latents=tf.constant(LATENTS), labels=tf.constant([1, label]))["images"]
        assert np.isfinite(images[0]).all()
        assert np.isnan(images[1]).all()
    compiled = tf.function(loaded.signatures["pixels_of_latents"], jit_compile=True)
    pixels = compiled(latents=tf.constant(LATENTS), labels=tf.constant([1, -1]))["pixels"]
    assert not np.any(pixels[1])


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"class_id": -2}, "labels must be from 0 to 2"),
        ({"class_id": 3}, "labels must be from 0 to 2"),
        ({"truncation": -0.5}, "truncation must be at least 0"),
        ({"truncation": float("nan")}, "truncation must be at least 0"),
        ({"num_images": -3}, "num_images must be from 1 to 1048576"),
        ({"num_images": 0}, "num_images must be from 1 to 1048576"),
        ({"num_images": 2**20 + 1}, "num_images must be from 1 to 1048576"),
        ({"seed": -1}, "seed must be at least 0"),
    ],
)
def test_what_makes_no_sense_of_a_seed_is_refused(either, change, told):
    _, loaded, _, conditional = either
    if "class_id" in change and not conditional:
        pytest.skip("It takes no classes.")
    with pytest.raises(tf.errors.InvalidArgumentError, match=told):
        of_seed(loaded, conditional, **change)


def of_seed(loaded, conditional, **change):
    given = {**SEED, **change}
    if not conditional:
        del given["class_id"]
    dtypes = {"seed": tf.int64, "truncation": tf.float32}
    tensors = {name: tf.constant(value, dtypes.get(name)) for name, value in given.items()}
    return loaded.signatures["images_of_seed"](**tensors)["images"]


def test_a_seed_draws_what_it_drew(either):
    _, loaded, _, conditional = either
    images = of_seed(loaded, conditional)
    assert images.shape == (2, 4, 4, 2)
    assert np.isfinite(images).all()
    assert np.any(images != of_seed(loaded, conditional, truncation=0.5))
    np.testing.assert_array_equal(images, of_seed(loaded, conditional, truncation=float("inf")))


def test_a_batch_of_none_has_the_shape_of_images(either):
    _, loaded, _, conditional = either
    nothing = {"latents": tf.zeros([0, 4])}
    nothing |= {"labels": tf.zeros([0], tf.int32)} if conditional else {}
    for kind in ("images", "pixels"):
        assert loaded.signatures[f"{kind}_of_latents"](**nothing)[kind].shape == (0, 4, 4, 2)


def test_keras_takes_it_as_a_layer(either):
    folder, _, model, conditional = either
    labels = np.int32([2, 0])
    given = {"latents": LATENTS, "labels": labels} if conditional else LATENTS
    expected = model([LATENTS, labels] if conditional else LATENTS).numpy()
    layer = keras.layers.TFSMLayer(str(folder))
    np.testing.assert_allclose(layer(given), expected, atol=1e-6)
    inputs = (
        {"latents": keras.Input([4]), "labels": keras.Input([], dtype="int32")}
        if conditional
        else keras.Input([4])
    )
    np.testing.assert_allclose(keras.Model(inputs, layer(inputs))(given), expected, atol=1e-6)


@pytest.mark.ci
@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_in_tensorflow_lite_images_of_labels_out_of_range_are_not_numbers(tmp_path, precision):
    model, path = network(True), tmp_path / "generator.tflite"
    interface = Interface(4, (4, 4, 2), 3, True)
    lite.write(path, model, interface, precision, [2])
    compute, _ = lite.read(path, interface)
    expected = model([LATENTS, np.int32([1, 2])]).numpy()
    images = compute(LATENTS, np.int32([1, 2]))
    np.testing.assert_allclose(images, expected, atol=1e-5 if precision == "float32" else 0.1)
    for label in OUTSIDE:
        images = compute(LATENTS, np.int32([1, label]))
        assert np.isfinite(images[0]).all()
        assert np.isnan(images[1]).all()
