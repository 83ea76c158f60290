"""From encoded bytes to uint8 pixels.

TensorFlow's kernels decode well-formed JPEG and PNG on all cores. Pillow, inside the interpreter's
lock, reads the rest (GIF, BMP, WebP, TIFF, JPEG with bytes after its end) and says what is broken.
"""

import io
from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf
from PIL import Image, UnidentifiedImageError
from PIL.JpegImagePlugin import JpegImageFile

from stugan_tf.errors import InputError
from stugan_tf.signatures import ImageShape

ORIENTATION = 0x0112  # the EXIF tag
IMAGE_FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF")
JPEG_END = b"\xff\xd9"
PNG_END = b"\0\0\0\0IEND\xaeB`\x82"
PILLOW_ERRORS = (OSError, ValueError, SyntaxError, Image.DecompressionBombError)


def check_channels(channels: int) -> None:
    """Raises `InputError` unless `channels` is 1 (grey) or 3 (RGB)."""
    if channels not in (1, 3):
        raise InputError(f"`channels` must be 1 (grey) or 3 (RGB), got {channels!r}.")


def check_image_size(image_size: int) -> None:
    """Raises `InputError` unless `image_size` is a positive int."""
    if type(image_size) is not int or image_size < 1:
        raise InputError(
            f"`image_size` must be a positive int, got {image_size!r}. "
            "It is the height and width that images are cropped and resized to."
        )


def decode(encoded: tf.Tensor, where: tf.Tensor | str, channels: int) -> tf.Tensor:
    """Decodes one image, or the first frame of several.

    Args:
        encoded: string scalar.
        where: string scalar, the name of the image in errors.
        channels: 1 or 3; grey is repeated to RGB, RGB weighted to grey, transparency ignored.

    Returns:
        uint8 [H, W, channels].
    """
    length = tf.strings.length(encoded)

    def is_whole(start: bytes, end: bytes) -> tf.Tensor:
        tail = tf.strings.substr(encoded, tf.maximum(length - len(end), 0), len(end))
        return (tf.strings.substr(encoded, 0, len(start)) == start) & (tail == end)

    image = tf.case(
        [
            (
                is_whole(b"\xff\xd8\xff", JPEG_END),
                lambda: tf.io.decode_jpeg(encoded, channels=3, dct_method="INTEGER_ACCURATE"),
            ),
            (is_whole(b"\x89PNG", PNG_END), lambda: tf.io.decode_png(encoded, channels=3)),
        ],
        default=lambda: tf.py_function(
            lambda *texts: decode_with_pillow(*(text.numpy() for text in texts)),
            [encoded, where],
            tf.uint8,
        ),
    )
    image = tf.ensure_shape(image, [None, None, 3])
    # `decode_png` cannot do this: it mistakes the weight of blue for the weight of green.
    return image if channels == 3 else tf.image.rgb_to_grayscale(image)


def decode_with_pillow(encoded: bytes, where: bytes) -> np.ndarray:
    """Decodes bytes to uint8 [H, W, 3]; raises `InputError` if they cannot be decoded."""
    try:
        return _pixels_by_pillow(encoded)
    except PILLOW_ERRORS as error:
        raise InputError(undecodable(where.decode(), _reason(error))) from error


def undecodable(where: str, why: str) -> str:
    """A message about an image that cannot be decoded."""
    return (
        f"{where} cannot be decoded: {why.rstrip('.')}. Allowed are {', '.join(IMAGE_FORMATS)}: "
        "repair the image or remove it."
    )


def is_image(first_bytes: bytes) -> bool:
    """Whether a file is of one of `IMAGE_FORMATS`, by its first 32 bytes or more."""
    if first_bytes[:2] == b"BM":  # Text may begin like this, too.
        return first_bytes[6:10] == bytes(4) and first_bytes[14:18] in _BMP_HEADERS
    if first_bytes[:4] == b"RIFF":
        return first_bytes[8:12] == b"WEBP"
    return first_bytes.startswith(_BEGINNINGS)


_BMP_HEADERS = [size.to_bytes(4, "little") for size in (12, 40, 52, 56, 64, 108, 124)]
_BEGINNINGS = (b"\xff\xd8\xff", b"\x89PNG\r\n", b"GIF87a", b"GIF89a", b"II*\0", b"MM\0*")


def damage(encoded: bytes) -> str | None:
    """The reason why the bytes of an image cannot be decoded, None if they can."""
    try:
        _pixels_by_pillow(encoded)
    except PILLOW_ERRORS as error:
        return _reason(error)
    return None


def _pixels_by_pillow(encoded: bytes) -> np.ndarray:
    image: Image.Image = Image.open(io.BytesIO(encoded), formats=IMAGE_FORMATS)
    if image.mode.startswith("I;16"):  # Pillow would clip; `decode_png` keeps the high byte.
        return np.repeat((np.array(image) >> 8).astype(np.uint8)[..., None], 3, axis=-1)
    if image.mode in ("I", "F"):  # Pillow would clip to [0, 255].
        raise ValueError("its pixels are numbers of 32 bits, of which no range is known")
    return np.array(image.convert("RGB"))


def _reason(error: Exception) -> str:
    return "unknown format" if isinstance(error, UnidentifiedImageError) else str(error)


def orientation_of(encoded: bytes) -> int:
    """The EXIF orientation of an encoded image, 1 .. 8; 1, upright, if it has none."""
    # Pillow turns a TIFF itself, and would decode a PNG to look for EXIF data.
    if encoded[:4] in _TIFF or not any(mark in encoded for mark in _EXIF_MARKS):
        return 1
    try:
        # `Image.open` refuses a JPEG of 200 megapixels, of which only the header is read here.
        opened = JpegImageFile if encoded[:3] == b"\xff\xd8\xff" else Image.open
        orientation = opened(io.BytesIO(encoded)).getexif().get(ORIENTATION, 1)
        return int(orientation) if orientation in range(1, 9) else 1
    except Exception:  # Bad EXIF data can raise anything; the pixels do not depend on it.
        return 1


_TIFF = (b"II*\0", b"MM\0*")
# In JPEG, PNG and WebP, of old tools in PNG, and in XMP.
_EXIF_MARKS = (b"Exif", b"eXIf", b"EXIF", b"Raw profile type exif", b"tiff:Orientation")


def turned(image: tf.Tensor, orientation: tf.Tensor) -> tf.Tensor:
    """Turns an image [H, W, C] upright, by its EXIF orientation, 1 .. 8."""

    def when(
        orientations: Sequence[int], change: Callable[[tf.Tensor], tf.Tensor], image: tf.Tensor
    ) -> tf.Tensor:
        chosen = tf.reduce_any(orientation == tf.constant(orientations))
        return tf.cond(chosen, lambda: change(image), lambda: image)

    image = when([5, 6, 7, 8], lambda image: tf.transpose(image, [1, 0, 2]), image)
    image = when([2, 3, 6, 7], lambda image: image[:, ::-1], image)
    return when([3, 4, 7, 8], lambda image: image[::-1], image)


def upright(image: tf.Tensor, encoded: tf.Tensor) -> tf.Tensor:
    """Turns an image [H, W, C] as the EXIF data of its encoded form, a string scalar, say."""
    orientation = tf.numpy_function(
        lambda text: np.int32(orientation_of(np.asarray(text).item())),
        [encoded],
        tf.int32,
        stateful=False,
    )
    return turned(image, tf.ensure_shape(orientation, []))


def square(image: tf.Tensor, image_size: int) -> tf.Tensor:
    """Crops uint8 [H, W, C] to its centre square and resizes it, antialiased and rounded."""
    height, width = tf.unstack(tf.shape(image)[:2])
    side = tf.minimum(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    image = image[top : top + side, left : left + side]
    resized = tf.image.resize(image, [image_size, image_size], antialias=True)
    return tf.cast(tf.round(resized), tf.uint8)


def fit(
    image: tf.Tensor, where: tf.Tensor | str, image_size: int | None, image_shape: ImageShape
) -> tf.Tensor:
    """Applies `square`; without an `image_size`, checks that the image has `image_shape`.

    Args:
        image: uint8 [H, W, C].
        where: the name of the image in errors.
        image_size: height and width in pixels, or None to keep the image as it is.
        image_shape: (height, width, channels) of the result.

    Returns:
        uint8 of `image_shape`. A wrong shape fails with an `InvalidArgumentError`.
    """
    if image_size is not None:
        image = square(image, image_size)
    else:
        advice = f"Expected {image_shape}; give an `image_size` to crop and resize all images to:"
        is_same = tf.reduce_all(tf.shape(image) == image_shape)
        with tf.control_dependencies(
            [tf.debugging.Assert(is_same, [advice, where, tf.shape(image)])]
        ):
            image = tf.identity(image)
    return tf.ensure_shape(image, image_shape)
