"""Exported generators: SavedModel, TensorFlow Lite, and a file as small as its non-zeros."""

from stugan_tf.serving.loading import load

__all__ = ["load"]
