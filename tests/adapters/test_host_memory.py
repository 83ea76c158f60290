"""Freed memory is used again, in processes of their own: glibc's settings are the process's."""

import os
import subprocess
import sys

import pytest

# Faults of allocating 5,120 pages forty times in a thread, after TensorFlow has changed malloc.
FAULTS = """
import concurrent.futures, resource
import tensorflow as tf
from stugan_tf.adapters.host_memory import reuse_freed_memory

print(reuse_freed_memory())
tf.data.Dataset.from_generator(lambda: iter(()), output_signature=tf.TensorSpec([]))

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(40):
        tf.zeros([5, 1024, 1024])
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

with concurrent.futures.ThreadPoolExecutor(1) as thread:
    thread.submit(faults).result()
    print(thread.submit(faults).result())
"""


def outcome(**environment):
    environment = os.environ | environment
    done = subprocess.run(
        [sys.executable, "-c", FAULTS], env=environment, capture_output=True, text=True, check=True
    )
    changed, faults = done.stdout.split()
    return changed == "True", int(faults)


@pytest.mark.ci
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc is of Linux")
def test_freed_memory_is_used_again_unless_the_environment_configures_it():
    changed, faults = outcome()
    assert changed
    assert faults < 10 * 5120  # A few heaps are filled once.

    changed, faults = outcome(MALLOC_MMAP_THRESHOLD_="131072")
    assert not changed
    assert faults > 35 * 5120
