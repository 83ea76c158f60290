"""The values that flags choose from, for commands that know them before TensorFlow is imported."""

from collections.abc import Iterable

STRATEGIES = ("auto", "one_device", "mirrored", "multi_worker", "tpu")
WEIGHTS = ("averaged", "live")
BATCH_NORMS = ("inference", "batch", "standing")
# {format of an artifact: the precisions of weights that it can store}
FORMATS = {
    "saved_model": ("float32",),
    "tflite": ("float32", "float16", "int8"),
    "onnx": ("float32",),
    "sparse": ("float32", "float16"),
    "html": ("float32", "float16"),
}


def in_words(names: Iterable[str]) -> str:
    """Joins names: 'a', 'a and b', 'a, b and c'."""
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last
