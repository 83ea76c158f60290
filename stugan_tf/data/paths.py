"""Patterns of paths, in folders of any name."""

import re

import tensorflow as tf


def escaped(path: str) -> str:
    """A pattern that matches exactly one path, as `tf.io.gfile.glob` reads it."""
    return re.sub(r"([][*?{}\\])", r"\\\1", path)


def matching(pattern: str) -> list[str]:
    """The sorted paths that match a pattern.

    The longest beginning of the pattern that exists as it is written is meant literally. So a
    folder may be called `shards [v1]`. In the rest, `*`, `?` and `[ab]` stand for other characters,
    and a backslash takes the meaning of a character away.
    """
    literal, rest = pattern, ""
    while literal and re.search(r"[][*?{}\\]", literal) and not tf.io.gfile.exists(literal):
        cut = literal.rstrip("/").rfind("/") + 1
        literal, rest = literal[:cut], literal[cut:] + rest
    return sorted(tf.io.gfile.glob(escaped(literal) + rest))
