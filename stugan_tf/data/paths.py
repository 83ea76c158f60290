"""Paths of data as a person writes them: `~`, addresses such as gs://, patterns of file names."""

import os
import re

import tensorflow as tf

from stugan_tf.errors import InputError


def readable(path: str | os.PathLike[str], name: str) -> str:
    """A path for TensorFlow's file functions; a leading `~` is the user's home.

    Args:
        path: a local path or an address such as gs://bucket/folder.
        name: its name in messages.

    Raises:
        InputError: if it is not text that a file system can hold.
    """
    text = os.fspath(path)
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"{name} {os.fsencode(text)!r} is not UTF-8. Rename the file or the folder."
        ) from error
    if "\0" in text:
        raise InputError(f"{name} {text!r} holds a zero byte, which no path can.")
    return os.path.expanduser(text)


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
