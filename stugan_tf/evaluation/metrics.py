"""Scores of generated images from features and logits, whatever network made them.

Everything is computed in float64. Scores can be compared only if extractor, number of images and
settings are the same.
"""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from stugan_tf.checks import check_positive
from stugan_tf.errors import InputError
from stugan_tf.evaluation.moments import checked_features

KERNEL_BLOCK = 1000  # vectors

_BLOCK_ELEMENTS = 2**23  # distances held at a time: 64 MiB
_LEAST_LOG_PROBABILITY = -700.0  # its exp() is still a normal float64


def check_enough(num_images: int, num_features: int, what: str) -> None:
    """Raises InputError if there are too few images for a Frechet distance.

    The covariance of n images has rank n - 1 at most. If that is less than the number of features,
    the Frechet distance depends mostly on the number of images.

    Args:
        num_images: number of images.
        num_features: number of features of each image.
        what: name of the number of images in the message.
    """
    if num_images <= num_features:
        raise InputError(
            f"{what}: {num_images} images are too few for a Frechet distance over {num_features} "
            f"features, at least {num_features + 1} are needed: the score would say more about the "
            "number of images than about the images. Evaluate more images, or choose metrics "
            "without 'fid', e.g. 'kid', which does not have this bias."
        )


def frechet_distance(
    mean: npt.ArrayLike,
    covariance: npt.ArrayLike,
    other_mean: npt.ArrayLike,
    other_covariance: npt.ArrayLike,
) -> float:
    """|m - m'|^2 + Tr(C + C' - 2 (C C')^(1/2)) of two Gaussians (Heusel et al. 2017).

    With C = L L^T and C' = L' L'^T, Tr (C C')^(1/2) is the sum of the singular values of L^T L',
    because C C' has the same eigenvalues as (L^T L')^T (L^T L'). No root of a matrix is formed, and
    singular covariances need no jitter: their factors have fewer columns. The error is relative to
    the variances, whatever their scale: about 1e-14 of the traces. So two equal Gaussians of
    deviations near 1e8 may have a distance of 100.

    Args:
        mean: float [D].
        covariance: float [D, D], symmetric without negative eigenvalues.
        other_mean: float [D].
        other_covariance: float [D, D].

    Returns:
        float, at least 0.

    Raises:
        InputError: if a mean or covariance has a wrong shape, or a covariance cannot be one.
    """
    mean, covariance = _checked_moments("The first", mean, covariance)
    other_mean, other_covariance = _checked_moments("The second", other_mean, other_covariance)
    if mean.shape != other_mean.shape:
        raise InputError(
            f"Both moments must be of the same features, got {len(mean)} and {len(other_mean)} "
            "features. Use one extractor for both."
        )
    product = _factor("The first", covariance).T @ _factor("The second", other_covariance)
    squared_shift = np.sum((mean - other_mean) ** 2)
    traces = np.trace(covariance) + np.trace(other_covariance)
    # Rounding makes a zero slightly negative.
    return max(0.0, float(squared_shift + traces - 2 * np.linalg.norm(product, "nuc")))


def check_blocks(num_vectors: int, num_others: int, block_size: int = KERNEL_BLOCK) -> int:
    """The number of blocks into which `kernel_distance` cuts both sets of vectors.

    Args:
        num_vectors: number of vectors in one set.
        num_others: number of vectors in the other set.
        block_size: the most vectors in a block.

    Raises:
        InputError: if a block would have fewer than two vectors.
    """
    num_blocks = -(-max(num_vectors, num_others) // block_size)
    if min(num_vectors, num_others) < 2 * num_blocks:
        raise InputError(
            f"{num_vectors} and {num_others} vectors cannot be cut into {num_blocks} blocks of at "
            f"least 2 each for KID. Even out the numbers of images, or increase `block_size` of "
            f"`kernel_distance`, {block_size} now."
        )
    return num_blocks


def kernel_distance(
    features: npt.ArrayLike, other_features: npt.ArrayLike, block_size: int = KERNEL_BLOCK
) -> tuple[float, float | None]:
    """Squared maximum mean discrepancy under (x.y / D + 1)^3 (Binkowski et al. 2018).

    The estimate is unbiased: for two samples of one distribution its mean is 0, so it is sometimes
    negative. Both sets are cut into the same number of blocks, as few as `block_size` allows, and
    the distances of the pairs of blocks are averaged. So the vectors must be in random order, for
    example not sorted by class.

    Args:
        features: float [n, D].
        other_features: float [m, D].
        block_size: the most vectors in a block.

    Returns:
        `(kid, kid_std)`: the mean over blocks and its standard error, as floats. `kid_std` is None
        if there is only one block, because that gives no estimate of a deviation.

    Raises:
        InputError: if the features cannot be scored, or are too few.
    """
    import tensorflow as tf  # Here, because the table of metrics must not import TensorFlow.

    from stugan_tf.evaluation.tfgan import deprecations_unsaid, tfgan

    check_positive("block_size", block_size)
    features, other_features = _checked_pair(features, other_features)
    num_blocks = check_blocks(len(features), len(other_features), block_size)
    with deprecations_unsaid():
        kid, std = tfgan.eval.kernel_classifier_distance_and_std_from_activations(
            *(tf.constant(vectors, tf.float64) for vectors in (features, other_features)),
            max_block_size=block_size,
        )
    return float(kid), float(std) if num_blocks > 1 else None


class InceptionScore:
    """exp(E KL(p(y|x) || p(y))) over parts of the images (Salimans et al. 2016).

    Part i of n images has the images from i n // num_splits to (i + 1) n // num_splits, as in the
    reference. Only the logits of one part are in memory.

    Args:
        num_images: number of images that will come.
        num_splits: number of parts.
    """

    def __init__(self, num_images: int, num_splits: int = 10) -> None:
        check_positive("num_images", num_images)
        check_positive("num_splits", num_splits)
        if num_images < num_splits:
            raise InputError(
                f"An Inception score over {num_splits} parts needs at least as many images, got "
                f"{num_images}. Evaluate more images or set fewer parts."
            )
        self._num_images = num_images
        self._num_splits = num_splits
        self._num_seen = 0
        self._part: np.ndarray | None = None  # float64 [size of the largest part, K]
        self._filled = 0
        self._scores: list[float] = []

    def update(self, logits: npt.ArrayLike) -> None:
        """Adds the logits of the next images, float [B, K] with any B >= 0."""
        num_classes = None if self._part is None else self._part.shape[1]
        logits = checked_features("logits", logits, 0, num_classes)
        if self._num_seen + len(logits) > self._num_images:
            raise InputError(
                f"An Inception score of {self._num_images} images got "
                f"{self._num_seen + len(logits)}. Set `num_images` to the number of images."
            )
        if self._part is None:
            self._part = np.empty([-(-self._num_images // self._num_splits), logits.shape[1]])
        self._num_seen += len(logits)
        while len(logits):
            taken, logits = np.split(logits, [self._part_size() - self._filled])
            self._part[self._filled : self._filled + len(taken)] = taken
            self._filled += len(taken)
            if self._filled == self._part_size():
                self._scores.append(_inception_score(self._part[: self._filled]))
                self._filled = 0

    def result(self) -> tuple[float, float]:
        """`(mean, std)` over parts; std with divisor `num_splits`, as in the reference."""
        if self._num_seen != self._num_images:
            raise InputError(
                f"An Inception score of {self._num_images} images got only {self._num_seen}. "
                "Update it with the logits of all images."
            )
        return float(np.mean(self._scores)), float(np.std(self._scores))

    def _part_size(self) -> int:
        start, end = (
            i * self._num_images // self._num_splits
            for i in (len(self._scores), len(self._scores) + 1)
        )
        return end - start


def precision_recall(
    real_features: npt.ArrayLike, generated_features: npt.ArrayLike, num_neighbors: int = 3
) -> tuple[float, float]:
    """Improved precision and recall (Kynkaanniemi et al. 2019).

    Args:
        real_features: float [n, D].
        generated_features: float [m, D].
        num_neighbors: the ball around a vector reaches to this neighbour in its own set.

    Returns:
        `(precision, recall)`: the fraction of generated vectors that are in the ball of a real
        vector, and the fraction of real vectors that are in the ball of a generated vector.
    """
    scores = neighborhood_scores(real_features, generated_features, num_neighbors, None)
    return scores["precision"], scores["recall"]


def density_coverage(
    real_features: npt.ArrayLike, generated_features: npt.ArrayLike, num_neighbors: int = 5
) -> tuple[float, float]:
    """Density and coverage (Naeem et al. 2020).

    Args:
        real_features: float [n, D].
        generated_features: float [m, D].
        num_neighbors: the ball around a real vector reaches to this real neighbour.

    Returns:
        `(density, coverage)`: the mean number of real balls that hold a generated vector, divided
        by `num_neighbors`, which may exceed 1; and the fraction of real balls that hold at least
        one generated vector.
    """
    scores = neighborhood_scores(real_features, generated_features, None, num_neighbors)
    return scores["density"], scores["coverage"]


def neighborhood_scores(
    real_features: npt.ArrayLike,
    generated_features: npt.ArrayLike,
    precision_neighbors: int | None = 3,
    density_neighbors: int | None = 5,
) -> dict[str, float]:
    """`precision_recall` and `density_coverage` from the same distances.

    A ball holds the vectors that are as far away as the neighbour, or nearer. Rounding of distances
    is allowed for, so a copy is always in the ball of its original. The authors' code of density
    and coverage leaves out vectors that are exactly as far away.

    Args:
        real_features: float [n, D].
        generated_features: float [m, D].
        precision_neighbors: int, or None to leave out precision and recall.
        density_neighbors: int, or None to leave out density and coverage.

    Returns:
        dict with some of "precision", "recall", "density", "coverage".

    Raises:
        InputError: if the features cannot be scored, or are too few.
    """
    real, generated = _checked_pair(real_features, generated_features)
    chosen = [k for k in (precision_neighbors, density_neighbors) if k is not None]
    for num_neighbors in chosen:
        _check_neighbors(num_neighbors, "real", len(real))
    if precision_neighbors is not None:
        _check_neighbors(precision_neighbors, "generated", len(generated))
    # Distances come from squares, and a common mean would make these large.
    center = real.mean(axis=0, dtype=np.float64)
    real, generated = real - center, generated - center
    real_distances = _neighbor_distances(real, max(chosen))
    scores: list[_PrecisionRecall | _DensityCoverage] = []
    if precision_neighbors is not None:
        generated_distances = _neighbor_distances(generated, precision_neighbors)
        scores.append(
            _PrecisionRecall(
                real_distances[:, precision_neighbors], generated_distances[:, precision_neighbors]
            )
        )
    if density_neighbors is not None:
        scores.append(_DensityCoverage(real_distances[:, density_neighbors], density_neighbors))
    for rows, distances in _squared_distances(generated, real, rounding_sign=-1):
        for score in scores:
            score.update(rows, distances)
    return {name: value for score in scores for name, value in score.result().items()}


class _PrecisionRecall:
    def __init__(self, real_radii: np.ndarray, generated_radii: np.ndarray) -> None:
        """Takes squared radii, float64 [n] and [m]."""
        self._real_radii = real_radii
        self._generated_radii = generated_radii
        self._realistic = np.zeros(generated_radii.shape, bool)
        self._recalled = np.zeros(real_radii.shape, bool)

    def update(self, rows: slice, distances: np.ndarray) -> None:
        self._realistic[rows] = (distances <= self._real_radii).any(axis=1)
        self._recalled |= (distances <= self._generated_radii[rows, None]).any(axis=0)

    def result(self) -> dict[str, float]:
        return {
            "precision": float(self._realistic.mean()),
            "recall": float(self._recalled.mean()),
        }


class _DensityCoverage:
    def __init__(self, real_radii: np.ndarray, num_neighbors: int) -> None:
        """Takes squared radii, float64 [n]."""
        self._real_radii = real_radii
        self._num_neighbors = num_neighbors
        self._num_inside = 0
        self._num_generated = 0
        self._covered = np.zeros(real_radii.shape, bool)

    def update(self, rows: slice, distances: np.ndarray) -> None:
        del rows
        inside = distances <= self._real_radii
        self._num_inside += int(np.count_nonzero(inside))
        self._num_generated += len(distances)
        self._covered |= inside.any(axis=0)

    def result(self) -> dict[str, float]:
        return {
            "density": self._num_inside / (self._num_neighbors * self._num_generated),
            "coverage": float(self._covered.mean()),
        }


def _neighbor_distances(features: np.ndarray, num_neighbors: int) -> np.ndarray:
    """Squared distances to a vector itself and its neighbours, float64 [n, num_neighbors + 1]."""
    nearest = np.empty([len(features), num_neighbors + 1])
    for rows, distances in _squared_distances(features, features, rounding_sign=1):
        distances.partition(num_neighbors, axis=1)
        nearest[rows] = np.sort(distances[:, : num_neighbors + 1], axis=1)
    return nearest


def _squared_distances(
    features: np.ndarray, others: np.ndarray, rounding_sign: int
) -> Iterator[tuple[slice, np.ndarray]]:
    """Squared distances block by block: yields `(rows, distances)` with distances [rows, m].

    They are the true distances plus (`rounding_sign` 1) or minus (-1) at most twice the largest
    rounding error. A distance made with -1 that exceeds a radius made with 1 does so in truth.
    """
    margin = 1 + rounding_sign * (features.shape[1] + 4) * np.finfo(np.float64).eps
    squares, other_squares = (
        margin * np.einsum("nd,nd->n", vectors, vectors) for vectors in (features, others)
    )
    block = max(1, _BLOCK_ELEMENTS // len(others))
    for start in range(0, len(features), block):
        rows = slice(start, start + block)
        distances = (-2 * features[rows]) @ others.T
        distances += squares[rows, None]
        distances += other_squares
        yield rows, distances


def _factor(which: str, covariance: np.ndarray) -> np.ndarray:
    """L [D, rank] with L L^T = covariance, by Cholesky with pivoting: stable if rank-deficient."""
    from scipy.linalg.lapack import dpstrf

    triangle, pivots, rank, _ = dpstrf(covariance, lower=1)
    factor = np.empty([len(covariance), rank])
    factor[pivots - 1] = np.tril(triangle)[:, :rank]
    trace = np.trace(covariance)
    if abs(trace - np.sum(factor**2)) > 1e-3 * abs(trace):
        raise InputError(
            f"{which} covariance must not have negative eigenvalues beyond rounding, but it has. "
            "Compute it as `Moments` does, in float64."
        )
    return factor


def check_moments(which: str, mean: npt.ArrayLike, covariance: npt.ArrayLike) -> None:
    """Raises InputError unless these can be the mean and the covariance of features.

    Args:
        which: whose they are, the beginning of messages.
        mean: float [D].
        covariance: float [D, D].
    """
    _, covariance = _checked_moments(which, mean, covariance)
    _factor(which, covariance)


def _checked_moments(
    which: str, mean: npt.ArrayLike, covariance: npt.ArrayLike
) -> tuple[np.ndarray, np.ndarray]:
    mean, covariance = (np.asarray(array, np.float64) for array in (mean, covariance))
    if mean.ndim != 1 or not mean.size or covariance.shape != 2 * mean.shape:
        raise InputError(
            f"{which} mean and covariance must be [D] and [D, D], got {list(mean.shape)} and "
            f"{list(covariance.shape)}."
        )
    if not (np.isfinite(mean).all() and np.isfinite(covariance).all()):
        raise InputError(
            f"{which} mean and covariance must be finite. Check the images and the extractor, and "
            "delete damaged statistics."
        )
    if abs(covariance - covariance.T).max() > 1e-6 * abs(covariance).max():
        raise InputError(
            f"{which} covariance must be symmetric. Check that it is a covariance: `np.cov` wants "
            "`rowvar=False` for features [n, D]."
        )
    return mean, covariance


def _checked_pair(
    features: npt.ArrayLike, other_features: npt.ArrayLike
) -> tuple[np.ndarray, np.ndarray]:
    features = checked_features("The first features", features, 2)
    other_features = checked_features("The second features", other_features, 2, features.shape[1])
    return features, other_features


def _check_neighbors(num_neighbors: int, kind: str, num_vectors: int) -> None:
    check_positive("num_neighbors", num_neighbors)
    if num_neighbors >= num_vectors:
        raise InputError(
            f"num_neighbors must be below the number of {kind} vectors, got {num_neighbors} for "
            f"{num_vectors}. Evaluate more images or use fewer neighbours."
        )


def _inception_score(logits: np.ndarray) -> float:
    import tensorflow as tf

    from stugan_tf.evaluation.tfgan import tfgan

    # If all images gave a class a probability of exactly 0, the score would be nan.
    logits = np.maximum(logits - logits.max(axis=1, keepdims=True), _LEAST_LOG_PROBABILITY)
    return float(tfgan.eval.classifier_score_from_logits(tf.constant(logits)))
