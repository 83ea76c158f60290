import itertools

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from stugan_tf.data.order import IndexBlock, ShardBlocks, ordered
from tests.helpers.params import examples, first_by_default


def take(blocks, count, *, seed=0, start=0, keep=lambda positions: positions >= 0):
    stream = ordered(blocks, seed=seed, start=start, keep=keep)
    records, flips = next(iter(stream.batch(count)))
    return records.numpy().tolist(), flips.numpy().tolist()


@pytest.mark.ci
@examples(8)
@given(num_images=st.integers(2, 30), start=st.integers(0, 100), seed=st.integers(0, 2**62))
def test_starting_late_equals_skipping_and_epochs_are_permutations(num_images, start, seed):
    blocks = IndexBlock(num_images)
    whole = take(blocks, start + 40, seed=seed)
    late = take(blocks, 40, seed=seed, start=start)
    assert [part[start:] for part in whole] == list(late)
    for epoch in range(len(whole[0]) // num_images):
        records = whole[0][epoch * num_images : (epoch + 1) * num_images]
        assert sorted(records) == list(range(num_images))


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """Shards of 1 to 6 records, which are their numbers; the second is read from record 2 on."""
    folder = tmp_path_factory.mktemp("order")
    lengths, skips, numbers = [4, 6, 1, 5, 2], [0, 2, 0, 0, 0], itertools.count()
    result = []
    for shard, (length, skip) in enumerate(zip(lengths, skips, strict=True)):
        path = str(folder / str(shard))
        with tf.io.TFRecordWriter(path) as writer:
            for position in range(length):
                writer.write(b"skipped" if position < skip else str(next(numbers)).encode())
        result.append((path, skip, length - skip))
    return result


@pytest.mark.parametrize("block_size", first_by_default(7, 1, 1000, in_ci=1))
@pytest.mark.parametrize("start", first_by_default(16, 41, 7, in_ci=1))
def test_shards_resume_and_cover_each_epoch_once(shards, block_size, start):
    blocks = ShardBlocks(shards, block_size)
    whole = take(blocks, 64)
    late = take(blocks, 64 - start, start=start)
    assert [part[start:] for part in whole] == list(late)
    for epoch in range(4):
        records = whole[0][16 * epoch : 16 * (epoch + 1)]
        assert sorted(map(int, records)) == list(range(16))


def test_resuming_reads_no_earlier_block(shards):
    blocks, read = ShardBlocks(shards, block_size=1), []
    original = blocks.read
    blocks.read = lambda seed, epoch, index: (
        tf.py_function(lambda number: read.append(int(number)), [index], []),
        original(seed, epoch, index),
    )[1]
    last = int(np.sum(blocks.lengths(0, 0)[:-1]))
    take(blocks, 1, start=last)
    assert read[0] == len(shards) - 1


def test_seeds_and_epochs_have_their_own_order_and_flips():
    records, flips = take(IndexBlock(100), 200, seed=1)
    other_records, other_flips = take(IndexBlock(100), 100, seed=2)
    assert records[:100] != records[100:]
    assert records[:100] != other_records
    assert flips[:100] != flips[100:]
    assert flips[:100] != other_flips
    assert 70 < sum(flips) < 130


def test_order_looks_random_across_and_within_epochs():
    num_images = 20000
    records = np.array(take(IndexBlock(num_images), 2 * num_images)[0]).reshape(2, num_images)
    batch_means = records[0, : 312 * 64].reshape(-1, 64).mean(axis=1)
    expected_deviation = num_images / np.sqrt(12 * 64)
    assert abs(np.corrcoef(records)[0, 1]) < 0.03
    assert abs(np.corrcoef(records[0, 1:], records[0, :-1])[0, 1]) < 0.03
    assert 0.85 < batch_means.std() / expected_deviation < 1.15
