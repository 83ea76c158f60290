"""A generator as one page that any browser opens: module, sparse file and interface in one file.

The page computes by the WebAssembly module of runtime/ (stugan.wasm). It needs no server, and its
policy forbids each request to elsewhere.

What is binary is compressed and written with seven bits in each character, in UTF-8. Base64 would
take 33 % more than the bytes, this takes 17 %, and compression by planes saves as much: a page of
floats is about as large as its sparse file. Servers and browsers take any such file.
"""

import html
import os
import pathlib
import re
import zlib

import numpy as np

from stugan_tf.errors import InputError

SOURCES = pathlib.Path(__file__).parent
MODULE = SOURCES / "stugan.wasm"
# The most bytes that are read for each byte of a page.
MAX_EXPANSION = 16
_PART = '<script id="{}" type="text/plain" '
_ATTRIBUTES = re.compile(r'data-stride="([1-9])" data-size="(\d{1,10})">')
_END = "</script>"
# What HTML would change, or could take for a tag. Their lowest seven bits stay.
_ESCAPED = {code: code | 0x100 for code in b"\0\r<"}
_PLAIN = {escaped: code for code, escaped in _ESCAPED.items()}


def write(
    path: str | os.PathLike[str], title: str, file: bytes, channels: int, item_size: int
) -> None:
    """Writes a page.

    Args:
        path: path of the page.
        title: its title.
        file: a sparse file.
        channels: of the images.
        item_size: bytes of each value in the file, 4 or 2.

    Raises:
        InputError: if the images cannot be shown.
    """
    if channels not in (1, 3):
        raise InputError(
            f"A page shows images of 1 or 3 channels, got {channels}. Export with --format=sparse."
        )
    parts = {
        "title": html.escape(title),
        "style": _source("page.css"),
        "module": _encoded(MODULE.read_bytes(), 1),
        "generator": _encoded(file, item_size),
        "worker": _source("generator.js") + _source("worker.js"),
        "script": _source("page.js"),
    }
    page = re.sub("{{(.*?)}}", lambda found: parts[found[1]], _source("page.html"))
    pathlib.Path(path).write_bytes(page.encode())


def read(path: str | os.PathLike[str]) -> bytes:
    """The sparse file in a page. Reading runs nothing of the page.

    Raises:
        InputError: if there is none.
    """
    text = pathlib.Path(path).read_bytes().decode("utf-8", "replace")
    begin = text.find(_PART.format("generator"))
    attributes = _ATTRIBUTES.match(text, begin + len(_PART.format("generator")))
    end = text.find(_END, begin)
    if begin < 0 or attributes is None or end < 0:
        raise InputError(f"{path} is damaged or not a page of stugan_tf. Copy or export it again.")
    stride, size = map(int, attributes.groups())
    try:
        return _decoded(text[attributes.end() : end], stride, size, MAX_EXPANSION * len(text))
    except (ValueError, zlib.error) as error:
        raise InputError(
            f"{path} is damaged: its generator cannot be read ({error}). Copy or export it again."
        ) from None


def _source(name: str) -> str:
    return (SOURCES / name).read_text(encoding="utf-8")


def _encoded(data: bytes, stride: int) -> str:
    """Attributes and text of a part.

    Args:
        data: what the part holds.
        stride: distance of bytes that are alike. They are compressed together.
    """
    rows = len(data) // stride
    planes = np.frombuffer(data, np.uint8, rows * stride).reshape(rows, stride).T.tobytes()
    packed = zlib.compress(planes + data[rows * stride :], 9)
    eighths = np.frombuffer(packed + bytes(-len(packed) % 7), np.uint8).reshape(-1, 7)
    # Eight times seven bits of seven bytes, the highest first.
    before, after = (np.pad(eighths, [(0, 0), side]).astype(np.int32) for side in ((1, 0), (0, 1)))
    shift = np.arange(8)
    codes = (before << (7 - shift) | after >> (shift + 1)) & 127
    text = codes.astype(np.uint8).tobytes().decode("ascii").translate(_ESCAPED)
    return f'data-stride="{stride}" data-size="{len(packed)}">{text}'


def _decoded(text: str, stride: int, size: int, most: int) -> bytes:
    """What `_encoded` encoded; ValueError or zlib.error if it is something else."""
    codes = np.frombuffer(text.translate(_PLAIN).encode("ascii"), np.uint8)
    if len(codes) % 8:
        raise ValueError(f"{len(codes)} characters")
    codes = codes.reshape(-1, 8).astype(np.int32)
    shift = np.arange(7)
    packed = codes[:, :7] << (shift + 1) | codes[:, 1:] >> (6 - shift)
    inflating = zlib.decompressobj()
    data = inflating.decompress((packed & 255).astype(np.uint8).tobytes()[:size], most)
    if not inflating.eof:
        raise ValueError("it does not end, or is too large")
    rows = len(data) // stride
    planes = np.frombuffer(data, np.uint8, rows * stride).reshape(stride, rows)
    return planes.T.tobytes() + data[rows * stride :]
