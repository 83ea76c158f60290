import numpy as np
import pytest

from stugan_tf.latents import (
    between_classes,
    between_latents,
    class_rows,
    loop_through,
    loop_through_classes,
)


def normal(rows, columns, seed=0):
    return np.random.default_rng(seed).normal(size=[rows, columns]).astype(np.float32)


def test_rows_are_of_classes_and_columns_of_latents():
    latents, labels = class_rows(normal(3, 2), [4, 1])
    np.testing.assert_array_equal(labels, [4, 4, 4, 1, 1, 1])
    np.testing.assert_array_equal(latents, np.concatenate([normal(3, 2)] * 2))
    assert latents.dtype == np.float32
    assert labels.dtype == np.int32


@pytest.mark.parametrize("num_columns", [2, 5])
@pytest.mark.parametrize("latent_dim", [1, 2, 128])
def test_a_row_goes_from_its_start_to_its_end(latent_dim, num_columns):
    starts, ends = normal(6, latent_dim), normal(6, latent_dim, seed=1)
    rows = between_latents(starts, ends, num_columns).reshape(6, num_columns, latent_dim)
    assert np.all(np.isfinite(rows))
    np.testing.assert_array_equal(rows[:, 0], starts)
    np.testing.assert_allclose(rows[:, -1], ends, rtol=1e-6)


def test_between_two_unit_vectors_lies_an_arc_of_equal_steps():
    # From (1, 0) to (0, 1) by thirds of a right angle.
    rows = between_latents(np.float32([[1, 0]]), np.float32([[0, 1]]), 4)
    angles = np.arange(4) * np.pi / 6
    np.testing.assert_allclose(rows, np.stack([np.cos(angles), np.sin(angles)], 1), atol=1e-7)


def test_latents_on_one_line_have_the_line_between_them():
    rows = between_latents(np.float32([[1, 2], [1, 2]]), np.float32([[-1, -2], [1, 2]]), 3)
    np.testing.assert_allclose(rows, [[1, 2], [0, 0], [-1, -2], [1, 2], [1, 2], [1, 2]], atol=1e-6)


def test_between_classes_their_weights_change_by_equal_steps():
    rows = between_classes([0, 2], [2, 1], 3, num_columns=3)
    expected = [[1, 0, 0], [0.5, 0, 0.5], [0, 0, 1], [0, 0, 1], [0, 0.5, 0.5], [0, 1, 0]]
    np.testing.assert_array_equal(rows, expected)
    assert rows.dtype == np.float32


@pytest.mark.parametrize("latent_dim", [1, 2, 128])
@pytest.mark.parametrize("num_keyframes", [1, 2, 5])
def test_a_loop_passes_its_keyframes_and_comes_back_without_a_jump(latent_dim, num_keyframes):
    keyframes = normal(3 * num_keyframes, latent_dim).reshape(3, num_keyframes, latent_dim)
    loop = loop_through(keyframes, num_frames=100 * num_keyframes)
    assert loop.dtype == np.float32
    np.testing.assert_allclose(loop[::100], keyframes.swapaxes(0, 1), rtol=1e-5)
    if latent_dim > 2:  # In a plane a walk may have to turn quickly about zero.
        steps = np.linalg.norm(np.roll(loop, -1, axis=0) - loop, axis=-1)
        between = np.linalg.norm(np.roll(keyframes, -1, axis=1) - keyframes, axis=-1)
        assert steps.max() <= 0.05 * between.max()
        turns = np.diff(loop, axis=0, append=loop[:1])
        turns = np.linalg.norm(np.roll(turns, -1, axis=0) - turns, axis=-1)
        assert turns.max() <= 0.005 * between.max()  # A corner would turn by a whole step.


def test_a_loop_is_nowhere_nearer_to_zero_than_its_keyframes():
    keyframes = normal(4 * 6, 128).reshape(4, 6, 128)
    lengths = np.linalg.norm(loop_through(keyframes, 120), axis=-1)
    ends = np.linalg.norm(keyframes, axis=-1)
    assert np.all(lengths > 0.999 * ends.min(axis=1))
    assert np.all(lengths < 1.001 * ends.max(axis=1))


def test_a_loop_through_classes_mixes_each_with_the_next():
    loop = loop_through_classes(np.int32([[0, 2], [1, 1]]), num_classes=3, num_frames=4)
    half = [[1, 0, 0], [0.5, 0, 0.5], [0, 0, 1], [0.5, 0, 0.5]]
    np.testing.assert_array_equal(loop[:, 0], half)
    np.testing.assert_array_equal(loop[:, 1], [[0, 1, 0]] * 4)
    assert loop.dtype == np.float32
