import json

import gin
import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from stugan_tf import config
from stugan_tf.errors import InputError
from stugan_tf.evaluation import extractors
from stugan_tf.evaluation.extractors import (
    Extractor,
    digits_classifier,
    keras_model,
    saved_model,
)
from stugan_tf.evaluation.preprocessing import Preprocessing
from stugan_tf.evaluation.weights import sha256_of_keras, sha256_of_saved_model
from tests.helpers.networks import Net, random_images
from tests.helpers.params import first_by_default


def in_range(images):
    return images / 127.5 - 1.0


def test_a_saved_model_gets_images_in_its_range(saved_net, net):
    extractor = saved_model(saved_net)
    images = random_images(3, 6, 7, 3)
    features, logits = extractor(images)
    pooled = in_range(images).mean((1, 2)) @ net.kernel.numpy()
    np.testing.assert_allclose(features, pooled, atol=1e-5)
    np.testing.assert_allclose(logits, pooled @ net.logits.numpy(), atol=1e-5)
    assert (extractor.num_features, extractor.num_logits, extractor.channels) == (5, 4, 3)
    assert extractor.name == "saved_model net"
    assert extractor.sha256 == sha256_of_saved_model(saved_net)


def test_logits_are_optional_and_vectors_of_rank_4_are_flattened(saved_net):
    extractor = saved_model(saved_net, features="flat", logits=None)
    features, logits = extractor(random_images(3, 6, 7, 3))
    assert features.shape == (3, 5)
    assert logits is None
    assert extractor.num_logits is None


def test_a_keras_model_gives_the_outputs_of_its_layers(keras_net):
    extractor = keras_model(keras_net, "pool", "logits", input_range=(0, 1))
    images = random_images(3, 8, 8, 3)
    model = keras.models.load_model(keras_net)
    features, logits = extractor(images)
    np.testing.assert_allclose(logits, model.predict(images / 255.0, verbose=0), atol=1e-5)
    inner = keras.Model(model.inputs, model.get_layer("pool").output)
    np.testing.assert_allclose(features, inner.predict(images / 255.0, verbose=0), atol=1e-5)
    assert extractor.preprocessing["size"] == [8, 8]
    assert extractor.sha256 == sha256_of_keras(model)
    assert keras_model(keras_net, "pool").num_logits is None


def test_an_exported_keras_model_is_a_saved_model(keras_net, tmp_path):
    model = keras.models.load_model(keras_net)
    outputs = {name: model.get_layer(name).output for name in ("pool", "logits")}
    keras.Model(model.inputs, outputs).export(str(tmp_path / "export"), verbose=False)
    extractor = saved_model(str(tmp_path / "export"), input_range=(0, 255))
    images = random_images(3, 8, 8, 3)
    expected = keras_model(keras_net, "pool", "logits")(images)
    for ours, theirs in zip(extractor(images), expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)
    assert extractor.preprocessing["size"] == [8, 8]


def test_grey_images_are_repeated_to_rgb(saved_net):
    extractor = saved_model(saved_net)
    grey = random_images(2, 6, 6, 1)
    for one, other in zip(extractor(grey), extractor(np.repeat(grey, 3, axis=3)), strict=True):
        np.testing.assert_array_equal(one, other)


def test_images_are_resized_before_the_network(keras_net):
    images = random_images(2, 20, 12, 3)
    resized = Preprocessing(8, "bicubic_antialias", (0, 255))(tf.constant(images))
    features, _ = keras_model(keras_net, "pool", resize="bicubic_antialias")(images)
    model = keras.models.load_model(keras_net)
    expected = keras.Model(model.inputs, model.get_layer("pool").output)(resized)
    np.testing.assert_allclose(features, expected, rtol=1e-5, atol=1e-4)


@pytest.fixture(params=first_by_default("saved_model", "digits_classifier", "keras_model"))
def make(request, saved_net, keras_net):
    """A function without arguments that makes an extractor."""
    return {
        "saved_model": lambda: saved_model(saved_net),
        "keras_model": lambda: keras_model(keras_net, "pool", "logits"),
        "digits_classifier": digits_classifier,
    }[request.param]


def test_it_computes_the_same_inside_a_function_and_for_every_batch_size(make):
    extractor = make()
    images = random_images(7, 16, 16, extractor.channels)
    features, logits = extractor(images)
    compiled = tf.function(extractor)
    for start, stop in ((0, 1), (1, 4), (4, 7), (0, 7)):
        for whole, part in zip((features, logits), compiled(images[start:stop]), strict=True):
            np.testing.assert_allclose(part, whole[start:stop], rtol=1e-4, atol=1e-4)
    assert features.dtype == logits.dtype == tf.float32
    assert features.shape == (7, extractor.num_features)
    assert logits.shape == (7, extractor.num_logits)


def test_replicas_compute_what_one_device_computes(make, mirrored):
    one_device = make()
    images = random_images(6, 16, 16, one_device.channels)
    with mirrored.scope():
        extractor = make()
    assert extractor.protocol == one_device.protocol
    halves = mirrored.experimental_distribute_values_from_function(
        lambda context: tf.constant(np.split(images, 2)[context.replica_id_in_sync_group])
    )
    outputs = tf.function(lambda batch: mirrored.run(extractor, args=(batch,)))(halves)
    for expected, found in zip(one_device(images), outputs, strict=True):
        found = np.concatenate(mirrored.experimental_local_results(found))
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_made_in_the_scope_of_a_strategy_it_can_be_called_anywhere(make):
    strategy = tf.distribute.OneDeviceStrategy("CPU:1")
    with strategy.scope():
        extractor = make()
    images = tf.constant(random_images(2, 16, 16, extractor.channels))
    expected = make()(images)
    run = tf.function(lambda batch: strategy.run(extractor, args=(batch,)))
    for outputs in (extractor(images), run(images)):
        for one, other in zip(outputs, expected, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)


def test_a_protocol_is_plain_and_tells_outputs_and_weights_apart(make, saved_net, tmp_path):
    extractor = make()
    protocol = json.loads(json.dumps(extractor.protocol))
    assert protocol == extractor.protocol == make().protocol
    assert protocol["name"] == extractor.name
    assert protocol["sha256"] == extractor.sha256[:16]
    assert protocol["preprocessing"] == extractor.preprocessing
    other = Net(scale=2.0)
    tf.saved_model.save(other, str(tmp_path / "b" / "net"), signatures=other.__call__)
    protocols = [
        saved_model(saved_net).protocol,
        saved_model(saved_net, features="flat").protocol,
        saved_model(saved_net, input_range=(0, 1)).protocol,
        saved_model(str(tmp_path / "b" / "net")).protocol,
    ]
    assert len(set(map(str, protocols))) == 4


@gin.configurable(module="tests")
def user_of_extractor(extractor=gin.REQUIRED):
    return extractor()


@pytest.mark.parametrize("name", ["digits_classifier", "saved_model", "keras_model"])
def test_one_gin_line_chooses_it(name, saved_net, keras_net):
    config.parse_gin(
        bindings=[
            f"user_of_extractor.extractor = @{name}",
            f"saved_model.path = {saved_net!r}",
            f"keras_model.path = {keras_net!r}",
            "keras_model.features = 'pool'",
        ]
    )
    assert user_of_extractor().name.split()[0] == name
    config.parse_gin()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"features": "pol"}, "no output 'pol' to take features from. There are: 'broken', 'flat'"),
        ({"features": None}, "no output None to take features from"),
        ({"logits": "softmax"}, "no output 'softmax' to take logits from.* may be None"),
        ({"features": "map"}, r"\(3, 96, 96, 3\), expected \[B, D\]. Choose an output after"),
        ({"features": "broken"}, "features of saved_model net are not finite"),
        ({"features": "one"}, r"shape \(1, 5\) for 3 images: its batch dimension is fixed"),
        ({"signature": "predict"}, "no signature 'predict'. There are: 'serving_default'"),
        ({"resize": "cubic"}, "`resize` must be one of none"),
        ({"resize": "bilinear"}, "needs a `size`"),
        ({"sha256": "0" * 64}, "expected 0000"),
        ({"sha256": "0"}, "8 to 64 hex digits"),
    ],
)
def test_what_a_saved_model_cannot_do_is_told_at_once(saved_net, change, message):
    with pytest.raises(InputError, match=message):
        saved_model(saved_net, **change)


def test_what_is_no_saved_model_is_told(tmp_path, keras_net):
    with pytest.raises(InputError, match=r"saved_model.path: .*missing does not exist"):
        saved_model(str(tmp_path / "missing"))
    for path in (str(tmp_path), keras_net):
        with pytest.raises(InputError, match=r"is not a SavedModel.*@keras_model"):
            saved_model(path)


@pytest.mark.parametrize("file", ["saved_model.pb", "variables/variables.index"])
def test_a_damaged_saved_model_is_told(saved_net, file):
    with open(f"{saved_net}/{file}", "wb") as damaged:
        damaged.write(b"<html>404</html>")
    with pytest.raises(InputError, match=r"cannot be loaded: .* Copy or export it again"):
        saved_model(saved_net)


def save_function(folder, *specs, outputs=lambda *tensors: {"pool": tf.zeros([2, 3])}):
    module = tf.Module()
    module.compute = tf.function(outputs, input_signature=specs)
    tf.saved_model.save(module, str(folder), signatures=module.compute)
    return str(folder)


@pytest.mark.parametrize(
    ("specs", "message"),
    [
        ([([None, 8, 8, 3], "float32"), ([None], "float32")], "must take one batch of images"),
        ([([None, 8, 8, 3], "uint8")], "must take one batch of images"),
        ([([None, 192], "float32")], "must take one batch of images"),
        ([([None, 3, 8, 8], "float32")], "images of 8 channels"),
        ([([1, 8, 8, 3], "float32")], "must take one batch of images"),
    ],
)
def test_signatures_that_do_not_take_batches_of_images_are_refused(tmp_path, specs, message):
    specs = [tf.TensorSpec(shape, dtype, f"x{i}") for i, (shape, dtype) in enumerate(specs)]
    with pytest.raises(InputError, match=message):
        saved_model(save_function(tmp_path / "net", *specs), logits=None)


def test_a_network_for_one_size_asks_for_resizing(tmp_path):
    spec = tf.TensorSpec([None, 8, 8, 3], tf.float32, "images")
    path = save_function(
        tmp_path / "net", spec, outputs=lambda images: {"pool": tf.reduce_mean(images, [1, 2])}
    )
    extractor = saved_model(path, logits=None)
    with pytest.raises(InputError, match=r"takes images of 8 x 8, got 16 x 16. Set its `resize`"):
        extractor(random_images(2, 16, 16, 3))
    assert saved_model(path, logits=None, resize="bilinear")(random_images(2, 16, 16, 3))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"features": "dense"}, "keras_model.features: .* no layer 'dense'.*'pool'"),
        ({"logits": "softmax"}, "keras_model.logits: .* no layer 'softmax'.*'logits'"),
        ({"features": "convolution"}, "Choose an output after global pooling"),
        ({"size": 2}, "fails on 3 images of 2 x 2 x 3"),
        ({"resize": "nearest"}, "`resize` must be one of none"),
        ({"sha256": "deadbeef"}, "expected deadbeef"),
    ],
)
def test_what_a_keras_model_cannot_do_is_told_at_once(keras_net, change, message):
    with pytest.raises(InputError, match=message):
        keras_model(keras_net, **({"features": "pool"} | change))


def test_what_is_no_keras_model_is_told(tmp_path, keras_net):
    with pytest.raises(InputError, match=r"there is no file .*missing.keras.*@saved_model"):
        keras_model(str(tmp_path / "missing.keras"), "pool")
    (tmp_path / "text.keras").write_text("<html>404</html>")
    with pytest.raises(InputError, match=r"text.keras is not a .keras file"):
        keras_model(str(tmp_path / "text.keras"), "pool")
    with open(keras_net, "rb") as file:
        whole = file.read()
    (tmp_path / "torn.keras").write_bytes(whole[:200] + whole[1200:])
    with pytest.raises(InputError, match=r"cannot be loaded"):
        keras_model(str(tmp_path / "torn.keras"), "pool")


def test_a_layer_that_is_called_twice_has_no_one_output(tmp_path):
    inputs, pool = keras.Input([8, 8, 3]), layers.GlobalAveragePooling2D(name="pool")
    outputs = layers.Add(name="sum")([pool(inputs), pool(layers.ReLU()(inputs))])
    keras.Model(inputs, outputs).save(tmp_path / "twice.keras")
    with pytest.raises(InputError, match=r"calls the layer 'pool' 2 times"):
        keras_model(str(tmp_path / "twice.keras"), "pool")
    assert keras_model(str(tmp_path / "twice.keras"), "sum").num_features == 3


def test_a_keras_model_of_two_inputs_is_refused(tmp_path):
    inputs = [keras.Input([8, 8, 3]), keras.Input([8, 8, 3])]
    keras.Model(inputs, layers.Add(name="pool")(inputs)).save(tmp_path / "two.keras")
    with pytest.raises(InputError, match=r"with one input"):
        keras_model(str(tmp_path / "two.keras"), "pool")


@pytest.mark.parametrize(
    "images",
    [
        tf.zeros([2, 8, 8, 3]),
        tf.zeros([8, 8, 3], tf.uint8),
        tf.zeros([2, 8, 8, 4], tf.uint8),
        tf.zeros([2, 8, 8], tf.uint8),
    ],
)
@pytest.mark.parametrize(
    "wrap", [lambda extractor: extractor, lambda extractor: tf.function(extractor, autograph=False)]
)
def test_what_are_no_images_are_refused(saved_net, images, wrap):
    with pytest.raises(InputError, match=r"takes images as uint8 \[B, H, W, 1 or 3\], got"):
        wrap(saved_model(saved_net))(images)


def test_rgb_images_are_refused_by_a_grey_network():
    with pytest.raises(InputError, match=r"digits_classifier takes grey images, got RGB"):
        digits_classifier()(random_images(2, 16, 16, 3))


def test_any_function_can_be_an_extractor():
    def network(images):
        return tf.reduce_mean(images, [1, 2]), None

    extractor = Extractor(
        network, Preprocessing(None, "none", (0, 1)), name="mean", sha256="0" * 64, outputs=["mean"]
    )
    assert extractor.num_features == 3


def with_outputs(network):
    return Extractor(
        network, Preprocessing(None, "none", (0, 1)), name="mine", sha256="0" * 64, outputs=["x"]
    )


def pooled(images):
    return tf.reduce_mean(images, [1, 2]) @ tf.constant([[1.0, 2.0, -3.0]] * 3)


@pytest.mark.parametrize(
    "depends",
    [
        lambda x: x - tf.reduce_mean(x, axis=0),
        lambda x: x / (1e-3 + tf.math.reduce_std(x, axis=0)),
        lambda x: x + 0.1 * tf.cast(tf.range(3), tf.float32)[:, None],
        lambda x: tf.nn.dropout(x + 1.0, 0.5),
    ],
)
def test_features_that_depend_on_the_rest_of_the_batch_are_refused(depends):
    with pytest.raises(InputError, match=r"features of mine for one image change by"):
        with_outputs(lambda images: (depends(pooled(images)), None))


def test_a_network_for_channels_first_is_refused_where_no_shape_tells(tmp_path):
    images = tf.TensorSpec([None, None, None, None], tf.float32, name="images")

    class ChannelsFirst(tf.Module):
        @tf.function(input_signature=[images])
        def __call__(self, images):
            return {"pool": tf.reduce_mean(images, [2, 3])}

    module = ChannelsFirst()
    tf.saved_model.save(module, str(tmp_path / "net"), signatures=module.__call__)
    for size, resize in ((None, "none"), ((40, 56), "bilinear")):
        with pytest.raises(InputError, match=r"as many as an image has rows.*\[B, H, W, C\]"):
            saved_model(str(tmp_path / "net"), logits=None, size=size, resize=resize)


@pytest.mark.parametrize("units", [96, 95])
def test_as_many_features_as_rows_may_be_chance(units):
    def network(images):
        tf.debugging.assert_equal(tf.shape(images)[1], 96)
        return tf.repeat(tf.reduce_mean(images, [1, 2, 3])[:, None], units, axis=1), None

    preprocess = Preprocessing(None, "none", (0, 1))
    found = Extractor(network, preprocess, name="x", sha256="0" * 64, outputs=["x"])
    assert found.num_features == units


def test_a_network_in_training_mode_is_refused():
    norm = keras.layers.BatchNormalization()
    with pytest.raises(InputError, match=r"depend on the whole batch, or on chance.*training=F"):
        with_outputs(lambda images: (norm(pooled(images), training=True), None))
    assert with_outputs(lambda images: (norm(pooled(images), training=False), None))


def test_probabilities_are_no_logits():
    with pytest.raises(InputError, match=r"logits of mine are probabilities: .*before the softmax"):
        with_outputs(lambda images: (pooled(images), tf.nn.softmax(pooled(images))))
    for logits in (pooled, lambda images: tf.nn.log_softmax(pooled(images))):
        assert with_outputs(lambda images, logits=logits: (pooled(images), logits(images)))


def test_a_path_is_required():
    for function in (extractors.saved_model, extractors.keras_model, extractors.frozen_inception):
        with pytest.raises(RuntimeError, match=r"Required bindings.*path") as caught:
            function()
        assert "Set them in a gin file" in config.message_of(caught.value)
