"""Latents and labels for rows of pictures: rows of classes, and rows of interpolations."""

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
