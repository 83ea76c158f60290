"""Generated images beside the most similar real images: does the generator copy them?"""

import dataclasses

import numpy as np

from stugan_tf.data import Source
from stugan_tf.evaluation.extraction import Extraction
from stugan_tf.images import image_grid
from stugan_tf.progress import ProgressBar


@dataclasses.dataclass
class Neighbors:
    """The nearest real images of some generated images, by Euclidean distance of features.

    Attributes:
        images: generated images, uint8 [n, H, W, C].
        neighbors: real images, the nearest first, uint8 [n, k, H, W, C].
        distances: their distances, float32 [n, k].
    """

    images: np.ndarray
    neighbors: np.ndarray
    distances: np.ndarray

    def grid(self) -> np.ndarray:
        """A picture, uint8 [height, width, C]: a row for each generated image, on the left."""
        real = self.neighbors.reshape(-1, *self.images.shape[1:])
        left, right = image_grid(self.images, 1), image_grid(real, self.neighbors.shape[1])
        gap = np.full([len(left), left.shape[1] // 4, left.shape[2]], 255, np.uint8)
        return np.concatenate([left, gap, right], axis=1)


def find_neighbors(
    images: np.ndarray, source: Source, extraction: Extraction, num_neighbors: int
) -> Neighbors:
    """Searches all images of a source; holds only the nearest in memory.

    Args:
        images: uint8 [n, H, W, C].
        source: the real images.
        extraction: computes the features.
        num_neighbors: k, number of real images to find for each image.
    """
    num_neighbors = min(num_neighbors, source.num_images)
    size = extraction.batch_size
    features = np.concatenate(
        [extraction(images[start : start + size])[0] for start in range(0, len(images), size)]
    )
    nearest: list[list[np.ndarray]] = [[] for _ in images]
    distances = np.zeros([len(images), 0], np.float32)
    with source.reading(), ProgressBar(source.num_images, "image", "real images") as progress:
        for batch, _ in source.in_order(size).as_numpy_iterator():
            others, _ = extraction(batch)
            found = np.linalg.norm(features[:, None] - others[None], axis=-1)
            distances = np.concatenate([distances, found], axis=1)
            nearest_indices = np.argsort(distances, axis=1, kind="stable")[:, :num_neighbors]
            distances = np.take_along_axis(distances, nearest_indices, axis=1)
            for row, indices in enumerate(nearest_indices):
                candidates = [*nearest[row], *batch]
                # Copies, because a view would hold its whole batch in memory.
                nearest[row] = [candidates[index].copy() for index in indices]
            progress.advance(len(batch))
    return Neighbors(images, np.array(nearest), distances)
