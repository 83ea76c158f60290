import io

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from stugan_tf.data.decoding import decode, decode_with_pillow, square
from stugan_tf.errors import InputError
from tests.helpers.numbered_images import encode

PICTURE = Image.fromarray(
    np.random.default_rng(0).integers(0, 256, (12, 15, 3), dtype=np.uint8)
).resize((60, 45), Image.Resampling.BICUBIC)
GREY_16_BITS = np.asarray(PICTURE.convert("L")).astype(np.uint16) * 257

ENCODED = {
    "png": encode(np.asarray(PICTURE)),
    "grey png": encode(np.asarray(PICTURE.convert("L"))),
    "grey png with alpha": encode(np.asarray(PICTURE.convert("LA"))),
    "bmp": encode(np.asarray(PICTURE), "BMP"),
    "jpeg": encode(np.asarray(PICTURE), "JPEG"),
    "grey jpeg": encode(np.asarray(PICTURE.convert("L")), "JPEG"),
    "progressive jpeg": encode(np.asarray(PICTURE), "JPEG", progressive=True),
    "jpeg with bytes after its end": encode(np.asarray(PICTURE), "JPEG") + b"..",
    "gif": encode(np.asarray(PICTURE), "GIF"),
    "webp": encode(np.asarray(PICTURE), "WEBP"),
}
for _mode, _format in (("CMYK", "JPEG"), ("P", "PNG"), ("P", "BMP"), ("1", "PNG"), ("RGBA", "PNG")):
    _file = io.BytesIO()
    PICTURE.convert(_mode).save(_file, _format)
    ENCODED[f"{_mode} {_format}"] = _file.getvalue()


@pytest.mark.parametrize("name", ENCODED)
def test_every_variant_decodes_as_by_pillow(name):
    reference = Image.open(io.BytesIO(ENCODED[name])).convert("RGB")
    image = decode(ENCODED[name], name, 3)
    np.testing.assert_array_equal(image, np.asarray(reference))
    grey = decode(ENCODED[name], name, 1)[..., 0].numpy().astype(int)
    np.testing.assert_allclose(grey, np.asarray(reference.convert("L")), atol=1)


def test_16_bits_keep_their_high_byte():
    image = decode(encode(GREY_16_BITS), "", 1)
    np.testing.assert_array_equal(image[..., 0], GREY_16_BITS >> 8)


@pytest.mark.parametrize(
    "encoded",
    [b"", b"text", b"\xff\xd8\xff", ENCODED["png"][:90], ENCODED["jpeg"][:-40]],
    ids=["empty", "text", "only a header", "truncated png", "truncated jpeg"],
)
def test_what_cannot_be_decoded_is_named(encoded):
    with pytest.raises(InputError, match=r"cats/1\.png cannot be decoded"):
        decode_with_pillow(encoded, b"cats/1.png")


@pytest.mark.parametrize("image_size", [16, 45, 90])
def test_square_is_the_centre_resized_with_antialiasing(image_size):
    image = square(tf.constant(np.asarray(PICTURE)), image_size)
    centre = PICTURE.crop((7, 0, 52, 45))
    reference = centre.resize((image_size, image_size), Image.Resampling.BILINEAR)
    assert image.dtype == tf.uint8
    np.testing.assert_allclose(image.numpy().astype(int), np.asarray(reference), atol=1)
