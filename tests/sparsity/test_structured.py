"""Constant fan-in with neuron ablation, and n of m, against loops over neurons and groups."""

import math

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from stugan_tf.errors import InputError
from stugan_tf.sparsity.distributions import exact_mask
from stugan_tf.sparsity.structured import (
    constant_fan_in_mask,
    n_of_m_mask,
    prune_and_regrow_constant_fan_in,
    prune_and_regrow_n_of_m,
    regrow_constant_fan_in,
    regrow_n_of_m,
    top_k_of_rows,
)
from stugan_tf.sparsity.topology import Scores, top_k_mask
from tests.helpers import reference
from tests.helpers.params import examples, first_by_default

SHAPE = (3, 3, 6, 5)  # 54 inputs of 5 neurons; 4 does not divide the 6 channels.
TRICKY = [0.0, -0.0, 1.0, -1.0, 3.4e38, math.inf, -math.inf, math.nan]

shapes = st.lists(st.integers(1, 5), min_size=2, max_size=5).map(tuple)
fractions = st.sampled_from([0.0, 0.1, 0.3, 0.5, 1.0])


def case(shape, seed, density=0.4):
    """A random mask, drop scores that are 0 outside of it, and grow scores; with ties."""
    rng = np.random.default_rng(seed)
    mask = (rng.uniform(size=shape) < density).astype(np.float32)
    mask.flat[0] = 1
    drop = rng.integers(1, 9, shape).astype(np.float32) * mask
    return mask, drop, rng.integers(0, 9, shape).astype(np.float32)


def groups(kernel, m):
    """Indices and values of each group of m inputs."""
    num_inputs, num_neurons = kernel.shape[-2:]
    for position in np.ndindex(kernel.shape[:-2]):
        for first in range(0, num_inputs, m):
            for neuron in range(num_neurons):
                index = (*position, slice(first, first + m), neuron)
                yield index, kernel[index]


def filled(kept, drop, grow, size):
    """A row that keeps at most `size` and grows until it has them."""
    after = reference.mark_largest(drop, min(size, int(kept.sum())), kept > 0)
    return after + reference.mark_largest(grow, size - int(after.sum()), after == 0)


def srigl(mask, drop, grow, drop_fraction, min_salient):
    """The seven steps of SRigL for one kernel, neuron by neuron."""
    num_neurons, fan_in = mask.shape[-1], mask[..., 0].size
    active = int(mask.sum())
    num_drop = math.ceil(drop_fraction * active)
    survivors = range(num_neurons)
    if min_salient:
        spared = reference.mark_largest(drop, active - num_drop, mask > 0)
        wanted = reference.mark_largest(grow, num_drop, np.ones(mask.shape, bool))
        salient = [np.count_nonzero((spared + wanted)[..., j]) for j in survivors]
        enough = max(1, math.floor(min_salient * active / num_neurons))
        number = max(sum(s >= enough for s in salient), math.ceil(active / fan_in))
        survivors = sorted(survivors, key=lambda j: (-salient[j], j))[:number]
    candidates = np.zeros(mask.shape, bool)
    candidates[..., survivors] = mask[..., survivors] > 0
    num_kept = min(active - num_drop, int(candidates.sum()))
    kept = reference.mark_largest(drop, num_kept, candidates)
    size = math.floor(active / len(survivors) + 0.5)
    size = min(max(size, 1), fan_in)
    updated = np.zeros(mask.shape, np.float32)
    for j in survivors:
        updated[..., j] = filled(kept[..., j], drop[..., j], grow[..., j], size)
    return updated


@pytest.mark.parametrize(
    "compile_",
    first_by_default(lambda f: f, tf.function, tf.function(jit_compile=True)),
    ids=["eager", "graph", "xla"],
)
def test_each_row_marks_what_top_k_of_the_row_marks(compile_):
    compiled = compile_(top_k_of_rows)
    tricky = arrays(np.float32, (3, 7), elements=st.sampled_from(TRICKY), fill=st.nothing())
    bits = arrays(np.int32, (3, 7)).map(lambda bits: bits.view(np.float32))

    @examples(20)
    @given(
        scores=tricky | bits,
        k=arrays(np.int32, 3, elements=st.integers(0, 8)),
        among=arrays(bool, (3, 7)),
    )
    def check(scores, k, among):
        marked = compiled(scores, k, among).numpy()
        for row, number, candidates, found in zip(scores, k, among, marked, strict=True):
            number = min(number, candidates.sum())
            np.testing.assert_array_equal(found, top_k_mask(row, number, candidates))

    check()


@given(shape=shapes, seed=st.integers(0, 99), p=fractions, gamma=st.sampled_from([0.0, 0.3, 0.95]))
@examples(15)
def test_a_constant_fan_in_is_that_of_srigl(shape, seed, p, gamma):
    mask, drop, grow = case(shape, seed)
    updated = regrow_constant_fan_in(
        mask=tf.constant(mask),
        drop_scores=drop,
        grow_scores=grow,
        drop_fraction=p,
        min_salient=gamma,
    ).numpy()
    np.testing.assert_array_equal(updated, srigl(mask, drop, grow, p, gamma))


@given(shape=shapes, seed=st.integers(0, 99), gamma=st.sampled_from([0.0, 0.5, 0.95]))
@examples(4)
def test_all_neurons_that_are_left_have_one_fan_in_over_many_updates(shape, seed, gamma):
    """And together they have as many weights as before, up to the rounding of one fan-in."""
    mask = constant_fan_in_mask(shape, 0.4, (0, seed))
    fan_in = math.prod(shape[:-1])
    for update in range(3):
        _, drop, grow = case(shape, 100 * seed + update, density=1.0)
        before = int(tf.reduce_sum(mask))
        mask = regrow_constant_fan_in(mask, drop * mask.numpy(), grow, 0.3, gamma)
        per_neuron = tf.reduce_sum(tf.reshape(mask, [fan_in, -1]), axis=0).numpy()
        left = per_neuron[per_neuron > 0]
        assert len(set(left)) == 1
        assert len(left) == shape[-1] or gamma
        assert abs(left.sum() - before) <= len(left) / 2


def test_a_neuron_without_salient_weights_gives_them_to_the_others():
    """By hand: three neurons of four inputs with two weights each."""
    mask = [[1, 1, 1], [1, 1, 1], [0, 0, 0], [0, 0, 0]]
    drop = [[9, 7, 0.1], [8, 6, 0.2], [0, 0, 0], [0, 0, 0]]
    grow = [[0, 0, 0], [0, 0, 0], [3, 1, 0], [2, 4, 0]]
    masks = [tf.constant(mask, tf.float32)] * 2
    scores = Scores(
        [tf.constant(drop, tf.float32)] * 2,
        [tf.constant(grow, tf.float32)] * 2,
    )
    (first, last), kept = prune_and_regrow_constant_fan_in(masks, scores, 1 / 3, min_salient=0.5)
    assert first.numpy().tolist() == [[1, 1, 0], [1, 1, 0], [1, 0, 0], [0, 1, 0]]
    # The last layer keeps its neurons. The third one grows again; all its scores tie.
    assert last.numpy().tolist() == [[1, 1, 1], [1, 1, 1], [0, 0, 0], [0, 0, 0]]
    assert kept[0] is first


def test_an_ablated_neuron_returns_if_its_gradients_are_large():
    mask = tf.constant([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0]])
    drop = tf.constant([[3.0, 0.0], [2.0, 0.0], [1.0, 0.0]])
    grow = tf.constant([[0.0, 5.0], [0.0, 4.0], [0.0, 0.0]])
    updated = regrow_constant_fan_in(mask, drop, grow, 0.5, min_salient=0.5)
    assert updated.numpy().tolist() == [[1, 1], [1, 1], [0, 0]]


@given(shape=shapes, seed=st.integers(0, 99), p=fractions, n=st.integers(1, 3))
@examples(15)
def test_n_of_m_keeps_the_best_of_each_group_and_fills_it(shape, seed, p, n):
    mask, drop, grow = case(shape, seed, density=0.7)
    updated = regrow_n_of_m(tf.constant(mask), drop, grow, p, n, 3).numpy()
    num_kept = int(mask.sum()) - math.ceil(p * int(mask.sum()))
    kept = reference.mark_largest(drop, num_kept, mask > 0)
    for index, group in groups(updated, 3):
        assert group.sum() == min(n, len(group))
        expected = filled(kept[index], drop[index], grow[index], min(n, len(group)))
        np.testing.assert_array_equal(group, expected)


def test_two_of_four_by_hand():
    """p = 1/2 drops the smallest two of four; the first group then lacks one, the other too."""
    mask = [[1], [1], [0], [0], [0], [1], [1], [0]]
    drop = [[3], [1], [0], [0], [0], [2], [4], [0]]
    grow = [[9], [1], [2], [5], [1], [8], [9], [1]]
    updated, kept = prune_and_regrow_n_of_m(
        [tf.constant(mask, tf.float32)],
        Scores([tf.constant(drop, tf.float32)], [tf.constant(grow, tf.float32)]),
        0.5,
    )
    assert updated[0].numpy().ravel().tolist() == [1, 0, 0, 1, 0, 1, 1, 0]
    assert kept is updated


def test_a_dense_kernel_becomes_its_largest_two_of_four():
    drop = np.random.default_rng(0).permutation(24).reshape(4, 6).astype(np.float32)
    updated = regrow_n_of_m(tf.ones((4, 6)), drop, tf.zeros((4, 6)), 0.0).numpy()
    for _, group in groups(updated, 4):
        assert group.sum() == 2
    np.testing.assert_array_equal(np.sort(drop * updated, axis=0)[2:], np.sort(drop, axis=0)[2:])


REGROWS = pytest.mark.parametrize(
    "regrow",
    first_by_default(
        lambda *layer: regrow_constant_fan_in(*layer, 0.3), lambda *layer: regrow_n_of_m(*layer)
    ),
    ids=["fan-in", "n of m"],
)


@REGROWS
@pytest.mark.ci
def test_a_compiled_update_is_the_eager_one(regrow):
    arguments = [*map(tf.constant, case(SHAPE, 0)), tf.constant(0.3, tf.float64)]
    compiled = tf.function(regrow, autograph=False, jit_compile=True)
    np.testing.assert_array_equal(compiled(*arguments), regrow(*arguments))


@REGROWS
def test_a_program_holds_no_numbers_for_each_weight(regrow):
    """A literal as large as a kernel makes a program as large as the network."""
    sizes = []
    for channels in (8, 128):
        compiled = tf.function(regrow, autograph=False, jit_compile=True)
        spec = tf.TensorSpec((3, 3, channels, channels))
        program = compiled.experimental_get_compiler_ir(
            spec, spec, spec, tf.TensorSpec([], tf.float64)
        )
        sizes.append(len(program(stage="hlo_serialized")))
    assert sizes[1] < sizes[0] + 9 * 128 * 128 / 4


@given(shape=shapes, seed=st.integers(0, 99), density=st.floats(0.01, 1))
@examples(10)
def test_draws_have_the_structure_and_the_density(shape, seed, density):
    fan_in = math.prod(shape[:-1])
    drawn = constant_fan_in_mask(shape, density, (0, seed)).numpy()
    assert drawn.shape == shape
    size = max(1, round(density * fan_in))
    assert np.all(drawn.reshape(fan_in, -1).sum(axis=0) == size)
    drawn = n_of_m_mask(shape, density, (0, seed)).numpy()
    assert drawn.shape == shape
    for _, group in groups(drawn, 4):
        assert group.sum() == min(len(group), max(1, round(density * 4)))


@pytest.mark.parametrize("draw", [constant_fan_in_mask, n_of_m_mask])
def test_draws_depend_on_the_seed_alone(draw):
    assert tf.reduce_all(draw(SHAPE, 0.5, (0, 1)) == draw(SHAPE, 0.5, (0, 1)))
    assert tf.reduce_any(draw(SHAPE, 0.5, (0, 1)) != draw(SHAPE, 0.5, (0, 2)))


def test_any_mask_is_made_structured():
    mask = exact_mask(SHAPE, 0.3, (0, 1))
    scores = tf.random.stateless_uniform(SHAPE, (1, 2))
    updated = regrow_constant_fan_in(mask, scores * mask, scores, 0.0).numpy()
    assert len(set(updated.reshape(-1, 5).sum(axis=0))) == 1


def test_a_density_is_refused():
    with pytest.raises(InputError, match="the drop fraction alone"):
        prune_and_regrow_n_of_m([tf.ones((4, 1))], Scores([], []), [0.1, 0.5])
