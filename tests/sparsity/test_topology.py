import functools
import math

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from stugan_tf.sparsity.distributions import exact_mask
from stugan_tf.sparsity.exploration_rate import churn
from stugan_tf.sparsity.topology import (
    Scores,
    prune,
    prune_and_regrow,
    prune_and_regrow_bernoulli,
    prune_and_regrow_elsewhere,
    prune_and_regrow_from_zero,
    prune_and_regrow_globally,
    prune_and_regrow_per_layer,
    prune_globally,
    prune_per_layer,
    top_k_mask,
)
from tests.helpers import reference
from tests.helpers.params import examples, first_by_default

SHAPE = (3, 3, 2, 4)  # one shape, so that each function is traced and compiled once
TRICKY = [0.0, -0.0, 1.0, -1.0, 1e-45, -1e-45, 3.4e38, math.inf, -math.inf, math.nan]
modes = pytest.mark.parametrize(
    "compile_",
    first_by_default(lambda f: f, tf.function, tf.function(jit_compile=True)),
    ids=["eager", "graph", "xla"],
)


def scores(elements=None):
    bits = arrays(np.int32, SHAPE).map(lambda bits: bits.view(np.float32))
    ties = arrays(np.float32, SHAPE, elements=st.sampled_from(TRICKY), fill=st.nothing())
    return st.one_of(bits, ties)


def masks():
    return arrays(np.float32, SHAPE, elements=st.sampled_from([0.0, 1.0]), fill=st.nothing())


# TensorFlow takes subnormal numbers for zeros, so a fraction of them drops nothing.
fractions = st.floats(0, 1, allow_subnormal=False)


def best_first(scores, candidates):
    """Candidates by falling score, then rising index; NaN last: a plain comparison sort."""

    def rank(index):
        score = float(scores.flat[index])
        return (1, 0.0, index) if math.isnan(score) else (0, -score, index)

    return sorted(candidates, key=rank)


def reference_prune_and_regrow(mask, drop_scores, grow_scores, drop_fraction):
    active = np.flatnonzero(mask)
    num_drop = math.ceil(drop_fraction * len(active))
    updated = np.zeros_like(mask)
    updated.flat[best_first(drop_scores, active)[: len(active) - num_drop]] = 1
    updated.flat[best_first(grow_scores, np.flatnonzero(updated == 0))[:num_drop]] = 1
    return updated


@pytest.mark.parametrize(
    "update",
    first_by_default(prune_and_regrow_globally, prune_and_regrow_per_layer, prune_globally),
)
def test_a_compiled_update_holds_no_numbers_for_each_weight(update):
    """A literal as large as a kernel makes a program as large as the network."""
    shape = (3, 3, 128, 128)
    compiled = tf.function(
        lambda mask, drop, grow, amount: update([mask], Scores([drop], [grow]), amount),
        autograph=False,
        jit_compile=True,
    )
    spec = tf.TensorSpec(shape)
    program = compiled.experimental_get_compiler_ir(spec, spec, spec, tf.TensorSpec([], tf.float64))
    assert len(program(stage="hlo_serialized")) < math.prod(shape)


def test_top_k_by_hand():
    assert top_k_mask(tf.constant([[3.0, 1.0], [2.0, 3.0]]), 2).numpy().tolist() == [[1, 0], [0, 1]]


def test_a_tie_goes_to_the_lowest_index():
    assert top_k_mask(tf.constant([1.0, 2.0, 1.0, 1.0]), 3).numpy().tolist() == [1, 1, 1, 0]


def test_nan_ranks_below_minus_infinity_and_zeros_are_equal():
    scores = tf.constant([math.nan, -math.inf, -0.0, 0.0])
    marked = [top_k_mask(scores, k).numpy().tolist() for k in range(5)]
    assert marked == [[0, 0, 0, 0], [0, 0, 1, 0], [0, 0, 1, 1], [0, 1, 1, 1], [1, 1, 1, 1]]


@modes
@pytest.mark.hypothesis
def test_top_k_marks_what_a_stable_sort_puts_first(compile_):
    compiled = compile_(top_k_mask)

    @given(scores=scores(), k=st.integers(0, math.prod(SHAPE)))
    @examples(50)
    def check(scores, k):
        expected = np.zeros(SHAPE, np.float32)
        expected.flat[best_first(scores, range(scores.size))[:k]] = 1
        np.testing.assert_array_equal(compiled(scores, tf.constant(k)), expected)

    check()


def test_top_k_chooses_among_candidates_only():
    scores = tf.constant([9.0, math.nan, -math.inf, 8.0])
    among = tf.constant([False, True, True, False])
    assert top_k_mask(scores, 1, among).numpy().tolist() == [0, 0, 1, 0]
    assert top_k_mask(scores, 2, among).numpy().tolist() == [0, 1, 1, 0]


def test_prune_and_regrow_by_hand():
    mask = tf.constant([1.0, 1.0, 1.0, 1.0, 0.0, 0.0])
    magnitudes = tf.constant([0.4, 0.1, 0.3, 0.2, 0.0, 0.0])  # drops the second and the fourth
    gradients = tf.constant([9.0, 2.0, 9.0, 0.1, 1.0, 3.0])  # the second returns, the last is new
    updated, kept = prune_and_regrow(mask, magnitudes, gradients, 0.5)
    assert updated.numpy().tolist() == [1, 1, 1, 0, 0, 1]
    assert kept.numpy().tolist() == [1, 0, 1, 0, 0, 0]


@modes
@pytest.mark.hypothesis
def test_prune_and_regrow_follows_equations_3_and_4(compile_):
    compiled = compile_(prune_and_regrow)

    @given(mask=masks(), drop_scores=scores(), grow_scores=scores(), drop_fraction=fractions)
    @examples(50)
    def check(mask, drop_scores, grow_scores, drop_fraction):
        updated = compiled(mask, drop_scores, grow_scores, tf.constant(drop_fraction, tf.float64))[
            0
        ].numpy()
        expected = reference_prune_and_regrow(mask, drop_scores, grow_scores, drop_fraction)
        np.testing.assert_array_equal(updated, expected)
        assert updated.sum() == mask.sum()

    check()


@pytest.mark.parametrize(
    "drop_fraction", [0.1, np.float64(0.1), tf.constant(0.1, tf.float64), tf.constant(0.0625)]
)
def test_a_tenth_of_ten_weights_is_one(drop_fraction):
    """In float32 0.1 is a little more than a tenth, which would be rounded up to two."""
    mask = tf.constant([1.0] * 10 + [0.0] * 10)
    assert churn(mask, prune_and_regrow(mask, mask, 1 - mask, drop_fraction)[0]) == 0.1


@pytest.mark.ci
def test_counts_are_exact_where_float32_cannot_count():
    num_active = 2**24 + 1
    mask = tf.concat([tf.ones(num_active), tf.zeros(2**23 + 1)], axis=0)
    updated, _ = prune_and_regrow(mask, mask, 1 - mask, 0.5)
    assert tf.math.count_nonzero(updated) == num_active
    assert tf.math.count_nonzero(updated * (1 - mask)) == 2**23 + 1


def test_a_dense_layer_stays_as_it_is():
    scores = tf.random.stateless_normal(SHAPE, (0, 1))
    assert tf.reduce_all(prune_and_regrow(tf.ones(SHAPE), scores, -scores, 0.5)[0] == 1)


def test_per_layer_keeps_each_count_and_globally_the_total():
    masks = [tf.constant([1.0, 1.0, 0.0]), tf.constant([[1.0, 0.0], [1.0, 0.0]])]
    drop_scores = [tf.constant([1.0, 2.0, 0.0]), tf.constant([[3.0, 0.0], [4.0, 0.0]])]
    grow_scores = [tf.constant([1.0, 2.0, 3.0]), tf.constant([[0.0, 5.0], [0.0, 6.0]])]
    arguments = (masks, Scores(drop_scores, grow_scores), 0.5)
    per_layer = [mask.numpy().tolist() for mask in prune_and_regrow_per_layer(*arguments)[0]]
    assert per_layer == [[0, 1, 1], [[0, 0], [1, 1]]]
    globally = [mask.numpy().tolist() for mask in prune_and_regrow_globally(*arguments)[0]]
    assert globally == [[0, 0, 0], [[1, 1], [1, 1]]]


def test_globally_is_one_exploration_of_all_weights():
    shapes = [(3, 3, 4, 8), (1, 1, 8, 4), (5, 7)]
    masks = [exact_mask(shape, 0.3, (0, i)) for i, shape in enumerate(shapes)]
    drop_scores = [tf.random.stateless_uniform(shape, (1, i)) for i, shape in enumerate(shapes)]
    grow_scores = [tf.random.stateless_uniform(shape, (2, i)) for i, shape in enumerate(shapes)]
    updated, _ = prune_and_regrow_globally(masks, Scores(drop_scores, grow_scores), 0.4)
    flat = [np.concatenate([np.ravel(x) for x in xs]) for xs in (masks, drop_scores, grow_scores)]
    expected = reference_prune_and_regrow(*flat, 0.4)
    np.testing.assert_array_equal(np.concatenate([np.ravel(x) for x in updated]), expected)
    assert [mask.shape for mask in updated] == [mask.shape for mask in masks]


def test_xla_compiles_top_k_for_all_scores_not_for_each():
    compiled = tf.function(top_k_mask, jit_compile=True)
    program = compiled.experimental_get_compiler_ir(tf.ones(SHAPE), tf.constant(1), None)("hlo")
    assert "entry_computation_layout={(f32[3,3,2,4]{3,2,1,0}, s32[])" in program


def scores_and_mask(seed, shape=(4, 5, 3)):
    rng = np.random.default_rng(seed)
    mask = (rng.uniform(size=shape) < rng.uniform()).astype(np.float32)
    return mask, *rng.normal(size=(2, *shape)).astype(np.float32)


@examples(30)
@given(seed=st.integers(0, 1000), drop=st.integers(0, 20), density=st.integers(0, 20))
def test_a_density_asked_for_is_met_exactly(seed, drop, density):
    """The lowest go, then the highest come: more go than asked for if too many would be left."""
    mask, drop_scores, grow_scores = scores_and_mask(seed)
    updated, _ = prune_and_regrow(mask, drop_scores, grow_scores, drop / 20, density / 20)
    num_after = round(density / 20 * mask.size)
    num_kept = min(int(mask.sum()) - math.ceil(drop / 20 * int(mask.sum())), num_after)
    kept = reference.mark_largest(drop_scores, num_kept, mask > 0)
    grown = reference.mark_largest(grow_scores, num_after - num_kept, kept == 0)
    np.testing.assert_array_equal(updated, kept + grown)
    assert tf.reduce_sum(updated) == num_after


densities = st.none() | st.integers(0, 20).map(lambda twentieths: twentieths / 20)


@pytest.mark.ci
def test_elsewhere_nothing_returns_that_was_dropped():
    """As many are dropped as asked for, or as there are zeros to take their place."""
    regrow = tf.function(functools.partial(prune_and_regrow, may_return=False))

    @examples(30)
    @given(seed=st.integers(0, 1000), drop=st.integers(0, 20), density=densities)
    def check(seed, drop, density):
        mask, drop_scores, grow_scores = scores_and_mask(seed)
        fractions = [x if x is None else tf.constant(x, tf.float64) for x in (drop / 20, density)]
        updated = regrow(mask, drop_scores, grow_scores, *fractions)[0].numpy()
        active = int(mask.sum())
        num_after = active if density is None else round(density * mask.size)
        num_kept = min(active - math.ceil(drop / 20 * active), num_after)
        num_kept = max(num_kept, num_after - (mask.size - active))
        kept = reference.mark_largest(drop_scores, num_kept, mask > 0)
        grown = reference.mark_largest(grow_scores, num_after - num_kept, mask == 0)
        np.testing.assert_array_equal(updated, kept + grown)
        assert updated.sum() == num_after

    check()


def test_elsewhere_a_dense_layer_stays_as_it_is():
    scores = tf.random.stateless_normal(SHAPE, (0, 1))
    (updated,), _ = prune_and_regrow_elsewhere([tf.ones(SHAPE)], Scores([scores], [-scores]), 0.5)
    assert tf.reduce_all(updated == 1)


@pytest.mark.ci
def test_from_zero_what_survives_is_what_was_not_dropped():
    update = tf.function(prune_and_regrow_from_zero)

    @examples(30)
    @given(seed=st.integers(0, 1000), drop=st.integers(0, 20))
    def check(seed, drop):
        mask, drop_scores, grow_scores = scores_and_mask(seed)
        scores = Scores([drop_scores], [grow_scores])
        _, (kept,) = update([mask], scores, tf.constant(drop / 20, tf.float64))
        num_kept = int(mask.sum()) - math.ceil(drop / 20 * int(mask.sum()))
        expected = reference.mark_largest(drop_scores, num_kept, mask > 0)
        np.testing.assert_array_equal(kept, expected if (mask == 0).any() else mask)

    check()


def test_from_zero_a_dense_layer_keeps_its_values():
    scores = tf.random.stateless_normal(SHAPE, (0, 1))
    _, (kept,) = prune_and_regrow_from_zero([tf.ones(SHAPE)], Scores([scores], [scores]), 0.5)
    assert tf.reduce_all(kept == 1)


@pytest.mark.parametrize("update", [prune_and_regrow_per_layer, prune_and_regrow_elsewhere])
def test_by_default_all_that_is_active_keeps_its_value(update):
    scores = Scores([tf.constant([3.0, 2.0, 1.0])], [tf.constant([1.0, 3.0, 2.0])])
    masks, kept = update([tf.constant([1.0, 1.0, 0.0])], scores, 0.5)
    assert kept is masks


def test_bernoulli_growth_takes_each_zero_whose_number_is_small_enough():
    """The authors' random growth: rand() < dropped / zeros, among the zeros after the drop."""
    regrow = tf.function(functools.partial(prune_and_regrow, exactly=False))

    @examples(30)
    @given(seed=st.integers(0, 1000), drop=st.integers(0, 20))
    def check(seed, drop):
        mask, drop_scores, _ = scores_and_mask(seed)
        drawn = np.random.default_rng(seed).uniform(size=mask.shape).astype(np.float32)
        updated = regrow(mask, drop_scores, drawn, tf.constant(drop / 20, tf.float64))[0].numpy()
        num_drop = math.ceil(drop / 20 * int(mask.sum()))
        kept = reference.mark_largest(drop_scores, int(mask.sum()) - num_drop, mask > 0)
        zeros = int((kept == 0).sum())
        grown = (kept == 0) & (drawn < (num_drop / zeros if zeros else 0))
        np.testing.assert_array_equal(updated, kept + grown)

    check()


def test_bernoulli_growth_keeps_the_number_on_average_and_dense_layers_dense():
    shape = (100, 100)
    mask = exact_mask(shape, 0.3, (0, 1))
    counts = [
        int(tf.reduce_sum(prune_and_regrow_bernoulli([mask], Scores([mask], [drawn]), 0.5)[0][0]))
        for drawn in (tf.random.stateless_uniform(shape, (2, i)) for i in range(5))
    ]
    # 1500 are expected to grow; one draw's standard deviation is below sqrt(1500) = 39.
    assert abs(np.mean(counts) - 3000) < 4 * 39 / math.sqrt(5)
    assert len(set(counts)) > 1
    dense, drawn = tf.ones(SHAPE), tf.random.stateless_uniform(SHAPE, (3, 0))
    (updated,), _ = prune_and_regrow_bernoulli([dense], Scores([drawn], [drawn]), 0.5)
    assert tf.reduce_all(updated == 1)


@examples(30)
@given(seed=st.integers(0, 1000), sparsity=st.integers(0, 40))
def test_pruning_only_drops_and_to_the_number_asked_for(seed, sparsity):
    mask, scores, _ = scores_and_mask(seed)
    pruned = prune(mask, scores, sparsity / 40).numpy()
    num_kept = min(max(round((1 - sparsity / 40) * mask.size), 1), int(mask.sum()))
    np.testing.assert_array_equal(pruned, reference.mark_largest(scores, num_kept, mask > 0))


def test_pruning_globally_ranks_all_layers_as_one_and_per_layer_each():
    masks = [tf.ones([2, 4]), tf.ones([8])]
    scores = [tf.reshape(tf.range(8.0), [2, 4]), tf.range(8.0) + 100]
    counts = [int(tf.reduce_sum(m)) for m in prune_globally(masks, Scores(scores), 0.75)[0]]
    assert counts == [0, 4]
    counts = [int(tf.reduce_sum(m)) for m in prune_per_layer(masks, Scores(scores), 0.75)[0]]
    assert counts == [2, 2]
    assert prune_per_layer(masks, Scores(scores), 0.99)[0][1].numpy().tolist() == [0] * 7 + [1]
