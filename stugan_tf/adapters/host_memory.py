"""How the C library gives memory of tensors back: memory that is freed is kept for the next one.

A step on a CPU allocates the same tensors of many megabytes again and again. By default glibc
returns such blocks to the kernel when they are freed, and the kernel clears each page of the next
ones. TensorFlow makes that worse on purpose: with Python 3.11 or newer its first
`GeneratorDatasetOp`, which iterators over replicas are made of, has every block of 128 KiB or more
mapped anew (`tensorflow::data::ApplyPython311MemoryPatch`, a remedy for memory that was never
returned, tensorflow#65675). In a training of SNGAN-32 on two cores half of the time went there.
"""

import ctypes
import os
import platform

import tensorflow as tf

# Of malloc.h: parameters of mallopt().
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3
# A thread's heap is 64 MiB; with a padding of that size it is kept when all of it is free.
_PADDING = 64 * 2**20
_NEVER = 2**31 - 1


def reuse_freed_memory() -> bool:
    """Has freed memory used again by this process rather than returned to the kernel.

    For processes that train, from where TensorFlow's devices are configured on. The process keeps
    the most that it ever used. Nothing is changed where the C library is not glibc, or where the
    environment configures it (`MALLOC_...`, `GLIBC_TUNABLES`).

    Returns:
        Whether it was changed.
    """
    configured = any(name.startswith("MALLOC_") for name in os.environ)
    if platform.libc_ver()[0] != "glibc" or configured or "GLIBC_TUNABLES" in os.environ:
        return False
    # TensorFlow changes the settings once, with the first of these: let it be now.
    iter(tf.data.Dataset.from_generator(lambda: iter(()), output_signature=tf.TensorSpec([])))
    mallopt = ctypes.CDLL(None).mallopt
    return all(
        [
            mallopt(_M_MMAP_THRESHOLD, _NEVER),
            mallopt(_M_TRIM_THRESHOLD, _NEVER),
            mallopt(_M_TOP_PAD, _PADDING),
        ]
    )
