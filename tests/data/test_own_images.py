"""A folder of photos as a source: turned upright, sharded if large, and what a survey finds."""

import os
import shutil

import numpy as np
import pytest
from PIL import Image

from stugan_tf.data import own_images
from stugan_tf.data.decoding import ORIENTATION
from stugan_tf.data.own_images import survey
from stugan_tf.errors import InputError
from tests.helpers.numbered_images import encode, numbered

CLASSES = ("circles", "squares")


def halves():
    """Black on the left and white on the right, wider than high."""
    pixels = np.zeros((16, 20, 3), np.uint8)
    pixels[:, 10:] = 255
    return Image.fromarray(pixels)


@pytest.fixture
def photos(tmp_path):
    """Twelve images of two classes, one of them turned by EXIF, beside what is left out."""
    folder = tmp_path / "photos"
    for name in CLASSES:
        (folder / name).mkdir(parents=True)
    for index in range(11):
        (folder / CLASSES[index % 2] / f"{index:02}.png").write_bytes(encode(numbered(index, 16)))
    exif = Image.Exif()
    exif[ORIENTATION] = 6  # Its left side is to be on top.
    halves().save(folder / "circles" / "turned.jpg", exif=exif, quality=95)
    (folder / "circles" / "IMG_1.HEIC").write_bytes(b"\0\0\0\x18ftypheic")
    (folder / "squares" / "IMG_2.heic").write_bytes(b"")
    (folder / "squares" / "notes.txt").write_text("not an image")
    return folder


def by_pixels(source):
    """{pixels: label} of all images."""
    ((images, labels),) = source.in_order(100)
    assert len(images) == source.num_images
    return {
        image.tobytes(): int(label)
        for image, label in zip(images.numpy(), labels.numpy(), strict=True)
    }


def test_photos_are_turned_upright_unless_a_setting_says_no(photos):
    ((images, _),) = own_images(photos, 8).in_order(100)
    turned = images[6].numpy()  # The last of the first class.
    assert turned[0].max() < 80
    assert turned[-1].min() > 180
    ((images, _),) = own_images(photos, 8, exif_orientation=False).in_order(100)
    stored = images[6].numpy()
    assert stored[:, 0].max() < 80
    assert stored[:, -1].min() > 180


def test_what_is_skipped_is_counted_and_named_in_one_message(photos):
    (remark,) = own_images(photos, 8).remarks
    assert remark.startswith("Left out: 3 files are not of a known image format (.heic 2, .txt 1)")
    assert "such as " in remark
    assert remark.endswith("Convert .heic to JPEG to use them.")


def test_a_large_folder_is_sharded_once_with_the_same_images_and_names(photos, tmp_path):
    direct = own_images(photos, 8)
    settings = {"shards_from_gib": 0, "shards_dir": tmp_path / "shards"}
    sharded = own_images(photos, 8, **settings)
    assert not (tmp_path / "shards").exists()  # Until images are needed.
    assert by_pixels(sharded) == by_pixels(direct)
    assert sharded.class_names == direct.class_names == CLASSES
    assert sharded.inspect().class_counts == direct.inspect().class_counts == (7, 5)
    assert sharded.remarks[:-1] == direct.remarks
    assert str(tmp_path / "shards") in sharded.remarks[-1]

    def shards():
        return {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.tfrecord")}

    before = shards()
    assert own_images(f"{photos}/", 8, **settings).num_images == 12
    assert shards() == before
    (photos / "squares" / "more.png").write_bytes(encode(numbered(99, 16)))
    assert own_images(photos, 8, **settings).num_images == 13
    assert shards().items() > before.items()


def test_shards_that_are_gone_are_made_again(photos, tmp_path):
    settings = {"shards_from_gib": 0, "shards_dir": tmp_path / "shards"}
    before = own_images(photos, 8, **settings).inspect().fingerprint
    shutil.rmtree(tmp_path / "shards")
    assert own_images(photos, 8, **settings).inspect().fingerprint == before


def test_an_image_that_shards_cannot_hold_is_named_with_what_to_do(photos, tmp_path):
    (photos / "squares" / "bad.jpg").write_bytes(b"\xff\xd8\xff")
    source = own_images(photos, 8, shards_from_gib=0, shards_dir=tmp_path / "shards")
    with pytest.raises(InputError, match=r"(?s)squares/bad\.jpg.*Repair or remove them"):
        source.inspect()


def test_a_survey_finds_what_a_configuration_depends_on(photos):
    found = survey(photos)
    assert (found.num_images, found.class_names, found.smallest_class) == (12, CLASSES, 5)
    assert (found.num_classes, found.channels, found.side) == (2, 3, 16)
    assert found.folder == os.path.realpath(photos)
    Image.fromarray(np.zeros((9, 30, 3), np.uint8)).save(photos / "squares" / "small.png")
    found = survey(photos)
    assert (found.sides[0], found.smallest) == (9, f"{photos}/squares/small.png")
    assert found.side == 16  # Of nine of ten.


def test_grey_images_are_known_by_their_headers(tmp_path):
    for index in range(3):
        Image.fromarray(np.full((8, 8), index, np.uint8)).save(tmp_path / f"{index}.png")
    assert survey(tmp_path).channels == 1
    assert survey(tmp_path).class_names is None


def test_a_folder_of_damaged_files_is_told(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"nothing")
    with pytest.raises(InputError, match="none of the 1 that were looked at can be read"):
        survey(tmp_path)
