"""Runs a .tflite file once, in a process of its own that may crash: `lite.probe` starts it.

`python -m stugan_tf.serving.lite_probe FILE INTERFACE`; exit code 0 if all went well, else 1 with
the reason as the last line printed.
"""

import json
import pathlib
import resource
import sys

import tensorflow as tf

from stugan_tf.errors import InputError
from stugan_tf.serving import lite
from stugan_tf.serving.interface import Interface

MEMORY = 2**33  # bytes beyond what TensorFlow has at its start


def main(path, interface):
    """Reads and runs the file within `MEMORY`; returns the exit code."""
    tf.zeros([1]).numpy()
    used = int(pathlib.Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
    try:
        lite.read(path, Interface.from_json(json.loads(interface)), trusted=True)
    except (InputError, MemoryError) as error:
        print(" ".join(str(error).split()) or "out of memory")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
