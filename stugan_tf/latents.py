"""Latents and labels for rows of pictures (classes, interpolations), and for walks of videos."""

from collections.abc import Sequence

import numpy as np


def class_rows(latents: np.ndarray, classes: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """A row for each class. All rows have the same latents, so that columns compare classes.

    Args:
        latents: float32 [num_columns, latent_dim].
        classes: the class of each row.

    Returns:
        Latents float32 [n, latent_dim] and labels int32 [n], row by row.
    """
    labels = np.repeat(np.asarray(classes, np.int32), len(latents))
    return np.tile(latents, [len(classes), 1]), labels


def between_latents(starts: np.ndarray, ends: np.ndarray, num_columns: int) -> np.ndarray:
    """Rows from one latent vector to another, along a great circle.

    Straight lines would pass nearer to zero, where normally distributed latents hardly ever are
    (White 2016, "Sampling Generative Networks").

    Args:
        starts: float32 [num_rows, latent_dim], the first column.
        ends: float32 [num_rows, latent_dim], the last column.
        num_columns: at least 2.

    Returns:
        float32 [num_rows * num_columns, latent_dim], row by row.
    """
    starts, ends = (latents.astype(np.float64)[:, None] for latents in (starts, ends))
    lengths = np.linalg.norm(starts, axis=-1) * np.linalg.norm(ends, axis=-1)
    cosines = np.sum(starts * ends, axis=-1) / lengths
    angles = np.arccos(np.clip(cosines, -1, 1))[..., None]  # [num_rows, 1, 1]
    fractions = np.linspace(0, 1, num_columns)[:, None]
    sines = np.sin(angles)
    # Parallel vectors, such as single numbers, do not define a circle.
    on_a_line = np.abs(sines) < 1e-6
    sines = np.where(on_a_line, 1, sines)
    first = np.where(on_a_line, 1 - fractions, np.sin((1 - fractions) * angles) / sines)
    last = np.where(on_a_line, fractions, np.sin(fractions * angles) / sines)
    rows = first * starts + last * ends
    return rows.reshape(-1, rows.shape[-1]).astype(np.float32)


def between_classes(
    starts: Sequence[int], ends: Sequence[int], num_classes: int, num_columns: int
) -> np.ndarray:
    """Rows of mixtures from one class to another, by equal steps.

    Args:
        starts: the class of the first column, for each row.
        ends: the class of the last column, for each row.
        num_classes: number of classes.
        num_columns: at least 2.

    Returns:
        Weights float32 [num_rows * num_columns, num_classes], row by row; their sum is 1.
    """
    one_hot = np.eye(num_classes)
    fractions = np.linspace(0, 1, num_columns)[:, None]
    first, last = (one_hot[np.asarray(classes)][:, None] for classes in (starts, ends))
    rows = (1 - fractions) * first + fractions * last
    return rows.reshape(-1, num_classes).astype(np.float32)


def loop_through(keyframes: np.ndarray, num_frames: int) -> np.ndarray:
    """A smooth closed walk through latent vectors, for a video that repeats.

    Between keyframes lie cubic splines (Catmull and Rom), so the walk has no corners. A spline
    of normally distributed vectors is too short on its way, as a straight line is. So its length
    is made that between the lengths of the two keyframes.

    Args:
        keyframes: float32 [n, num_keyframes, latent_dim], a walk in each row.
        num_frames: number of points on each walk; the first is the first keyframe.

    Returns:
        float32 [num_frames, n, latent_dim].
    """
    points = keyframes.astype(np.float64).swapaxes(0, 1)
    before, after, fractions = _places(len(points), num_frames)
    slopes = (np.roll(points, -1, axis=0) - np.roll(points, 1, axis=0)) / 2
    t = fractions[:, None, None]
    walk = (
        (2 * t**3 - 3 * t**2 + 1) * points[before]
        + (t**3 - 2 * t**2 + t) * slopes[before]
        + (3 * t**2 - 2 * t**3) * points[after]
        + (t**3 - t**2) * slopes[after]
    )
    if walk.shape[-1] > 1:  # A single number has to pass through zero.
        lengths = np.linalg.norm(points, axis=-1, keepdims=True)
        wanted = lengths[before] + _eased(t) * (lengths[after] - lengths[before])
        walk *= wanted / np.maximum(np.linalg.norm(walk, axis=-1, keepdims=True), 1e-12)
    return walk.astype(np.float32)


def loop_through_classes(keyframes: np.ndarray, num_classes: int, num_frames: int) -> np.ndarray:
    """A closed walk through classes, by mixtures of each with the next, slowest at the classes.

    Args:
        keyframes: int [n, num_keyframes], the classes of a walk in each row.
        num_classes: number of classes.
        num_frames: number of points on each walk; the first is the first keyframe.

    Returns:
        Weights float32 [num_frames, n, num_classes]; their sum is 1.
    """
    one_hot = np.eye(num_classes)[np.asarray(keyframes).T]  # [num_keyframes, n, num_classes]
    before, after, fractions = _places(len(one_hot), num_frames)
    share = _eased(fractions[:, None, None])
    return ((1 - share) * one_hot[before] + share * one_hot[after]).astype(np.float32)


def _places(num_keyframes: int, num_frames: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each frame the keyframe before, the one after, and how far it is between them."""
    times = np.arange(num_frames) * num_keyframes / num_frames
    before = times.astype(np.int64)
    return before, (before + 1) % num_keyframes, times - before


def _eased(fractions: np.ndarray) -> np.ndarray:
    """Goes from 0 to 1 and stands still at both ends."""
    return fractions**2 * (3 - 2 * fractions)
