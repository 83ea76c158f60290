"""An ONNX file computes what the Keras layers do that it was written from."""

import keras
import numpy as np
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st
from keras import layers

from stugan_tf.errors import InputError
from stugan_tf.serving import onnx_file
from stugan_tf.serving.folding import fold_into_plain_layers
from stugan_tf.serving.graph import ACTIVATIONS, KINDS
from stugan_tf.serving.interface import Interface
from tests.helpers.served_networks import unlike_new

LATENTS = 6
SIDE, CHANNELS = 5, 4
RANDOM = np.random.default_rng(0).normal(size=[3, LATENTS]).astype(np.float32)


def made_by(path, model, labels=None):
    """Images of a file, and of the model that it was written from."""
    unlike_new(model, density=0.5)
    interface = Interface(
        latent_dim=LATENTS,
        num_classes=3,
        conditional=labels is not None,
        image_shape=tuple(model.output_shape[1:]),
    )
    onnx_file.write(path, fold_into_plain_layers(model), interface)
    compute, mix = onnx_file.read(path, interface)
    assert "labels only" in mix
    return compute(RANDOM, labels), model(RANDOM if labels is None else [RANDOM, labels]).numpy()


def between(layer, side=SIDE, channels=CHANNELS):
    """A generator with `layer`, called on maps, between layers that mix everything."""
    latents = keras.Input([LATENTS])
    maps = layers.Dense(side * side * channels)(latents)
    maps = layer(layers.Reshape([side, side, channels])(maps))
    return keras.Model(latents, layers.Conv2D(2, 1)(maps))


@pytest.mark.parametrize(
    "layer",
    [
        layers.UpSampling2D((2, 3)),
        layers.UpSampling2D(2, interpolation="bilinear"),
        layers.ReLU(max_value=0.5, negative_slope=0.1, threshold=0.2),
        layers.ReLU(negative_slope=0.3),
        layers.LeakyReLU(0.4),
        layers.BatchNormalization(),
        layers.Dense(3, activation="tanh"),
        lambda maps: layers.Reshape([5, 2, 10])(layers.Flatten()(maps)),
        lambda maps: layers.Add()([maps, layers.Conv2D(CHANNELS, 3, padding="same")(maps), maps]),
        lambda maps: layers.Multiply()([maps, layers.Activation("sigmoid")(maps)]),
        lambda maps: layers.Concatenate()([maps, layers.Conv2D(3, 1)(maps)]),
        lambda maps: layers.Concatenate(axis=1)([maps, layers.ReLU()(maps)]),
        lambda maps: layers.Reshape([5, 4, 4])(
            layers.Cropping1D((2, 3))(layers.Reshape([25, 4])(maps))
        ),
        lambda maps: layers.Reshape([5, 5, 4])(
            layers.Attention()(
                [layers.Reshape([25, 4])(maps)] * 2 + [layers.Reshape([25, 4])(maps)]
            )
        ),
        *(layers.Activation(name) for name in ACTIVATIONS),
        layers.Conv2D(3, 3, activation="softmax"),
        layers.Conv2D(3, 3, activation="gelu", use_bias=False),
    ],
)
def test_each_layer_is_as_in_keras(tmp_path, layer):
    keras.utils.set_random_seed(0)
    images, expected = made_by(tmp_path / "g.onnx", between(layer))
    np.testing.assert_allclose(images, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.ci
@given(
    kind=st.sampled_from(["Conv2D", "Conv2DTranspose", "AveragePooling2D", "MaxPooling2D"]),
    side=st.integers(2, 7),
    kernel=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    stride=st.integers(1, 4),
    padding=st.sampled_from(["same", "valid"]),
)
def test_maps_have_the_edges_that_keras_gives_them(
    tmp_path_factory, kind, side, kernel, stride, padding
):
    if padding == "valid" and max(kernel) > side and kind != "Conv2DTranspose":
        return
    of_weights = {"filters": 3} if kind.startswith("Conv") else {}
    size = "kernel_size" if of_weights else "pool_size"
    layer = getattr(layers, kind)(**of_weights, **{size: kernel}, strides=stride, padding=padding)
    path = tmp_path_factory.getbasetemp() / "edges.onnx"
    images, expected = made_by(path, between(layer, side))
    np.testing.assert_allclose(images, expected, rtol=1e-5, atol=1e-5)


def test_each_kind_of_layer_can_be_translated():
    assert set(onnx_file.TRANSLATORS) == set(KINDS) - {"InputLayer"}


def conditional():
    latents, labels = keras.Input([LATENTS]), keras.Input([], dtype="int32")
    outputs = layers.Add()([layers.Dense(16)(latents), layers.Embedding(3, 16)(labels)])
    return keras.Model([latents, labels], layers.Reshape([4, 4, 1])(outputs))


def test_labels_out_of_range_make_images_that_are_not_numbers(tmp_path):
    images, expected = made_by(tmp_path / "g.onnx", conditional(), np.int32([0, 2, 1]))
    np.testing.assert_allclose(images, expected, atol=1e-6)
    session = onnxruntime.InferenceSession(str(tmp_path / "g.onnx"))
    labels = np.int32([-1, 2, 3])
    (images,) = session.run(["images"], {"latents": RANDOM, "labels": labels})
    np.testing.assert_array_equal(np.isnan(images).all((1, 2, 3)), [True, False, True])
    np.testing.assert_array_equal(np.isnan(images).any((1, 2, 3)), [True, False, True])


def test_a_file_of_another_generator_or_of_nothing_is_refused(tmp_path):
    made_by(tmp_path / "g.onnx", conditional(), np.int32([0, 2, 1]))
    other = Interface(latent_dim=5, num_classes=3, conditional=True, image_shape=(4, 4, 1))
    with pytest.raises(InputError, match="another generator"):
        onnx_file.read(tmp_path / "g.onnx", other)
    for content in (b"", (tmp_path / "g.onnx").read_bytes()[:-40]):
        (tmp_path / "torn.onnx").write_bytes(content)
        with pytest.raises(InputError, match="cannot be run by ONNX Runtime"):
            onnx_file.read(tmp_path / "torn.onnx", other)
