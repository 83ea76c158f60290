import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from stugan_tf.errors import InputError
from stugan_tf.evaluation.preprocessing import RESIZE, Preprocessing

sizes = st.integers(1, 20)


def interpolated(images, axis, positions):
    """Linear interpolation of [..., n, ...] at fractional `positions`, clamped to the ends."""
    length = images.shape[axis]
    positions = np.clip(positions, 0, length - 1)
    low = np.floor(positions).astype(int)
    high = np.minimum(low + 1, length - 1)
    shape = [1] * images.ndim
    shape[axis] = -1
    weights = (positions - low).reshape(shape)
    return np.take(images, low, axis) * (1 - weights) + np.take(images, high, axis) * weights


@given(height=sizes, width=sizes, new_height=sizes, new_width=sizes, seed=st.integers(0, 99))
@pytest.mark.parametrize(
    ("mode", "position"),
    [
        ("bilinear_legacy", lambda i, old, new: i * old / new),
        ("bilinear", lambda i, old, new: (i + 0.5) * old / new - 0.5),
    ],
)
def test_bilinear_modes_are_interpolation_at_their_positions(
    mode, position, height, width, new_height, new_width, seed
):
    images = np.random.default_rng(seed).integers(0, 256, [2, height, width, 3], dtype=np.uint8)
    expected = images.astype(np.float64)
    for axis, old, new in ((1, height, new_height), (2, width, new_width)):
        expected = interpolated(expected, axis, position(np.arange(new), old, new))
    resized = Preprocessing((new_height, new_width), mode, (0, 255))(tf.constant(images))
    np.testing.assert_allclose(resized, expected, atol=1e-2)


@pytest.mark.parametrize(("old", "new"), [(8, 16), (32, 13), (32, 75), (40, 8)])
@pytest.mark.parametrize(
    ("mode", "pillow"),
    [("bilinear_antialias", Image.BILINEAR), ("bicubic_antialias", Image.BICUBIC)],
)
def test_antialiased_modes_are_those_of_pillow(mode, pillow, old, new):
    image = np.random.default_rng(0).integers(0, 256, [old, old], dtype=np.uint8)
    expected = np.asarray(Image.fromarray(image.astype(np.float32)).resize([new, new], pillow))
    resized = Preprocessing(new, mode, (0, 255))(tf.constant(image[None, ..., None]))
    np.testing.assert_allclose(resized[0, ..., 0], np.clip(expected, 0, 255), atol=1e-2)


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("input_range", [(-1, 1), (0, 1), (0, 255)])
def test_every_byte_becomes_the_float_nearest_to_its_place_in_the_range(input_range, compiled):
    low, high = input_range
    levels = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
    preprocess = Preprocessing(None, "none", input_range)
    mapped = (tf.function(preprocess) if compiled else preprocess)(tf.constant(levels))
    exact = (low * 255 + levels.astype(np.float64) * (high - low)) / 255
    np.testing.assert_array_equal(mapped, exact.astype(np.float32))


def test_an_image_of_the_right_size_is_left_alone():
    images = np.random.default_rng(0).integers(0, 256, [1, 9, 9, 3], dtype=np.uint8)
    for mode in RESIZE:
        resized = Preprocessing(9, mode, (0, 255))(tf.constant(images))
        np.testing.assert_allclose(resized, images, atol=1e-3)


def test_a_description_is_plain():
    described = Preprocessing(299, "bilinear", (-1, 1)).describe()
    assert described == {"size": [299, 299], "resize": "bilinear", "range": [-1.0, 1.0]}
    assert Preprocessing(None, "none", (0, 1)).describe()["size"] is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((8, "cubic", (0, 1)), "`resize` must be one of none, bilinear_legacy.*'cubic'"),
        ((None, "bilinear", (0, 1)), "needs a `size` to resize to"),
        ((0, "none", (0, 1)), "`size` must be a positive int"),
        (((8,), "none", (0, 1)), "`size` must be a positive int"),
        ((8.0, "none", (0, 1)), "`size` must be a positive int"),
        ((8, "none", (1, 0)), "low < high"),
        ((8, "none", 255), "low < high"),
        ((8, "none", ("0", "1")), "low < high"),
    ],
)
def test_what_cannot_be_is_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        Preprocessing(*arguments)


def test_images_of_another_size_need_a_resize_mode():
    preprocess = Preprocessing(8, "none", (0, 1))
    with pytest.raises(InputError, match=r"takes images of 8 x 8, got 4 x 8. Set its `resize`"):
        preprocess(tf.zeros([1, 4, 8, 1], tf.uint8))
