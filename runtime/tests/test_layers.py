"""Each kind of layer alone computes what Keras computes."""

import math

import keras
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sparse_files import CLASSES, images_of, of_layer

ACTIVATIONS = (
    *("linear", "relu", "relu6", "leaky_relu", "elu", "selu", "gelu", "silu", "softplus"),
    *("tanh", "sigmoid", "softmax"),
)
few = settings(
    max_examples=5,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
sizes, channels = st.integers(1, 9), st.integers(1, 20)
densities = st.sampled_from([0.0, 0.05, 0.3, 1.0])
pairs = st.tuples(st.integers(1, 3), st.integers(1, 3))


def check(build, shape, path, num_images=3, conditional=False, tolerance=1e-5, **more):
    generator, model = of_layer(build, shape, path / "file", conditional=conditional, **more)
    random = np.random.default_rng(1)
    latents = random.normal(size=[num_images, model.inputs[0].shape[1]]).astype(np.float32)
    labels = np.arange(num_images, dtype=np.int32) % CLASSES if conditional else None
    expected = images_of(model, latents, labels)
    found = generator(latents=latents, labels=labels, dtype="float32")
    scale = max(1e-30, np.abs(expected).max())
    np.testing.assert_allclose(found / scale, expected / scale, rtol=tolerance, atol=tolerance)


@few
@given(
    st.tuples(sizes, sizes, channels),
    channels,
    st.tuples(st.integers(1, 5), st.integers(1, 5)),
    pairs,
    st.sampled_from(["same", "valid"]),
    densities,
    st.booleans(),
    st.integers(1, 5),
)
def test_convolution(tmp_path, shape, filters, size, strides, padding, density, bias, images):
    if padding == "valid":
        size = min(size[0], shape[0]), min(size[1], shape[1])
    layer = keras.layers.Conv2D(filters, size, strides, padding, use_bias=bias)
    check(lambda x, _: layer(x), shape, tmp_path, images, density=density)


@few
@given(
    st.tuples(sizes, sizes, channels),
    channels,
    st.tuples(st.integers(1, 5), st.integers(1, 5)),
    densities,
    st.integers(1, 5),
)
def test_convolution_of_stride_1(tmp_path, shape, filters, size, density, images):
    layer = keras.layers.Conv2D(filters, size, padding="same", activation="relu")
    check(lambda x, _: layer(x), shape, tmp_path, images, density=density)


@few
@given(st.integers(1, 40), st.integers(0, 3), st.booleans())
def test_long_gaps_between_non_zeros(tmp_path, filters, full_row, transposed):
    # The gap after a full row has thousands of zeros in a code that is made for short ones.
    densities = np.array([0.0, 0.0, 0.0, 0.0, 0.01])
    densities[full_row] = 0.9
    layer = keras.layers.Conv2DTranspose if transposed else keras.layers.Conv2D
    layer = layer(filters, (5, 3), padding="same")
    density = densities.reshape(5, 1, 1, 1)
    check(lambda x, _: layer(x), (5, 4, 20), tmp_path, density=density)


def of_upsampled(filters, size, padding, factor, by_class, addend):
    """Builds a sparse convolution of upsampled images, with what is done in passing around it."""

    def build(x, labels):
        width = x.shape[-1]
        outputs = x
        if by_class:
            scale, shift = (
                keras.layers.Reshape([1, 1, width])(keras.layers.Embedding(CLASSES, width)(labels))
                for _ in range(2)
            )
            outputs = keras.layers.Add()([keras.layers.Multiply()([x, scale]), shift])
        outputs = keras.layers.UpSampling2D(factor)(keras.layers.ReLU()(outputs))
        outputs = keras.layers.Conv2D(filters, size, padding=padding)(outputs)
        if addend:
            other = keras.layers.Conv2D(filters, 1, use_bias=False)(x)
            other = keras.layers.UpSampling2D(factor)(other)
            outputs = keras.layers.Add()([outputs, other])
        return keras.layers.ReLU()(outputs)

    return build


@few
@given(
    st.tuples(st.integers(2, 9), st.integers(2, 9), channels),
    channels,
    st.sampled_from([(3, 3), (5, 5), (3, 1), (2, 4), (4, 5)]),
    st.sampled_from(["same", "valid"]),
    st.sampled_from([2, 2, 3, 4]),
    st.booleans(),
    st.booleans(),
    st.integers(1, 9),
)
def test_convolution_of_upsampled_images(
    tmp_path, shape, filters, size, padding, factor, by_class, addend, images
):
    same = "same" if addend else padding
    if same == "valid":
        size = min(size[0], factor * shape[0]), min(size[1], factor * shape[1])
    build = of_upsampled(filters, size, same, factor, by_class, addend)
    check(build, shape, tmp_path, images, by_class, density=0.3)


@pytest.mark.parametrize(("size", "width"), [((5, 3), 19), ((8, 8), 70)])
def test_images_of_upsampled_layers_depend_on_no_division(tmp_path, size, width):
    """Not on threads, and not on the batch."""
    build = of_upsampled(width, 3, "same", 2, True, True)
    options = {"density": 0.2, "conditional": True}
    random = np.random.default_rng(1)
    latents = random.normal(size=[9, math.prod(size) * width]).astype(np.float32)
    labels = np.arange(9, dtype=np.int32) % CLASSES
    images = []
    for threads in (1, 3):
        generator, _ = of_layer(
            build, (*size, width), tmp_path / "file", threads=threads, **options
        )
        images.append(generator(latents=latents, labels=labels, dtype="float32"))
        parts = [slice(0, 1), slice(1, 3), slice(3, 9)]
        one_by_one = [
            generator(latents=latents[part], labels=labels[part], dtype="float32") for part in parts
        ]
        images.append(np.concatenate(one_by_one))
    for other in images[1:]:
        np.testing.assert_array_equal(other, images[0])


@few
@given(
    st.tuples(sizes, sizes, channels),
    channels,
    st.tuples(st.integers(1, 5), st.integers(1, 5)),
    pairs,
    st.sampled_from(["same", "valid"]),
    densities,
)
def test_transposed_convolution(tmp_path, shape, filters, size, strides, padding, density):
    layer = keras.layers.Conv2DTranspose(filters, size, strides, padding)
    check(lambda x, _: layer(x), shape, tmp_path, density=density)


@few
@given(
    st.lists(st.integers(1, 12), min_size=1, max_size=3), st.integers(1, 70), densities,
    st.integers(1, 20),
)  # fmt: skip
def test_dense(tmp_path, shape, units, density, images):
    layer = keras.layers.Dense(units)
    check(lambda x, _: layer(x), shape, tmp_path, images, density=density)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activation(tmp_path, activation):
    layer = keras.layers.Activation(activation)
    check(lambda x, _: layer(x), (3, 37), tmp_path)
    check(lambda x, _: layer(x), (300,), tmp_path, num_images=1)


@pytest.mark.parametrize(
    "layer",
    [
        keras.layers.ReLU(max_value=0.5),
        keras.layers.ReLU(threshold=0.3),
        keras.layers.ReLU(negative_slope=0.1, threshold=0.3),
        keras.layers.ReLU(negative_slope=0.1, max_value=0.4),
        keras.layers.LeakyReLU(0.3),
    ],
)
def test_rectifiers(tmp_path, layer):
    check(lambda x, _: layer(x), (50,), tmp_path)


@few
@given(st.tuples(sizes, sizes, channels), pairs, st.sampled_from(["nearest", "bilinear"]))
def test_upsampling(tmp_path, shape, size, interpolation):
    layer = keras.layers.UpSampling2D(size, interpolation=interpolation)
    check(lambda x, _: layer(x), shape, tmp_path)


@few
@given(
    st.sampled_from([keras.layers.AveragePooling2D, keras.layers.MaxPooling2D]),
    st.tuples(st.integers(3, 9), st.integers(3, 9), channels),
    pairs,
    pairs,
    st.sampled_from(["same", "valid"]),
)
def test_pooling(tmp_path, kind, shape, size, strides, padding):
    layer = kind(size, strides, padding)
    check(lambda x, _: layer(x), shape, tmp_path)


@few
@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 20), st.integers(1, 20))
def test_attention(tmp_path, queries, keys, depth, values):
    def build(x, _):
        parts = [
            keras.layers.Reshape([rows, columns])(keras.layers.Dense(rows * columns)(x))
            for rows, columns in ((queries, depth), (keys, values), (keys, depth))
        ]
        return keras.layers.Attention()(parts)

    check(build, (3,), tmp_path, tolerance=3e-5)


@pytest.mark.parametrize("kind", [keras.layers.Add, keras.layers.Multiply])
def test_merging_of_tensors_that_are_repeated(tmp_path, kind):
    def build(x, _):
        vector = keras.layers.Dense(5)(keras.layers.Flatten()(x))
        column = keras.layers.Reshape([3, 1, 1])(keras.layers.Dense(3)(keras.layers.Flatten()(x)))
        channels = keras.layers.Reshape([1, 1, 5])(vector)
        one = kind()([x, channels])
        two = kind()([one, column, x, x])
        return kind()([two, two])

    check(build, (3, 4, 5), tmp_path)


@pytest.mark.parametrize("axis", [1, -1])
def test_concatenation(tmp_path, axis):
    def build(x, _):
        shape = (6, 4, 2) if axis == 1 else (3, 4, 6)
        other = keras.layers.Reshape(shape)(keras.layers.Dense(math.prod(shape))(
            keras.layers.Flatten()(x)))  # fmt: skip
        return keras.layers.Concatenate(axis=axis)([x, other, x])

    check(build, (3, 4, 2), tmp_path)


def test_cropping(tmp_path):
    check(lambda x, _: keras.layers.Cropping1D((2, 3))(x), (9, 4), tmp_path)


def test_an_output_that_is_the_latents(tmp_path):
    check(lambda x, _: keras.layers.Reshape([2, 1, 6])(x), (3, 4), tmp_path)


def test_embedding_and_scaling_by_class(tmp_path):
    def build(x, labels):
        scale, shift = (
            keras.layers.Reshape([1, 1, 5])(keras.layers.Embedding(CLASSES, 5)(labels))
            for _ in range(2)
        )
        outputs = keras.layers.Add()([keras.layers.Multiply()([x, scale]), shift])
        return keras.layers.Conv2D(3, 3)(keras.layers.ReLU()(outputs))

    check(build, (4, 4, 5), tmp_path, conditional=True, num_images=7)


@few
@given(
    st.integers(1, 6),
    st.integers(1, 20),
    st.sampled_from([1, 3]),
    st.booleans(),
    st.booleans(),
    st.integers(1, 3),
)
def test_scaling_by_class_before_a_convolution(tmp_path, size, width, window, relu, grows, stride):
    """Each image has a scale and shift of its own, and the padding has none."""

    def build(x, labels):
        scale, shift = (
            keras.layers.Reshape([1, 1, width])(keras.layers.Embedding(CLASSES, width)(labels))
            for _ in range(2)
        )
        outputs = keras.layers.Add()([shift, keras.layers.Multiply()([x, scale])])
        outputs = keras.layers.ReLU()(outputs) if relu else outputs
        outputs = keras.layers.UpSampling2D()(outputs) if grows else outputs
        return keras.layers.Conv2D(3, window, stride, "same")(outputs)

    shape = (size, size + 1, width)
    check(build, shape, tmp_path, conditional=True, num_images=7, density=0.3)


@few
@given(st.integers(1, 6), st.integers(1, 20), densities, st.booleans(), st.booleans())
def test_what_is_done_in_passing(tmp_path, size, width, density, pointwise, shared):
    """Scale, ReLU and upsampling before a convolution; bias, addition and tanh after it."""

    def build(x, _):
        if shared:
            x = keras.layers.ReLU()(x)
        outputs = keras.layers.BatchNormalization()(x)
        outputs = keras.layers.UpSampling2D()(keras.layers.ReLU()(outputs))
        outputs = keras.layers.Conv2D(width, 3, padding="same")(outputs)
        short = keras.layers.UpSampling2D()(x)
        if pointwise:
            short = keras.layers.Conv2D(width, 1)(short)
        else:
            short = keras.layers.Conv2D(width, 3, padding="same")(short)
        outputs = keras.layers.Add()([outputs, short])
        outputs = keras.layers.Conv2D(3, 3, padding="same")(keras.layers.ReLU()(outputs))
        return keras.layers.Activation("tanh")(outputs)

    # Errors are those of sums before tanh, which are far larger than 1.
    check(build, (size, size, width), tmp_path, density=density, tolerance=1e-4)
