"""The positions of non-zeros in a sparse array, in few bits: gaps between them in Rice's code.

The low k bits of each gap are written as they are, the rest in unary: that many zeros, then a one.
With k = 0 this is the bit mask itself. For a random mask the code comes within 3 % of the entropy
at all densities below one half; the bit mask takes one bit for each position. Decoding takes memory
for the bits and the positions that they mark, and no gap, however hostile, makes it take more.
"""

import numpy as np

MAX_LOW_BITS = 24


def encode(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    """Encodes a mask.

    Args:
        mask: bool [n].

    Returns:
        (high, low, k): uint8 arrays of packed bits, and the number of bits of each gap in `low`.
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
    low = np.empty([len(gaps), k], np.uint8)
    for bit in range(k):
        low[:, bit] = gaps >> bit & 1
    return np.packbits(high), np.packbits(low), k


def decode(high: np.ndarray, low: np.ndarray, k: int, count: int, size: int) -> np.ndarray:
    """The positions of the ones in a mask that `encode` encoded.

    Args:
        high: uint8 [...], from `encode`.
        low: uint8 [...], from `encode`.
        k: number of bits of each gap in `low`.
        count: number of positions.
        size: length of the mask; all positions must be below it.

    Returns:
        int64 [count], ascending.

    Raises:
        ValueError: if this is not the code of any mask.
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
    low_bits = np.unpackbits(low, count=count * k).reshape(count, k)
    for bit in range(k):  # A product of matrices would take eight times the memory.
        gaps |= low_bits[:, bit].astype(np.int64) << bit
    positions = np.cumsum(gaps + 1) - 1
    if count and positions[-1] >= size:
        raise ValueError(f"a position of {positions[-1]}, beyond {size}")
    return positions
