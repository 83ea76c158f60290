"""The sparse products are those of TensorFlow's dense convolution, in float64.

Most are of small whole numbers. Their sums are exact in float32, so that nothing hides behind a
tolerance: one product too many or too few is seen.
"""

import concurrent.futures
import itertools
import math

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from stugan_tf.kernels.convolution import (
    Choice,
    convolve,
    kernel_gradient,
    masked_convolution,
    paddings,
)
from tests.helpers.params import examples

pytestmark = pytest.mark.usefixtures("operations")

INSTRUCTION_SETS = ["best", "x86-64-v3", "baseline"]
PRODUCTS = ["forward", "input_gradient", "kernel_gradient"]
WANTED = [True, False, tf.constant(True), tf.constant(False)]
CHOICES = [Choice(*parts) for parts in itertools.product([False, True], repeat=3)]
seeds = st.integers(0, 2**32 - 1)


class Problem:
    """Images, a sparse kernel and a gradient of the outputs, of small whole numbers."""

    def __init__(self, batch, size, kernel_shape, padding, density, seed):
        self.padding = padding
        self.pads = paddings(padding, kernel_shape[:2])
        self.random = np.random.default_rng(seed)
        top, bottom, left, right = self.pads
        height = size[0] + top + bottom - kernel_shape[0] + 1
        width = size[1] + left + right - kernel_shape[1] + 1
        self.images = self.whole_numbers(batch, *size, kernel_shape[2])
        self.gradient = self.whole_numbers(batch, height, width, kernel_shape[3])
        self.mask = (self.random.random(kernel_shape) < density).astype(np.float32)
        self.kernel = self.mask * self.random.choice([-3, -2, -1, 1, 2, 3], kernel_shape)
        self.kernel = self.kernel.astype(np.float32)

    def whole_numbers(self, *shape):
        return self.random.integers(-4, 5, shape).astype(np.float32)

    def __repr__(self):
        density = self.mask.mean() if self.mask.size else 0
        return f"{self.images.shape} * {self.kernel.shape}, {self.padding}, density {density:.2f}"

    def dense(self, product):
        return dense(product, self.images, self.kernel, self.gradient, self.mask, self.padding)

    def sparse(self, product, instruction_set="best"):
        return sparse(
            product,
            *(self.images, self.kernel, self.gradient, self.mask, self.pads, instruction_set),
        )


@st.composite
def problems(draw, least_batch=0, most_batch=40, most_channels=40):
    channels = st.integers(1, most_channels)
    padding = draw(st.sampled_from(["same", "valid"]))
    extents = [draw(st.integers(1, 5)) for _ in range(2)]
    least = extents if padding == "valid" else [1, 1]
    size = [draw(st.integers(smallest, 13)) for smallest in least]
    kernel_shape = (*extents, draw(channels), draw(channels))
    density = draw(st.one_of(st.sampled_from([0.0, 0.05, 0.1, 1.0]), st.floats(0, 1)))
    batch = draw(st.integers(least_batch, most_batch))
    problem = Problem(batch, size, kernel_shape, padding, density, draw(seeds))
    for axis in (2, 3):  # Channels without any weight.
        for channel in draw(st.lists(st.integers(0, kernel_shape[axis] - 1), max_size=3)):
            np.moveaxis(problem.kernel, axis, 0)[channel] = 0
            np.moveaxis(problem.mask, axis, 0)[channel] = 0
    return problem


small_problems = problems(most_batch=3, most_channels=9)


def dense(product, images, kernel, gradient, mask, padding):
    """What TensorFlow computes of float64; where the mask is zero, so is a kernel's gradient."""
    images, kernel, gradient = (np.asarray(x, np.float64) for x in (images, kernel, gradient))
    options = {"strides": [1, 1, 1, 1], "padding": padding.upper()}
    if product == "forward":
        return tf.nn.conv2d(images, kernel, **options).numpy()
    if product == "input_gradient":
        return tf.raw_ops.Conv2DBackpropInput(
            input_sizes=images.shape, filter=kernel, out_backprop=gradient, **options
        ).numpy()
    of_kernel = tf.raw_ops.Conv2DBackpropFilter(
        input=images, filter_sizes=kernel.shape, out_backprop=gradient, **options
    )
    return np.where(mask != 0, of_kernel, 0)


def sparse(product, images, kernel, gradient, mask, pads, instruction_set="best"):
    if product == "forward":
        return convolve(images, kernel, pads, instruction_set=instruction_set)
    if product == "input_gradient":
        return convolve(gradient, kernel, pads, True, instruction_set=instruction_set)
    return kernel_gradient(images, gradient, mask, pads, instruction_set=instruction_set)


def assert_close(actual, expected):
    """To 1e-5 of the largest magnitude."""
    expected = np.asarray(expected)
    tolerance = 1e-5 * np.max(np.abs(expected), initial=0)
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("product", PRODUCTS)
@examples(100)
@given(problem=problems(), instruction_set=st.sampled_from(INSTRUCTION_SETS))
def test_whole_numbers_give_exactly_the_dense_product(product, problem, instruction_set):
    outputs = problem.sparse(product, instruction_set)
    np.testing.assert_array_equal(outputs, problem.dense(product))
    assert outputs.dtype == tf.float32


@pytest.mark.parametrize("product", PRODUCTS)
@examples(30)
@given(problem=problems(), instruction_set=st.sampled_from(INSTRUCTION_SETS))
def test_real_numbers_give_the_dense_product_to_five_digits(product, problem, instruction_set):
    # Of one sign: where sums cancel, no precision can be promised.
    for name in ("images", "gradient"):
        values = problem.random.random(getattr(problem, name).shape, np.float32)
        setattr(problem, name, values)
    problem.kernel = problem.mask * problem.random.random(problem.mask.shape, np.float32)
    assert_close(problem.sparse(product, instruction_set), problem.dense(product))


@pytest.mark.parametrize("product", PRODUCTS)
@pytest.mark.parametrize("instruction_set", INSTRUCTION_SETS)
@pytest.mark.parametrize("batch", [0, 1, 40])
@pytest.mark.parametrize("density", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("kernel_shape", [(1, 1, 40, 33), (4, 4, 16, 17), (3, 3, 0, 2)])
def test_every_density_and_batch_gives_the_dense_product(
    product, instruction_set, batch, density, kernel_shape
):
    problem = Problem(batch, (4, 7), kernel_shape, "same", density, seed=0)
    outputs = problem.sparse(product, instruction_set)
    expected = problem.dense(product) if 0 not in kernel_shape else np.zeros(outputs.shape)
    np.testing.assert_array_equal(outputs, expected)
    if density == 0:
        assert not np.any(outputs)


def test_many_input_channels_are_worked_off_in_blocks():
    for kernel_shape in [(3, 3, 200, 5), (5, 5, 5, 200), (1, 1, 700, 3)]:
        problem = Problem(2, (5, 4), kernel_shape, "same", 0.1, seed=1)
        for product in PRODUCTS:
            np.testing.assert_array_equal(problem.sparse(product), problem.dense(product))


def test_a_convolution_worked_by_hand():
    images = tf.constant([[1.0, 2, 3], [4, 5, 6]])[None, ..., None]
    kernel = tf.constant([[0.0, 10], [1, 0]])[..., None, None]
    outputs = convolve(images, kernel, [0, 1, 0, 1])
    # 10 times the right neighbour and once the one below.
    np.testing.assert_array_equal(outputs[0, ..., 0], [[24, 35, 6], [50, 60, 0]])
    gradient = tf.constant([[1.0, 0, 0], [0, 0, 0]])[None, ..., None]
    of_kernel = kernel_gradient(images, gradient, kernel, [0, 1, 0, 1])
    np.testing.assert_array_equal(of_kernel[..., 0, 0], [[0, 2], [4, 0]])
    of_images = convolve(gradient, kernel, [0, 1, 0, 1], transposed=True)
    np.testing.assert_array_equal(of_images[0, ..., 0], [[0, 10, 0], [1, 0, 0]])


@pytest.mark.parametrize("product", ["forward", "input_gradient"])
@examples(50)
@given(
    problem=small_problems,
    value=st.sampled_from([np.nan, np.inf, -np.inf]),
    instruction_set=st.sampled_from(INSTRUCTION_SETS),
)
def test_a_weight_that_is_not_finite_reaches_what_it_reaches_dense(
    product, problem, value, instruction_set
):
    """Nothing hides it. Where it only meets padding, oneDNN, Eigen and this differ on 0 * inf."""
    index = tuple(problem.random.integers(problem.kernel.shape))
    problem.kernel[index] = value
    outputs, expected = problem.sparse(product, instruction_set).numpy(), problem.dense(product)
    reached = ~np.isfinite(expected)
    assert not np.any(np.isfinite(outputs[reached]))
    if product == "forward":
        np.testing.assert_array_equal(outputs, expected)
    channel = index[3 if product == "forward" else 2]
    np.testing.assert_array_equal(
        np.delete(outputs, channel, axis=3), np.delete(expected, channel, axis=3)
    )


@pytest.mark.parametrize("product", ["forward", "input_gradient"])
@examples(50)
@given(
    problem=small_problems,
    value=st.sampled_from([np.nan, np.inf]),
    zeroed=st.integers(0, 20),
    instruction_set=st.sampled_from(INSTRUCTION_SETS),
)
def test_an_activation_that_is_not_finite_reaches_only_what_a_weight_connects_to_it(
    product, problem, value, zeroed, instruction_set
):
    problem.sparse(product, instruction_set)
    # Fewer weights than a moment ago: those that went count as zeros at once.
    problem.kernel.flat[problem.random.integers(0, problem.kernel.size, zeroed)] = 0
    activations = problem.images if product == "forward" else problem.gradient
    reached = np.zeros_like(activations)
    if activations.size:
        index = tuple(problem.random.integers(activations.shape))
        activations[index], reached[index] = 0, 1
    expected = problem.dense(product)
    ones = (problem.kernel != 0).astype(np.float32)
    images, gradient = (
        (reached, problem.gradient) if product == "forward" else (problem.images, reached)
    )
    sees = dense(product, images, ones, gradient, ones, problem.padding) > 0
    activations[reached > 0] = value
    outputs = problem.sparse(product, instruction_set).numpy()
    assert not np.any(np.isfinite(outputs[sees]))
    np.testing.assert_array_equal(outputs[~sees], expected[~sees])


@examples(50)
@given(small_problems, st.sampled_from(["images", "gradient"]))
def test_what_is_not_finite_is_not_hidden_from_the_gradient_of_the_kernel(problem, name):
    """More weights than these may get NaN: outside of an image a tile counts 0 times activations.

    Not outside of the mask.
    """
    reached = {
        "images": np.zeros_like(problem.images),
        "gradient": np.zeros_like(problem.gradient),
    }
    if reached[name].size:
        index = tuple(problem.random.integers(reached[name].shape))
        reached[name][index] = 1
        getattr(problem, name)[index] = np.nan
        other = "gradient" if name == "images" else "images"
        reached[other][:] = 1
    sees = dense(
        "kernel_gradient",
        *(reached["images"], problem.kernel, reached["gradient"], problem.mask, problem.padding),
    )
    outputs = problem.sparse("kernel_gradient").numpy()
    assert np.all(np.isnan(outputs[sees > 0]))
    assert not np.any(outputs[problem.mask == 0])


edits = st.lists(
    st.one_of(
        st.tuples(st.just("zero"), st.integers(1, 30)),
        st.tuples(st.just("grow"), st.integers(1, 30)),
        st.tuples(st.just("move"), st.integers(1, 30)),
        st.tuples(st.just("redraw"), st.sampled_from([0.0, 0.1, 0.9, 1.0])),
        st.just(("scale", 2)),
    ),
    min_size=1,
    max_size=12,
)


def edit(kernel, kind, argument, random):
    """Changes some weights, as topology updates and optimizers do, or all of them."""
    kernel = kernel.copy()
    flat = kernel.reshape(-1)
    active, zeros = np.flatnonzero(flat), np.flatnonzero(flat == 0)
    if kind in ("zero", "move"):
        flat[random.permutation(active)[:argument]] = 0
    if kind in ("grow", "move"):
        flat[random.permutation(zeros)[:argument]] = 3
    if kind == "redraw":
        flat[:] = random.integers(1, 4, flat.size) * (random.random(flat.size) < argument)
    return kernel * 2 if kind == "scale" and np.all(np.abs(kernel) < 100) else kernel


@examples(50)
@given(problem=small_problems, edits=edits, seed=seeds)
def test_a_kernel_that_changes_is_never_computed_with_a_former_pattern(problem, edits, seed):
    random = np.random.default_rng(seed)
    kernel = tf.Variable(problem.kernel)

    @tf.function
    def products():
        arguments = problem.images, kernel, problem.gradient, kernel, problem.pads
        return [sparse(product, *arguments) for product in PRODUCTS]

    for step in [None, *edits]:
        if step is not None:
            kernel.assign(edit(kernel.numpy(), *step, random))
        arguments = problem.images, kernel, problem.gradient, kernel.numpy(), problem.padding
        for product, outputs in zip(PRODUCTS, products(), strict=True):
            np.testing.assert_array_equal(outputs, dense(product, *arguments))


def test_single_weights_that_come_and_go_are_seen():
    """Each in turn is added to, then taken from, a kernel of which the pattern is known."""
    problem = Problem(2, (5, 5), (3, 3, 2, 3), "same", 0.5, seed=2)
    former = problem.kernel.copy()
    for changed in range(former.size):
        problem.kernel = former.copy()
        problem.kernel.flat[changed] = 0 if former.flat[changed] else 1
        for product in PRODUCTS:
            problem.mask = problem.kernel
            np.testing.assert_array_equal(problem.sparse(product), problem.dense(product))


@pytest.mark.parametrize("product", PRODUCTS)
def test_the_same_arguments_give_the_same_bits(product):
    problem = Problem(9, (11, 10), (3, 3, 33, 34), "same", 0.1, seed=3)
    problem.images = problem.random.standard_normal(problem.images.shape, np.float32)
    problem.gradient = problem.random.standard_normal(problem.gradient.shape, np.float32)
    problem.kernel = problem.mask * problem.random.standard_normal(problem.mask.shape, np.float32)
    first = problem.sparse(product).numpy()
    for _ in range(20):
        np.testing.assert_array_equal(problem.sparse(product), first)


def test_threads_that_call_one_function_with_different_kernels_get_their_own_results():
    kernel_shape = (3, 3, 6, 7)
    all_problems = [
        Problem(3, (6, 5), kernel_shape, "same", density, seed)
        for seed, density in enumerate([0.0, 0.02, 0.1, 0.3, 0.3, 0.5, 0.9, 1.0])
    ]
    expected = [[problem.dense(product) for product in PRODUCTS] for problem in all_problems]

    @tf.function
    def products(images, kernel, gradient, mask):
        pads = paddings("same", kernel_shape[:2])
        return [sparse(product, images, kernel, gradient, mask, pads) for product in PRODUCTS]

    def check(number):
        problem = all_problems[number % len(all_problems)]
        arguments = problem.images, problem.kernel, problem.gradient, problem.mask
        outputs = products(*map(tf.constant, arguments))
        for output, right in zip(outputs, expected[number % len(all_problems)], strict=True):
            np.testing.assert_array_equal(output, right)

    check(0)
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        list(pool.map(check, range(400)))


def smooth(problem):
    """The problem with numbers of which sums neither overflow nor cancel."""
    for name in ("images", "gradient"):
        setattr(problem, name, problem.random.random(getattr(problem, name).shape, np.float32))
    problem.kernel = problem.mask * problem.random.random(problem.mask.shape, np.float32)
    return problem


@pytest.mark.parametrize("wanted", WANTED, ids=["True", "False", "tensor True", "tensor False"])
@pytest.mark.parametrize("choice", CHOICES, ids=str)
def test_every_choice_gives_the_same_numbers(choice, wanted):
    problem = smooth(Problem(2, (5, 6), (3, 2, 4, 5), "same", 0.4, seed=4))
    kernel = tf.Variable(problem.kernel)

    @tf.function
    def outputs_and_gradients(wanted):
        images = tf.constant(problem.images)
        with tf.GradientTape() as tape:
            tape.watch(images)
            outputs = masked_convolution(
                images, kernel, problem.mask, problem.padding, choice, wanted
            )
        return outputs, *tape.gradient(outputs, [images, kernel], problem.gradient)

    outputs, of_images, of_kernel = outputs_and_gradients(wanted)
    assert_close(outputs, problem.dense("forward"))
    assert_close(of_images, problem.dense("input_gradient"))
    assert_close(of_kernel * problem.mask, problem.dense("kernel_gradient"))
    everywhere = problem.mask.copy()
    if wanted or not choice.kernel_gradient:
        everywhere[:] = 1
    expected = dense(
        "kernel_gradient",
        *(problem.images, problem.kernel, problem.gradient, everywhere, problem.padding),
    )
    assert_close(of_kernel, expected)


@pytest.mark.parametrize("wanted", [True, False])
@examples(20)
@given(
    problem=problems(least_batch=1, most_batch=3, most_channels=6),
    choice=st.sampled_from(CHOICES),
)
def test_gradients_of_a_gradient_penalty_are_those_of_the_dense_convolution(
    wanted, problem, choice
):
    smooth(problem)

    def sparsely(images, kernel):
        mask = tf.constant(problem.mask)
        return masked_convolution(images, kernel, mask, problem.padding, choice, wanted)

    def densely(images, kernel):
        return tf.nn.conv2d(images, kernel, 1, problem.padding.upper())

    def second_order(function, dtype):
        images, kernel, mask = (
            tf.constant(x, dtype) for x in (problem.images, problem.kernel, problem.mask)
        )
        with tf.GradientTape() as outer:
            outer.watch([images, kernel])
            with tf.GradientTape() as inner:
                inner.watch([images, kernel])
                # Divided so that the exponential and its slopes stay near 1.
                outputs = function(images, kernel)
                outputs = tf.exp(outputs / math.prod(problem.kernel.shape[:3]))
            of_images, of_kernel = inner.gradient(outputs, [images, kernel])
            penalty = tf.reduce_sum(of_images**2) + tf.reduce_sum((mask * of_kernel) ** 2)
        of_images, of_kernel = outer.gradient(penalty, [images, kernel])
        return of_images, mask * of_kernel

    for actual, expected in zip(
        second_order(sparsely, tf.float32), second_order(densely, tf.float64), strict=True
    ):
        assert_close(actual, expected)


@pytest.mark.parametrize("traced", [False, True])
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize(
    ("images", "kernel", "pads"),
    [
        ((5, 6, 3), (3, 3, 3, 4), [1, 1, 1, 1]),
        ((2, 5, 6, 3, 1), (3, 3, 3, 4), [1, 1, 1, 1]),
        ((2, 5, 6, 3), (3, 3, 3), [1, 1, 1, 1]),
        ((), (), [1, 1, 1, 1]),
        ((2, 5, 6, 5), (3, 3, 3, 4), [1, 1, 1, 1]),
        ((2, 5, 6, 3), (3, 3, 3, 3), []),
        ((2, 5, 6, 3), (3, 3, 3, 3), [1, 1]),
        ((2, 5, 6, 3), (3, 3, 3, 3), [1, 1, 1, 1, 1]),
        ((2, 5, 6, 3), (3, 3, 3, 3), [-1, 1, 1, 1]),
        ((2, 5, 6, 3), (3, 3, 3, 3), [1, 1, 1, 3]),
        ((2, 5, 6, 3), (3, 3, 3, 3), [2**62, 2**62, 0, 0]),
        ((2, 5, 6, 3), (0, 3, 3, 3), [0, 0, 1, 1]),
        ((2, 5, 6, 3), (3, 0, 3, 3), [1, 1, 0, 0]),
    ],
)
def test_what_does_not_belong_together_is_refused(images, kernel, pads, transposed, traced):
    call = tf.function(convolve) if traced else convolve
    with pytest.raises((ValueError, tf.errors.InvalidArgumentError)):
        call(tf.ones(images), tf.ones(kernel), pads, transposed)


@pytest.mark.parametrize("traced", [False, True])
@pytest.mark.parametrize(
    ("size", "pads", "transposed"),
    [((1, 6), [0, 0, 0, 0], False), ((6, 1), [0, 0, 0, 0], False), ((1, 6), [2, 2, 0, 0], True)],
)
def test_a_kernel_that_no_image_can_hold_is_refused(size, pads, transposed, traced):
    call = tf.function(convolve) if traced else convolve
    with pytest.raises((ValueError, tf.errors.InvalidArgumentError), match="too small"):
        call(tf.ones((2, *size, 3)), tf.ones((3, 3, 3, 3)), pads, transposed)


@pytest.mark.parametrize("traced", [False, True])
@pytest.mark.parametrize(
    ("images", "gradient", "mask", "pads"),
    [
        ((5, 6, 3), (2, 5, 6, 4), (3, 3, 3, 4), [1, 1, 1, 1]),
        ((2, 5, 6, 3), (5, 6, 4), (3, 3, 3, 4), [1, 1, 1, 1]),
        ((2, 5, 6, 3), (2, 5, 6, 4), (3, 3, 3), [1, 1, 1, 1]),
        ((2, 5, 6, 3), (2, 5, 6, 4), (), [1, 1, 1, 1]),
        ((2, 5, 6, 3), (2, 5, 6, 5), (3, 3, 3, 4), [1, 1, 1, 1]),
        ((2, 5, 6, 3), (3, 5, 6, 4), (3, 3, 3, 4), [1, 1, 1, 1]),
        ((2, 5, 6, 3), (2, 6, 5, 4), (3, 3, 3, 4), [1, 1, 1, 1]),
        ((2, 5, 6, 3), (2, 5, 6, 4), (3, 3, 3, 4), [0, 0, 1, 1]),
        ((2, 5, 6, 4), (2, 5, 6, 4), (3, 3, 3, 4), [1, 1, 1, 1]),
        ((2, 5, 6, 3), (2, 5, 6, 4), (3, 3, 3, 4), [1, 1, 1]),
        ((2, 5, 6, 3), (2, 1, 6, 4), (3, 3, 3, 4), [-1, -1, 1, 1]),
        ((2, 5, 6, 3), (2, 9, 6, 4), (3, 3, 3, 4), [3, 3, 1, 1]),
        ((2, 1, 6, 3), (2, 0, 4, 4), (4, 3, 3, 4), [0, 0, 0, 1]),
    ],
)
def test_a_gradient_that_is_not_that_of_the_outputs_is_refused(
    images, gradient, mask, pads, traced
):
    call = tf.function(kernel_gradient) if traced else kernel_gradient
    with pytest.raises((ValueError, tf.errors.InvalidArgumentError)):
        call(tf.ones(images), tf.ones(gradient), tf.ones(mask), pads)


def test_the_error_says_what_came_and_what_was_expected():
    with pytest.raises(
        tf.errors.InvalidArgumentError,
        match=r"images have 5 channels, the kernel \[3,3,3,4\] takes 3\.",
    ):
        convolve(tf.ones((2, 5, 6, 5)), tf.ones((3, 3, 3, 4)), [1, 1, 1, 1])
    with pytest.raises(
        tf.errors.InvalidArgumentError,
        match=r"at least 0 and less than the kernel \[3,3,3,4\], got 3\.",
    ):
        convolve(tf.ones((2, 5, 6, 3)), tf.ones((3, 3, 3, 4)), [1, 1, 1, 3])


@pytest.mark.ci
@examples(50)
@given(small_problems, st.lists(st.booleans(), min_size=3, max_size=3))
def test_the_shape_while_tracing_is_that_of_the_result(problem, known):
    """Also where the number or size of the images is not known then."""

    def specification(array):
        sizes = zip(array.shape[:3], known, strict=True)
        return tf.TensorSpec([size if k else None for size, k in sizes] + [array.shape[3]])

    arguments = problem.images, problem.kernel, problem.gradient, problem.mask
    images, kernel, gradient, mask = arguments
    signature = specification(images), kernel.shape, specification(gradient), mask.shape
    signature = [s if isinstance(s, tf.TensorSpec) else tf.TensorSpec(s) for s in signature]

    @tf.function(input_signature=signature)
    def products(*arguments):
        return [sparse(product, *arguments, problem.pads) for product in PRODUCTS]

    static = products.get_concrete_function().output_shapes
    for shape, product, outputs in zip(static, PRODUCTS, products(*arguments), strict=True):
        np.testing.assert_array_equal(outputs, problem.dense(product))
        if product == "kernel_gradient" or all(known):
            assert shape == outputs.shape
        assert shape.rank == 4
        assert shape[3] == outputs.shape[3]
        assert shape.is_compatible_with(outputs.shape)
        for axis in range(3):
            if known[axis]:
                assert shape[axis] == outputs.shape[axis]
