"""What the tests compare with: slow NumPy translations of the definitions, in float64."""

import numpy as np


def spectral_norm(kernel, u, v, training):
    """`torch.nn.utils.spectral_norm` with one power iteration; returns (W / sigma, u, v).

    PyTorch's matrix has a row per output channel. The columns are ordered as in a Keras kernel.
    """
    matrix = np.moveaxis(kernel, -1, 0).reshape(kernel.shape[-1], -1).astype(np.float64)
    if training:
        v = _normalize(matrix.T @ u)
        u = _normalize(matrix @ v)
    return kernel / (u @ matrix @ v), u, v


def biggan_spectral_norm(kernel, u, epsilon=1e-8):
    """BigGAN's: returns (W / sigma, u); v is computed anew, in inference mode u is then dropped.

    A table [classes, features] has a row per output already: hand over its transpose.
    """
    matrix = np.moveaxis(kernel, -1, 0).reshape(kernel.shape[-1], -1).astype(np.float64)
    v = _normalize(u @ matrix, epsilon)
    u = _normalize(v @ matrix.T, epsilon)
    return kernel / (v @ matrix.T @ u), u


def _normalize(vector, epsilon=1e-12):
    return vector / max(np.linalg.norm(vector), epsilon)


def convolve(images, kernel, bias):
    """A SAME convolution of stride 1 of images [B, H, W, C] with a kernel of odd height, width."""
    height, width = kernel.shape[:2]
    margins = [(0, 0), (height // 2, height // 2), (width // 2, width // 2), (0, 0)]
    windows = np.lib.stride_tricks.sliding_window_view(
        np.pad(images, margins), (height, width), axis=(1, 2)
    )
    return np.einsum("bijchw,hwco->bijo", windows, kernel.astype(np.float64)) + bias


class Adam:
    """Adam for one weight tensor, with epsilon where the paper and PyTorch put it."""

    def __init__(self, weight, learning_rate, beta_1, beta_2, epsilon):
        self.weight = np.asarray(weight, np.float64)
        self.first = np.zeros_like(self.weight)
        self.second = np.zeros_like(self.weight)
        self.step = 0
        self._settings = learning_rate, beta_1, beta_2, epsilon

    def update(self, gradient, mask=1.0):
        """One step with the dense gradient, then the mask; returns the weight."""
        learning_rate, beta_1, beta_2, epsilon = self._settings
        self.step += 1
        self.first = beta_1 * self.first + (1 - beta_1) * gradient
        self.second = beta_2 * self.second + (1 - beta_2) * gradient**2
        first = self.first / (1 - beta_1**self.step)
        second = self.second / (1 - beta_2**self.step)
        self.weight = mask * (self.weight - learning_rate * first / (np.sqrt(second) + epsilon))
        return self.weight


def mark_largest(scores, k, among):
    """Ones at the `k` largest scores among the candidates, the lowest indices in ties."""
    scores = np.where(among.ravel(), scores.ravel(), -np.inf)
    mask = np.zeros(scores.shape, np.float32)
    mask[np.argsort(-scores, kind="stable")[:k]] = 1
    return mask.reshape(among.shape)


def prune_and_regrow(mask, drop_scores, grow_scores, drop_fraction):
    """Eq. 3 and 4: drops ceil(p * active) weights, then grows as many outside of what is left."""
    num_active = int(mask.sum())
    num_drop = int(np.ceil(drop_fraction * num_active))
    kept = mark_largest(drop_scores, num_active - num_drop, mask > 0)
    return kept + mark_largest(grow_scores, num_drop, kept == 0)
