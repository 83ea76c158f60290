import numpy as np
import pytest
import tensorflow as tf

from stugan_tf.layers.pooling import SumPooling2D


@pytest.mark.parametrize(
    ("precision", "rounding"), [("bfloat16", 2.0**-8), ("float16", 2.0**-11), ("float32", 1e-4)]
)
def test_sums_in_16_bits_are_rounded_but_once(precision, rounding):
    """Of 4096 times 0.1, in float16 409.5, a sum in float16 made 408.5."""
    images = np.random.default_rng(0).normal(0.1, 0.1, [2, 64, 64, 3])
    images[0, ..., 0] = 0.1
    images = tf.cast(images, precision)
    expected = np.sum(tf.cast(images, tf.float64), axis=(1, 2))
    sums = SumPooling2D(dtype=precision)(images)
    assert sums.dtype == precision
    np.testing.assert_allclose(tf.cast(sums, tf.float64), expected, rtol=1.01 * rounding)


def test_sums_may_pass_what_float16_holds_on_their_way():
    images = tf.constant([2.0**15, 2.0**15, -(2.0**15), -(2.0**14)], tf.float16)
    assert SumPooling2D(dtype="float16")(images[None, :, None, None]) == 2.0**14
