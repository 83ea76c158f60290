"""Patterns of paths, in folders of any name."""

import re

import tensorflow as tf

from stugan_tf.errors import InputError


def escaped(path: str) -> str:
    """A pattern that matches exactly one path, as `tf.io.gfile.glob` reads it."""
    return re.sub(r"([][*?{}\\])", r"\\\1", path)


def matching(pattern: str) -> list[str]:
    """The sorted paths that match a pattern.

    The longest beginning of the pattern that exists as it is written is meant literally. So a
    folder may be called `shards [v1]`. In the rest, `*`, `?` and `[ab]` stand for other characters,
    and a backslash takes the meaning of a character away.

    Raises:
        InputError: if the pattern is an address that cannot be read.
    """
    literal, rest = pattern, ""
    try:
        while literal and re.search(r"[][*?{}\\]", literal) and not tf.io.gfile.exists(literal):
            cut = literal.rstrip("/").rfind("/") + 1
            literal, rest = literal[:cut], literal[cut:] + rest
        return sorted(tf.io.gfile.glob(escaped(literal) + rest))
    except tf.errors.OpError as error:
        raise InputError(
            f"{pattern} cannot be read: {error.message.rstrip('.')}. Give a local path, or an "
            "address that TensorFlow reads, such as gs://bucket/folder."
        ) from error
