import re

import numpy as np
import pytest
from PIL import Image

from stugan_tf.data import image_folder
from stugan_tf.errors import InputError
from tests.helpers.numbered_images import encode, numbered, short_png, write_folder


def test_sub_folders_are_classes(tmp_path):
    write_folder(tmp_path, num_images=5, num_classes=2)
    (tmp_path / "notes.txt").write_text("no image")
    source = image_folder(str(tmp_path))
    assert source.class_names == ("class0", "class1")
    assert source.image_shape == (4, 4, 3)
    assert source.inspect().class_counts == (3, 2)


def test_a_flat_folder_is_one_class(tmp_path):
    for index in range(3):
        (tmp_path / f"{index}.PNG").write_bytes(encode(numbered(index)))
    source = image_folder(str(tmp_path), channels=1)
    assert (source.num_images, source.num_classes, source.image_shape) == (3, 1, (4, 4, 1))


def test_any_sizes_become_one(tmp_path):
    for index, size in enumerate((3, 8, 20)):
        (tmp_path / f"{index}.png").write_bytes(encode(numbered(10 * index, size)))
    images, _ = next(iter(image_folder(str(tmp_path), image_size=6).batches(3, seed=0)))
    reds = np.sort(np.rint((images[:, 0, 0, 0] + 1) * 127.5))
    np.testing.assert_array_equal(reds, [0, 10, 20])


def test_fingerprint_is_not_of_the_path_but_of_each_file(tmp_path):
    one = image_folder(write_folder(tmp_path / "one"), cache_gib=0).inspect()
    two = image_folder(write_folder(tmp_path / "two"), cache_gib=0).inspect()
    assert one.fingerprint == two.fingerprint
    (tmp_path / "two/class0/000.png").write_bytes(encode(numbered(200)))
    changed = image_folder(str(tmp_path / "two"), cache_gib=0).inspect()
    assert changed.fingerprint != one.fingerprint


@pytest.mark.parametrize("cache_gib", [0, 1])
@pytest.mark.parametrize(
    "content",
    [b"", encode(numbered(0))[:-30], encode(numbered(0)).replace(b"IDAT", b"IDAX")],
    ids=["empty", "truncated", "damaged"],
)
def test_a_damaged_file_is_named(tmp_path, content, cache_gib):
    write_folder(tmp_path)
    (tmp_path / "class1" / "bad.png").write_bytes(content)
    with pytest.raises(InputError, match=r"class1/bad\.png cannot be decoded"):
        image_folder(str(tmp_path), image_size=4, cache_gib=cache_gib).inspect()


def test_differing_sizes_need_an_image_size(tmp_path):
    write_folder(tmp_path)
    (tmp_path / "class1" / "large.png").write_bytes(encode(numbered(0, size=9)))
    with pytest.raises(InputError, match=r"give an `image_size`.*large\.png\] \[9 9 3\]"):
        image_folder(str(tmp_path)).inspect()


def test_impossible_folders_are_refused(tmp_path):
    with pytest.raises(InputError, match="not a folder"):
        image_folder(str(tmp_path / "missing"))
    with pytest.raises(InputError, match="holds no image"):
        image_folder(str(tmp_path))
    write_folder(tmp_path)
    with pytest.raises(InputError, match=r"`channels` must be 1 \(grey\) or 3 \(RGB\), got 4"):
        image_folder(str(tmp_path), channels=4)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="class without images, 'empty'"):
        image_folder(str(tmp_path))
    (tmp_path / "beside.png").write_bytes(encode(numbered(0)))
    with pytest.raises(InputError, match="both beside its sub-folders"):
        image_folder(str(tmp_path))


@pytest.mark.parametrize("cache_gib", [0, 1])
def test_what_the_decoder_refuses_is_named_even_if_another_would_read_it(tmp_path, cache_gib):
    write_folder(tmp_path)
    (tmp_path / "class1" / "short.png").write_bytes(short_png())
    with pytest.raises(InputError, match=r"class1/short\.png cannot be decoded: .*PNG"):
        image_folder(str(tmp_path), image_size=4, cache_gib=cache_gib).inspect()


@pytest.mark.parametrize("name", ["000.png", "zzz.png"])
def test_a_link_to_nothing_is_named(tmp_path, name):
    write_folder(tmp_path)
    (tmp_path / "class0" / name).unlink(missing_ok=True)
    (tmp_path / "class0" / name).symlink_to(tmp_path / "gone.png")
    with pytest.raises(InputError, match=rf"class0/{name} cannot be read: No such file"):
        image_folder(str(tmp_path), cache_gib=0).inspect()


@pytest.mark.parametrize(
    ("images", "remark"),
    [
        (np.random.default_rng(0).integers(0, 3501, (4, 8, 8)).astype(np.uint16), "nearly black"),
        (np.full((4, 8, 8), 128, np.uint8), "without contrast.* lie in 128 .. 128"),
        (np.stack([np.arange(256, dtype=np.uint8).reshape(16, 16)] * 4), "all equal"),
    ],
    ids=["12 bits", "constant", "equal"],
)
def test_images_with_nothing_to_see_are_remarked_on(tmp_path, images, remark):
    for number, image in enumerate(images):
        (tmp_path / f"{number}.png").write_bytes(encode(image))
    assert re.search(remark, str(image_folder(tmp_path, channels=1).inspect()))


def test_pixels_of_32_bits_are_refused(tmp_path):
    Image.fromarray(np.zeros((8, 8), np.float32)).save(tmp_path / "x.tif")
    with pytest.raises(InputError, match=r"x\.tif cannot be decoded: .*32 bits"):
        image_folder(tmp_path).inspect()
