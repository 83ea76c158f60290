"""Which image comes when: a function of (seed, epoch), evaluated where a run starts or resumes.

An epoch is a sequence of blocks. A block is shuffled at once in memory: all indices of a source
with random access, or the encoded records of a few shards of a streamed source. Position p of the
endless stream of examples lies in epoch p // num_images. Starting at p skips whole blocks without
reading them, and drops the head of one block.

`tf.random.experimental.index_shuffle` would find one index in O(1), but its order is visibly not
random: over 50000 indices the means of batches of 64 vary 0.6 times as much as they should, and
permutations of two epochs correlate by up to 0.67. A true shuffle of a million indices takes 60 ms.
"""

from collections.abc import Callable, Sequence
from typing import Protocol, TypeAlias

import numpy as np
import tensorflow as tf

from stugan_tf.randomness import fold

# What a random number is drawn for; a part of its seed.
ORDER_OF_SHARDS, ORDER_IN_BLOCK, FLIP = range(3)


# (path, records to skip, records to take) of a TFRecord file.
FileRange: TypeAlias = tuple[str, int, int]


class Blocks(Protocol):
    """How an epoch is divided into blocks, each of which is shuffled in memory."""

    num_images: int

    def lengths(self, seed: int, epoch: int | tf.Tensor) -> tf.Tensor:
        """int64 [num_blocks]: how many records each block of this epoch has."""

    def read(self, seed: int, epoch: int | tf.Tensor, index: tf.Tensor) -> tf.Tensor:
        """The records [lengths[index]] of one block of this epoch, in any fixed order."""


def seed_of(seed: int, purpose: int, number: int | tf.Tensor) -> tf.Tensor:
    """The seed, int64 [2], of one use of randomness, e.g. for the block `number`."""
    return fold(tf.constant([seed, purpose], tf.int64), number)


def permutation(length: int | tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Uniformly random int64 [length] of 0 .. length - 1; `seed` as `seed_of` returns it."""
    indices = tf.range(tf.cast(length, tf.int64))
    return tf.random.experimental.stateless_shuffle(indices, seed, alg="philox")


class IndexBlock:
    """All images as one block whose records are their indices."""

    def __init__(self, num_images: int) -> None:
        self.num_images = num_images

    def lengths(self, seed: int, epoch: int | tf.Tensor) -> tf.Tensor:
        """See `Blocks`."""
        del seed, epoch
        return tf.constant([self.num_images], tf.int64)

    def read(self, seed: int, epoch: int | tf.Tensor, index: tf.Tensor) -> tf.Tensor:
        """See `Blocks`; the records are indices."""
        del seed, epoch, index
        return tf.range(self.num_images, dtype=tf.int64)


class ShardBlocks:
    """Streamed TFRecord shards: whole shards are shuffled, then read a block of shards at a time.

    Args:
        shards: files, each with the records to read from it.
        block_size: about how many records a block has; at least one shard.
    """

    def __init__(self, shards: Sequence[FileRange], block_size: int) -> None:
        paths, skips, takes = zip(*shards, strict=True)
        self.num_images = sum(takes)
        self._shards = (tf.constant(paths), tf.constant(skips, tf.int64))
        self._takes = tf.constant(takes, tf.int64)
        self._shards_per_block = max(1, round(block_size * len(shards) / self.num_images))

    def lengths(self, seed: int, epoch: int | tf.Tensor) -> tf.Tensor:
        """See `Blocks`."""
        takes = tf.gather(self._takes, self._order(seed, epoch))
        padding = -len(self._takes) % self._shards_per_block
        return tf.reduce_sum(
            tf.reshape(tf.pad(takes, [[0, padding]]), [-1, self._shards_per_block]), axis=1
        )

    def read(self, seed: int, epoch: int | tf.Tensor, index: tf.Tensor) -> tf.Tensor:
        """See `Blocks`; the records are strings."""
        first = index * self._shards_per_block
        block = self._order(seed, epoch)[first : first + self._shards_per_block]
        takes = tf.gather(self._takes, block)
        shards = tf.data.Dataset.from_tensor_slices(
            (*(tf.gather(column, block) for column in self._shards), takes)
        )
        records = shards.interleave(
            lambda path, skip, take: tf.data.TFRecordDataset(path).skip(skip).take(take),
            cycle_length=16,
            num_parallel_calls=tf.data.AUTOTUNE,
            deterministic=True,
        )
        return records.batch(tf.reduce_sum(takes), drop_remainder=True).get_single_element()

    def _order(self, seed: int, epoch: int | tf.Tensor) -> tf.Tensor:
        return permutation(len(self._takes), seed_of(seed, ORDER_OF_SHARDS, epoch))


def ordered(
    blocks: Blocks, *, seed: int, start: int, keep: Callable[[tf.Tensor], tf.Tensor]
) -> tf.data.Dataset:
    """The endless stream of examples from position `start` on.

    The next block is read while one is consumed, so two blocks are in memory.

    Args:
        blocks: an `IndexBlock` or `ShardBlocks`.
        seed: the order is a function of it and the epoch.
        start: the first position, at least 0.
        keep: maps positions, int64 [n], to bool [n]: which of them this pipeline delivers.

    Returns:
        Dataset of `(record, flip)`; `flip` is a fair bool drawn for the position.
    """
    start_epoch = start // blocks.num_images
    ends = np.cumsum(blocks.lengths(seed, start_epoch))
    num_blocks = len(ends)
    start_block = int(np.searchsorted(ends, start % blocks.num_images, side="right"))

    @tf.autograph.experimental.do_not_convert  # there is nothing to convert, and it is slow
    def read(number: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        epoch, index = number // num_blocks, number % num_blocks
        lengths = blocks.lengths(seed, epoch)
        length = lengths[index]
        positions = (
            epoch * blocks.num_images + tf.reduce_sum(lengths[:index]) + tf.range(length)
        )  # [length]
        order = permutation(length, seed_of(seed, ORDER_IN_BLOCK, number))
        flips = (
            tf.random.stateless_uniform([length], seed_of(seed, FLIP, number), alg="philox") < 0.5
        )
        kept = tf.logical_and(positions >= start, keep(positions))
        records = blocks.read(seed, epoch, index)
        return tf.gather(records, order[kept]), flips[kept]

    numbers = tf.data.Dataset.range(start_epoch * num_blocks + start_block, tf.int64.max)
    return (
        numbers.map(read)
        .prefetch(1)
        .flat_map(lambda *examples: tf.data.Dataset.from_tensor_slices(examples))
    )
