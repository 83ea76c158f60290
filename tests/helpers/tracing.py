"""Compiled functions, or their Python line by line."""

import contextlib

import tensorflow as tf


@contextlib.contextmanager
def untraced():
    """Within it, what `tf.function` has wrapped is run as Python."""
    tf.config.run_functions_eagerly(True)
    try:
        yield
    finally:
        tf.config.run_functions_eagerly(False)
