"""Which files of a folder count as images, and what is said about the others."""

import os
import shutil

import numpy as np
import pytest
from PIL import Image

from stugan_tf.data import image_folder
from stugan_tf.data.listing import list_images
from stugan_tf.errors import InputError
from tests.helpers.numbered_images import encode, numbered

PNG = encode(numbered(7))


def put(folder, *names, content=PNG):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def counts(listing):
    return dict(zip(listing.class_names, np.bincount(listing.labels), strict=True))


def said(listing):
    return "\n".join(listing.remarks)


@pytest.mark.parametrize(
    "helper",
    [
        ".ipynb_checkpoints",
        ".thumbnails",
        "@eaDir",
        "__MACOSX",
        "#recycle",
        "System Volume Information",
    ],
)
def test_folders_of_the_system_do_not_count(tmp_path, helper):
    put(tmp_path, "a/0.png", "a/1.png", f"a/{helper}/0.png", f"a/{helper}/deep/1.png", "b/0.png")
    put(tmp_path, f"{helper}/c/0.png", "a/._0.png")
    listing = list_images(tmp_path)
    assert counts(listing) == {"a": 2, "b": 1}
    assert "Left out: 4 files are hidden or of the system, such as " in said(listing)


def test_any_other_folder_is_a_class(tmp_path):
    put(tmp_path, "a/0.png", "_c/0.png", "_c/sub/_deeper/1.png", "album.png/0.png")
    listing = list_images(tmp_path)
    assert counts(listing) == {"_c": 2, "a": 1, "album.png": 1}
    assert listing.remarks == ()


def test_an_album_inside_a_class_is_a_folder(tmp_path):
    put(tmp_path, "a/0.png", "a/album.png/1.png")
    source = image_folder(tmp_path)
    assert source.inspect().class_counts == (2,)


def test_images_are_known_by_their_content_where_the_suffix_says_nothing(tmp_path):
    image = Image.fromarray(numbered(9, 16))
    (tmp_path / "a").mkdir()
    for number, kind in enumerate(("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF")):
        image.save(tmp_path / "a" / f"plain{number}", kind)
    image.save(tmp_path / "a" / "photo.jfif", "JPEG")
    image.save(tmp_path / "a" / "scan.tif", "TIFF")
    image.save(tmp_path / "a" / "photo.jpg_large", "JPEG")
    put(tmp_path, "a/BMW", content=b"BMW is a maker of cars, and this is not a bitmap")
    put(tmp_path, "a/notes.txt", "a/more.txt", "a/x.heic", "a/empty", content=b"")
    source = image_folder(tmp_path)
    assert source.num_images == 9
    for remark in source.remarks:
        assert remark.startswith("Left out: 5 files are not of a known image format (")
    assert ".txt 2" in said(source)
    assert ".heic 1" in said(source)
    assert "without suffix 2" in said(source)
    images, _ = next(iter(source.in_order(9)))
    assert np.abs(images.numpy().astype(int) - numbered(9, 16)).max() <= 2


def test_links_that_lead_back_count_nothing_twice(tmp_path):
    put(tmp_path, "a/x.png", "a/sub/y.png", "b/z.png")
    for link, target in {
        "a/self": "a",
        "a/up": ".",
        "a/again": "a/sub",
        "a/same.png": "a/x.png",
        "a/sub/loop": "a",
    }.items():
        os.symlink(tmp_path / target, tmp_path / link)
    os.symlink("ring", tmp_path / "a" / "ring")
    listing = list_images(tmp_path)
    names = [os.path.relpath(path, tmp_path) for path in listing.paths]
    assert names == ["a/sub/y.png", "a/x.png", "b/z.png"]
    assert "5 paths are to files or folders that are counted already" in said(listing)


def test_links_to_images_elsewhere_count(tmp_path):
    put(tmp_path, "store/1.png", "store/2.png", "store/more/3.png")
    root = tmp_path / "root"
    (root / "a").mkdir(parents=True)
    (root / "a" / "1.png").symlink_to(tmp_path / "store" / "1.png")
    (root / "b").symlink_to(tmp_path / "store" / "more")
    linked = tmp_path / "linked"
    linked.symlink_to(root)
    for path in (root, linked, f"{linked}/"):
        listing = list_images(path)
        assert counts(listing) == {"a": 1, "b": 1}
        assert listing.remarks == ()


def test_an_image_of_two_classes_is_told(tmp_path):
    put(tmp_path, "a/1.png", "a/2.png")
    (tmp_path / "latest").symlink_to(tmp_path / "a")
    assert "2 images are of several classes at once" in said(list_images(tmp_path))


def test_a_pipe_is_not_read(tmp_path):
    put(tmp_path, "a/1.png")
    os.mkfifo(tmp_path / "a" / "pipe.png")
    os.mkfifo(tmp_path / "a" / "pipe")
    listing = list_images(tmp_path)
    assert counts(listing) == {"a": 1}
    assert "2 files are not of a known image format" in said(listing)


def test_parts_of_a_data_set_are_told_from_classes(tmp_path):
    put(tmp_path, "train/1.png", "val/1.png", "Test/1.png")
    assert "look like parts of a data set: Test, train, val." in said(list_images(tmp_path))
    shutil.rmtree(tmp_path / "val")
    shutil.rmtree(tmp_path / "Test")
    assert "look like parts of a data set: train." in said(list_images(tmp_path))
    put(tmp_path, "plane/1.png")
    assert list_images(tmp_path).remarks == ()


def test_classes_below_a_single_class_are_told(tmp_path):
    put(tmp_path, "images/cats/1.png", "images/dogs/1.png")
    assert f"If the folders in {tmp_path}/images are the classes" in said(list_images(tmp_path))
    put(tmp_path, "images/1.png")
    assert list_images(tmp_path).remarks == ()


def test_numbers_are_sorted_as_text_and_the_table_says_so(tmp_path):
    put(tmp_path, *(f"{number}/x.png" for number in range(12)))
    source = image_folder(tmp_path)
    assert source.class_names[:4] == ("0", "1", "10", "11")
    assert "class 2 is the folder 10" in said(source)
    assert "\n  2 10                 1\n" in str(source.inspect())
    for number in (10, 11):
        shutil.rmtree(tmp_path / str(number))
    assert list_images(tmp_path).remarks == ()


def test_a_class_whose_files_are_all_left_out_is_refused_with_the_reason(tmp_path):
    put(tmp_path, "a/1.png", "b/1.heic", content=b"")
    with pytest.raises(InputError, match=r"class without images, 'b'.*\(\.heic 1\)"):
        list_images(tmp_path)


def test_an_address_is_listed_as_a_path_is(tmp_path):
    root = tmp_path / "root [1]"
    put(root, "a/0.png", "a/sub/1.png", "a/.hidden/2.png", "b/plain", "b/@eaDir/3.png")
    put(root, "b/notes", content=b"no image")
    local, remote = list_images(root), list_images(f"file://{root}/")
    assert remote.class_names == local.class_names
    assert remote.paths == [f"file://{path}" for path in local.paths]
    assert remote.remarks == tuple(
        remark.replace(f"{root}", f"file://{root}") for remark in local.remarks
    )
    assert list_images(f"file://{root}/a/sub").remarks == ()
    assert image_folder(f"file://{root}").inspect().class_counts == (2, 1)


@pytest.mark.parametrize(
    "name", ["[a]", "a*b?", "{a,b}", "a\\b", "new\nline", "'q\"", " ", "é", "n" * 200, "~", "%d"]
)
def test_any_name_of_a_folder_is_a_path(tmp_path, monkeypatch, name):
    put(tmp_path, f"{name}/{name}/1.png")
    monkeypatch.chdir(tmp_path)
    for path in (f"{tmp_path}/{name}", f"{tmp_path}/{name}/", f"./{name}"):
        listing = list_images(path)
        assert listing.class_names == (name,)
        assert len(listing.paths) == 1


def test_the_home_is_expanded(tmp_path, monkeypatch):
    put(tmp_path, "images/a/1.png")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert list_images("~/images").paths == [f"{tmp_path}/images/a/1.png"]
