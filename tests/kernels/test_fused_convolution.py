"""What is fused with a sparse convolution equals the same in TensorFlow, in float64."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from stugan_tf.kernels import library
from stugan_tf.kernels.convolution import (
    Choice,
    Normalization,
    convolve,
    kernel_gradient,
    masked_convolution,
    moments,
    paddings,
)
from tests.helpers.params import examples

pytestmark = pytest.mark.usefixtures("operations")

INSTRUCTION_SETS = ["best", "x86-64-v3", "baseline"]
EPSILON = 1e-3
seeds = st.integers(0, 2**32 - 1)


@dataclasses.dataclass
class Problem:
    batch: int
    size: tuple  # Height and width before upsampling.
    kernel_shape: tuple
    padding: str
    density: float
    normalized: bool
    of_batch: bool
    relu: bool
    upsampling: int
    pooling: int
    has_bias: bool
    has_residual: bool
    residual_upsampling: int
    seed: int

    def __post_init__(self):
        random = np.random.default_rng(self.seed)

        def draw(*shape):
            return random.standard_normal(shape).astype(np.float32)

        *extents, inputs, outputs = self.kernel_shape
        pads = paddings(self.padding, extents)
        height, width = (
            self.upsampling * size + pads[2 * axis] + pads[2 * axis + 1] - extents[axis] + 1
            for axis, size in enumerate(self.size)
        )
        # What cannot be pooled or upsampled evenly is left alone.
        if height % 2 or width % 2:
            self.pooling = 1
        height, width = height // self.pooling, width // self.pooling
        if height % 2 or width % 2:
            self.residual_upsampling = 1
        self.mask = (random.random(self.kernel_shape) < self.density).astype(np.float32)
        self.arguments = {
            "images": draw(self.batch, *self.size, inputs) + 0.5,
            "kernel": self.mask * draw(*self.kernel_shape),
            "gamma": draw(inputs),
            "beta": draw(inputs),
            "bias": draw(outputs),
            "residual": draw(
                self.batch,
                height // self.residual_upsampling,
                width // self.residual_upsampling,
                outputs,
            ),
        }
        self.mean, self.variance = draw(inputs), draw(inputs) ** 2
        self.upstream = draw(self.batch, height, width, outputs)

    def fused(self, images, kernel, gamma, beta, bias, residual, choice, zero_gradients):
        normalization = None
        if self.normalized:
            statistics = moments(images) if self.of_batch else (self.mean, self.variance)
            normalization = Normalization(*statistics, gamma, beta, EPSILON, self.of_batch)
        return masked_convolution(
            images,
            kernel,
            self.mask,
            self.padding,
            choice,
            zero_gradients,
            normalization,
            self.relu,
            self.upsampling,
            self.pooling,
            bias if self.has_bias else None,
            residual if self.has_residual else None,
            self.residual_upsampling,
        )

    def apart(self, images, kernel, gamma, beta, bias, residual):
        if self.normalized:
            mean, variance = self.mean, self.variance
            if self.of_batch:
                mean, variance = tf.nn.moments(images, [0, 1, 2])
            deviation = tf.sqrt(tf.cast(variance, images.dtype) + EPSILON)
            images = gamma * (images - tf.cast(mean, images.dtype)) / deviation + beta
        images = upsampled(tf.nn.relu(images) if self.relu else images, self.upsampling)
        outputs = tf.nn.conv2d(images, kernel, 1, self.padding.upper())
        outputs = tf.nn.avg_pool2d(outputs, self.pooling, self.pooling, "VALID")
        if self.has_bias:
            outputs += bias
        if self.has_residual:
            outputs += upsampled(residual, self.residual_upsampling)
        return outputs

    def output_and_gradients(self, function, dtype):
        """The output, and the gradients of all arguments by name; of the kernel, under its mask."""
        arguments = {name: tf.constant(value, dtype) for name, value in self.arguments.items()}
        with tf.GradientTape() as tape:
            tape.watch(arguments)
            output = function(**arguments)
            loss = tf.reduce_sum(output * tf.constant(self.upstream, dtype))
        gradients = tape.gradient(loss, arguments, unconnected_gradients="zero")
        gradients["kernel"] *= self.mask
        return {"output": output, **gradients}


def upsampled(images, factor):
    return tf.repeat(tf.repeat(images, factor, axis=1), factor, axis=2)


@st.composite
def problems(draw):
    extents = [draw(st.integers(1, 4)) for _ in range(2)]
    factor, channels = st.integers(1, 2), st.integers(1, 35)
    return Problem(
        batch=draw(st.integers(1, 6)),
        size=tuple(draw(st.integers(extent, 9)) for extent in extents),
        kernel_shape=(*extents, draw(channels), draw(channels)),
        padding=draw(st.sampled_from(["same", "valid"])),
        density=draw(st.sampled_from([0.0, 0.1, 0.5, 1.0])),
        normalized=draw(st.booleans()),
        of_batch=draw(st.booleans()),
        relu=draw(st.booleans()),
        upsampling=draw(factor),
        pooling=draw(factor),
        has_bias=draw(st.booleans()),
        has_residual=draw(st.booleans()),
        residual_upsampling=draw(factor),
        seed=draw(seeds),
    )


def assert_close(actual, expected, tolerance, message):
    scale = np.max(np.abs(expected), initial=1e-3)
    difference = np.max(np.abs(actual - expected), initial=0)
    assert difference <= tolerance * scale, f"{message}: {difference} of {scale}"


@examples(60)
@given(
    problem=problems(),
    choice=st.builds(Choice, st.booleans(), st.booleans(), st.booleans()),
    zero_gradients=st.booleans(),
)
def test_fused_is_the_same_as_apart_and_so_are_its_gradients(problem, choice, zero_gradients):
    def fused(**arguments):
        return problem.fused(**arguments, choice=choice, zero_gradients=zero_gradients)

    expected = problem.output_and_gradients(problem.apart, tf.float64)
    actual = problem.output_and_gradients(fused, tf.float32)
    # Few pixels make a small variance, whose root magnifies rounding.
    for name, value in expected.items():
        assert_close(actual[name].numpy(), value.numpy(), 2e-4, name)


@examples(40)
@given(problem=problems(), instruction_set=st.sampled_from(INSTRUCTION_SETS))
def test_every_instruction_set_computes_the_same(problem, instruction_set):
    random = np.random.default_rng(problem.seed)
    inputs = problem.kernel_shape[2]
    before = {"relu": problem.relu, "upsampling": problem.upsampling, "pooling": problem.pooling}
    if problem.normalized:
        before["scale"] = random.standard_normal(inputs, np.float32)
        before["shift"] = random.standard_normal(inputs, np.float32)
    images, kernel = problem.arguments["images"], problem.arguments["kernel"]
    pads = paddings(problem.padding, problem.kernel_shape[:2])
    prepared = images.astype(np.float64)
    if problem.normalized:
        prepared = prepared * before["scale"] + before["shift"]
    prepared = upsampled(tf.nn.relu(prepared) if problem.relu else prepared, problem.upsampling)
    with tf.GradientTape() as tape:
        weights = tf.constant(kernel, tf.float64)
        tape.watch(weights)
        expected = tf.nn.conv2d(prepared, weights, 1, problem.padding.upper())
        area = problem.pooling**2
        expected = area * tf.nn.avg_pool2d(expected, problem.pooling, problem.pooling, "VALID")
        loss = tf.reduce_sum(expected * tf.cast(problem.upstream, tf.float64))
    bias, residual = problem.arguments["bias"], problem.arguments["residual"]
    actual = convolve(
        images,
        kernel,
        pads,
        bias=bias,
        residual=residual,
        residual_upsampling=problem.residual_upsampling,
        instruction_set=instruction_set,
        **before,
    )
    expected = expected.numpy() + bias + upsampled(residual, problem.residual_upsampling).numpy()
    assert_close(actual.numpy(), expected, 1e-5, "output")
    actual = kernel_gradient(
        images, problem.upstream, problem.mask, pads, instruction_set=instruction_set, **before
    )
    expected = tape.gradient(loss, weights) * problem.mask
    assert_close(actual.numpy(), expected.numpy(), 1e-5, "gradient of the kernel")


@examples(40)
@given(
    rows=st.integers(1, 700),
    channels=st.integers(1, 40),
    offset=st.sampled_from([0.0, 10.0, 1000.0]),
    instruction_set=st.sampled_from(INSTRUCTION_SETS),
    seed=seeds,
)
def test_moments_are_exact_even_far_from_zero(rows, channels, offset, instruction_set, seed):
    random = np.random.default_rng(seed)
    images = (random.standard_normal((rows, channels)) + offset).astype(np.float32)
    mean, variance = library.load().stugan_channel_moments(images, instruction_set=instruction_set)
    exact = images.astype(np.float64)
    np.testing.assert_allclose(mean, exact.mean(0), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(variance, exact.var(0), rtol=1e-5, atol=1e-6)


@examples(40)
@given(
    rows=st.integers(2, 400),
    channels=st.integers(1, 40),
    relu=st.booleans(),
    of_batch=st.booleans(),
    instruction_set=st.sampled_from(INSTRUCTION_SETS),
    seed=seeds,
)
def test_the_gradient_of_a_normalization(rows, channels, relu, of_batch, instruction_set, seed):
    random = np.random.default_rng(seed)
    images, upstream = random.standard_normal((2, rows, channels)).astype(np.float32)
    gamma, beta, mean = random.standard_normal((3, channels)).astype(np.float32)
    variance = (mean**2 + 0.1).astype(np.float32)
    x, g, b = (tf.constant(value, tf.float64) for value in (images, gamma, beta))
    with tf.GradientTape() as tape:
        tape.watch((x, g, b))
        center, spread = tf.nn.moments(x, [0]) if of_batch else (mean, variance)
        normalized = (x - tf.cast(center, tf.float64)) * tf.math.rsqrt(
            tf.cast(spread, tf.float64) + EPSILON
        )
        outputs = g * normalized + b
        loss = tf.reduce_sum((tf.nn.relu(outputs) if relu else outputs) * upstream)
    if of_batch:
        mean, variance = center.numpy().astype(np.float32), spread.numpy().astype(np.float32)
    actual = library.load().stugan_normalization_gradient(
        images,
        upstream,
        mean,
        (1 / np.sqrt(variance + EPSILON)).astype(np.float32),
        gamma,
        beta,
        relu=relu,
        of_batch=of_batch,
        instruction_set=instruction_set,
    )
    for mine, theirs in zip(actual, tape.gradient(loss, (x, g, b)), strict=True):
        assert_close(mine.numpy(), theirs.numpy(), 2e-4, "gradient")


@pytest.mark.parametrize("instruction_set", INSTRUCTION_SETS)
@pytest.mark.parametrize(
    ("upsampling", "pooling", "padding"), [(1, 2, "same"), (2, 1, "valid"), (2, 2, "same")]
)
def test_whole_numbers_give_exactly_the_products_of_resized_images(
    upsampling, pooling, padding, instruction_set
):
    """With more channels than are packed at once, and tiles that images do not fill."""
    random = np.random.default_rng(0)

    def draw(*shape):
        return random.integers(-3, 4, shape).astype(np.float32)

    factors = {"pooling": pooling, "instruction_set": instruction_set}
    images, kernel = draw(3, 6, 10, 150), draw(3, 5, 150, 21)
    kernel *= random.random(kernel.shape) < 0.2
    pads = paddings(padding, kernel.shape[:2])
    with tf.GradientTape() as tape:
        exact, weights = tf.nn.relu(tf.constant(images, tf.float64)), tf.cast(kernel, tf.float64)
        tape.watch([exact, weights])
        expected = tf.nn.conv2d(upsampled(exact, upsampling), weights, 1, padding.upper())
        expected = pooling**2 * tf.nn.avg_pool2d(expected, pooling, pooling, "VALID")
        upstream = draw(*expected.shape)
    of_images, of_kernel = tape.gradient(expected, [exact, weights], tf.cast(upstream, tf.float64))
    actual = convolve(images, kernel, pads, relu=True, upsampling=upsampling, **factors)
    np.testing.assert_array_equal(actual, expected)
    actual = convolve(
        upstream,
        kernel,
        pads,
        transposed=True,
        upsampling=pooling,
        pooling=upsampling,
        instruction_set=instruction_set,
    )
    np.testing.assert_array_equal(actual, of_images)
    mask = (kernel != 0).astype(np.float32)
    actual = kernel_gradient(
        images, upstream, mask, pads, relu=True, upsampling=upsampling, **factors
    )
    np.testing.assert_array_equal(actual, of_kernel * mask)


def test_nan_passes_through_the_fused_relu():
    images = np.ones((1, 4, 4, 20), np.float32)
    images[0, 1, 1, 3] = np.nan
    outputs = convolve(images, np.ones((1, 1, 20, 5), np.float32), [0] * 4, relu=True).numpy()
    assert np.isnan(outputs[0, 1, 1]).all()
    assert np.isnan(outputs).sum() == 5


def test_batch_statistics_of_nothing_and_their_gradient_are_no_crash():
    empty = np.zeros((0, 4, 4, 3), np.float32)
    operations = library.load()
    mean, variance = operations.stugan_channel_moments(empty)
    assert mean.shape == variance.shape == (3,)
    ones = np.ones(3, np.float32)
    gradients = operations.stugan_normalization_gradient(empty, empty, ones, ones, ones, ones)
    assert gradients[0].shape == empty.shape
    assert not gradients[1].numpy().any()


@pytest.mark.parametrize(
    "wrong",
    [
        {"scale": np.ones(2, np.float32), "shift": np.ones(3, np.float32)},
        {"scale": np.ones(2, np.float32), "shift": np.ones(2, np.float32)},
        {"bias": np.ones(3, np.float32)},
        {"residual": np.ones((1, 4, 4, 3), np.float32)},
        {"residual": np.ones((1, 4, 4, 5), np.float32), "residual_upsampling": 2},
        {"upsampling": 3},
        {"pooling": 3},
        {"residual_upsampling": 0},
        {"instruction_set": "sse"},
    ],
)
def test_surroundings_that_do_not_fit_are_refused(wrong):
    images, kernel = np.ones((1, 4, 4, 3), np.float32), np.ones((3, 3, 3, 5), np.float32)
    with pytest.raises((tf.errors.InvalidArgumentError, ValueError)):
        convolve(images, kernel, [1] * 4, **wrong)


def test_an_odd_output_is_not_pooled():
    images, kernel = np.ones((1, 5, 5, 3), np.float32), np.ones((3, 3, 3, 5), np.float32)
    with pytest.raises(tf.errors.InvalidArgumentError, match="pooled"):
        convolve(images, kernel, [1] * 4, pooling=2)


@pytest.mark.parametrize("relu", [False, True])
def test_gradients_of_gradients_of_a_fused_convolution_are_refused_in_words(relu):
    images, kernel, ones = tf.ones([1, 4, 4, 3]), tf.ones([3, 3, 3, 5]), tf.ones(3)
    normalization = Normalization(ones, ones, ones, ones, EPSILON, True)
    with tf.GradientTape() as outer:
        outer.watch(images)
        with tf.GradientTape() as inner:
            inner.watch(images)
            outputs = masked_convolution(
                images, kernel, kernel, "same", normalization=normalization, relu=relu
            )
        gradient = inner.gradient(outputs, images)
    with pytest.raises(NotImplementedError, match="fuse"):
        outer.gradient(gradient, images)
