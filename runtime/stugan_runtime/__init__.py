"""Draws images from sparse generators without TensorFlow.

import stugan_runtime
generator = stugan_runtime.load("generator.safetensors")
images = generator(16, seed=1, labels=3, truncation=0.7)     # uint8 [16, H, W, C]
"""

from stugan_runtime.generator import Generator, load, loads
from stugan_runtime.library import (
    DamagedFileError,
    OutOfMemoryError,
    RuntimeFault,
    UnreadableFileError,
    UnsupportedFileError,
    WrongArgumentError,
)

__version__ = "0.1.0"
__all__ = [
    "DamagedFileError",
    "Generator",
    "OutOfMemoryError",
    "RuntimeFault",
    "UnreadableFileError",
    "UnsupportedFileError",
    "WrongArgumentError",
    "load",
    "loads",
]
