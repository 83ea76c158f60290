"""Mean and covariance of features that come in batches (Chan, Golub and LeVeque 1979)."""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from stugan_tf.checks import check_positive
from stugan_tf.errors import InputError

_BLOCK = 1024  # rows converted to float64 at a time


class Moments:
    """Mean and covariance of feature vectors: float64, one pass, memory of one covariance.

    Batches are centred on their own mean before they are squared, so that a large mean does not
    swallow a small deviation. How the vectors are split into batches changes only the last digits.

    Attributes:
        count: number of vectors seen.
        mean: float64 [D]; zeros before the first vector.
    """

    def __init__(self, num_features: int) -> None:
        check_positive("num_features", num_features)
        self.count = 0
        self.mean = np.zeros(num_features)
        # Lower triangle of the sum of (x - mean)(x - mean)^T, as `dsyrk` leaves it.
        self._scatter = np.zeros([num_features, num_features], order="F")

    @property
    def covariance(self) -> np.ndarray:
        """The unbiased covariance (divisor `count - 1`), float64 [D, D]; each access computes it.

        Raises:
            InputError: if there are fewer than two vectors.
        """
        if self.count < 2:
            raise InputError(
                f"A covariance needs at least 2 feature vectors, got {self.count}. Evaluate more "
                "images."
            )
        lower = np.tril(self._scatter) / (self.count - 1)
        return lower + np.tril(lower, -1).T

    def update(self, features: npt.ArrayLike) -> None:
        """Adds vectors, float [B, D] with any B >= 0."""
        features = checked_features("features", features, 0, len(self.mean))
        for start in range(0, len(features), _BLOCK):
            block = features[start : start + _BLOCK].astype(np.float64, copy=False)
            mean = block.mean(axis=0)
            self._add(len(block), mean, block - mean)

    def merge(self, other: "Moments") -> None:
        """Adds the vectors that another `Moments` has seen; the other one stays as it is."""
        if other.mean.shape != self.mean.shape:
            raise InputError(
                f"Moments of {len(other.mean)} features cannot be merged into moments of "
                f"{len(self.mean)}. Use one extractor for both."
            )
        if other.count:
            self._scatter += other._scatter
            self._add(other.count, other.mean, np.empty([0, len(self.mean)]))

    def state(self) -> dict[str, np.ndarray]:
        """A copy of the state as a dict of arrays, e.g. for `np.savez`; see `from_state`."""
        return {
            "count": np.asarray(self.count),
            "mean": self.mean.copy(),
            "scatter": self._scatter.copy(order="F"),
        }

    @classmethod
    def from_state(cls, state: Mapping[str, np.ndarray]) -> "Moments":
        """Restores moments from `state`, or from its arrays after `np.load`; bit for bit."""
        mean, scatter = state["mean"], state["scatter"]
        if mean.ndim != 1 or scatter.shape != (len(mean), len(mean)):
            raise InputError(
                "The state of moments must hold `mean` [D] and `scatter` [D, D], got "
                f"{list(mean.shape)} and {list(scatter.shape)}. Delete the file and start again."
            )
        moments = cls(len(mean))
        moments.count = int(state["count"])
        moments.mean = np.array(mean, np.float64)
        moments._scatter = np.array(scatter, np.float64, order="F")
        return moments

    def _add(self, count: int, mean: np.ndarray, centered: np.ndarray) -> None:
        """Adds `count` vectors with this mean; `centered` [.., D] are their deviations from it.

        The scatter of the union is the sum of both scatters plus n m / (n + m) delta delta^T, where
        delta is the difference of the means: one more row in the same product.
        """
        from scipy.linalg.blas import dsyrk

        total = self.count + count
        delta = mean - self.mean
        between = np.sqrt(self.count / total * count) * delta
        # The transpose is Fortran-ordered as it stands, and the sum is formed in place.
        self._scatter = dsyrk(
            1.0, np.vstack([centered, between]).T, 1.0, self._scatter, lower=1, overwrite_c=1
        )
        self.mean += delta * (count / total)
        self.count = total


def checked_features(
    name: str, features: npt.ArrayLike, at_least: int, num_features: int | None = None
) -> np.ndarray:
    """Features as an array; raises InputError unless they can be scored.

    Args:
        name: name of the features in messages.
        features: array or tensor, floats [n, D].
        at_least: the smallest n allowed.
        num_features: the D expected, or None for any.
    """
    features = np.asarray(features)
    if features.ndim != 2 or not features.shape[1]:
        raise InputError(
            f"{name} must be [n, D], one feature vector per image, got shape "
            f"{list(features.shape)}. Flatten or average what the extractor returns."
        )
    if num_features is not None and features.shape[1] != num_features:
        raise InputError(
            f"{name} must have {num_features} features each, got {features.shape[1]}. Use one "
            "extractor for all images."
        )
    if len(features) < at_least:
        raise InputError(
            f"{name} must hold at least {at_least} feature vectors, got {len(features)}. Evaluate "
            "more images."
        )
    if not np.isfinite(features).all():
        bad = np.flatnonzero(~np.isfinite(features).all(axis=1))
        raise InputError(
            f"{name} must be finite: {len(bad)} of {len(features)} vectors are not, the first is "
            f"number {bad[0]}. Check the images and the extractor."
        )
    return features
