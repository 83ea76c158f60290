"""A folder becomes shards: what is in them, that a kill changes nothing, and what is refused."""

import io
import json
import os
import pathlib
import subprocess
import sys
import time

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps
from PIL.PngImagePlugin import PngInfo

from stugan_tf.data import image_folder, sharding, tfrecords
from stugan_tf.data.decoding import ORIENTATION, decode, orientation_of, square, turned, upright
from stugan_tf.data.sharding import Encoding, Sharding
from stugan_tf.errors import InputError
from tests.helpers.numbered_images import encode, numbered, short_png, write_folder
from tests.helpers.params import examples

PNG = Encoding(image_size=8, image_format="png")
SIZES = [(1, 1), (1, 40), (33, 2), (500, 375), (8, 8), (7, 9), (64, 63)]  # width, height


def picture(size, seed=0):
    noise = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC)


def save(image, path, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)


def ycck(image):
    """A JPEG as Adobe writes it for print: inverted, and converted to luma and chroma."""
    inks = np.asarray(ImageOps.invert(image).convert("YCbCr"))
    stored = np.concatenate([255 - inks, np.zeros_like(inks[..., :1])], axis=-1)
    file = io.BytesIO()
    Image.fromarray(stored, "CMYK").save(file, "JPEG", quality=100, subsampling=0)
    encoded = bytearray(file.getvalue())
    encoded[encoded.index(b"Adobe") + 11] = 2  # the transform: YCCK
    return bytes(encoded)


def write_zoo(path):
    """Images of many sizes and kinds in classes of difficult names; returns the path."""
    for number, size in enumerate(SIZES):
        image = picture(size, number)
        save(image, path / "a class" / f"{number}.jpg", quality=95)
        save(image.convert("CMYK"), path / "Größe 1" / f"{number}.JPEG", quality=95)
        save(image.convert("L"), path / "Größe 1" / "deeper" / f"{number}.jpg")
        save(image.convert("RGBA"), path / "日本語" / f"{number}.png")
    image = picture((40, 30))
    folder = path / "日本語"
    (folder / "ycck.jpg").write_bytes(ycck(image))
    save(Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257), folder / "16.png")
    save(image.convert("P"), folder / "palette.png", transparency=0)
    frames = [picture((40, 30), seed) for seed in (1, 2)]
    save(image, folder / "animated.gif", save_all=True, append_images=frames)
    save(image, folder / "animated.webp", save_all=True, append_images=frames, lossless=True)
    return str(path)


@pytest.fixture(scope="module")
def zoo(tmp_path_factory):
    return write_zoo(tmp_path_factory.mktemp("zoo"))


def write(folder, output, encoding=PNG, *, workers=1, skip_corrupt=False, **options):
    plan = Sharding(str(folder), str(output), encoding, **options)
    return plan, plan.run(workers=workers, skip_corrupt=skip_corrupt)


def files(folder):
    return {path.name: path.read_bytes() for path in pathlib.Path(folder).iterdir()}


def content(source):
    """Sorted (label, pixels)."""
    images, labels = next(iter(source.in_order(source.num_images)))
    return sorted((int(y), x.tobytes()) for x, y in zip(images.numpy(), labels, strict=True))


@pytest.mark.parametrize("channels", [1, 3])
def test_shards_hold_what_the_folder_holds(zoo, tmp_path, channels):
    encoding = Encoding(image_size=16, channels=channels, image_format="png")
    plan, skipped = write(zoo, tmp_path, encoding, num_shards=5)
    records = tfrecords(plan.pattern, channels=channels, num_classes=plan.num_classes)
    assert not skipped
    assert records.image_shape == (16, 16, channels)
    assert content(records) == content(image_folder(zoo, image_size=16, channels=channels))
    manifest = json.loads(plan.manifest_path.read_text())
    assert manifest["classes"] == list(image_folder(zoo, image_size=16).class_names)
    assert manifest["classes"] == ["Größe 1", "a class", "日本語"]


def test_jpeg_is_close_to_the_pixels(tmp_path):
    save(picture((100, 80)), tmp_path / "folder" / "1.png")
    plan, _ = write(tmp_path / "folder", tmp_path / "out", Encoding(image_size=64))
    ((images, _),) = tfrecords(plan.pattern).in_order(1)
    exact = square(np.asarray(picture((100, 80))), 64).numpy()
    error = images[0].numpy().astype(float) - exact
    assert np.sqrt(np.mean(error**2)) < 2


def test_adobe_inks_are_inverted_and_plain_ones_are_not():
    image = picture((40, 30))
    np.testing.assert_allclose(decode(ycck(image), "", 3).numpy().astype(int), image, atol=6)
    file = io.BytesIO()
    image.convert("CMYK").save(file, "JPEG", quality=100, subsampling=0)
    marker = file.getvalue().index(b"\xff\xee")
    adobe = file.getvalue()
    plain = adobe[:marker] + adobe[marker + 16 :]
    np.testing.assert_allclose(decode(adobe, "", 3).numpy().astype(int), image, atol=6)
    # The stored inks are 255 less what is meant: read as they are, no black is all black.
    np.testing.assert_allclose(decode(plain, "", 3), np.zeros((30, 40, 3)), atol=6)


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 20))
@examples(30)
def test_an_image_of_any_size_is_its_centre_square(width, height, image_size):
    pixels = np.asarray(picture((width, height), width))
    image = square(decode(encode(pixels), "", 3), image_size).numpy().astype(int)
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    centre = Image.fromarray(pixels).crop((left, top, left + side, top + side))
    reference = centre.resize((image_size, image_size), Image.Resampling.BILINEAR)
    np.testing.assert_allclose(image, np.asarray(reference), atol=1)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_turns_images_only_when_asked(tmp_path, orientation):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    save(picture((8, 8)), tmp_path / "folder" / "1.jpg", exif=exif)
    stored = Image.open(tmp_path / "folder" / "1.jpg")
    seen = np.asarray(ImageOps.exif_transpose(stored))
    np.testing.assert_array_equal(turned(np.asarray(stored), tf.constant(orientation)), seen)
    for asked, expected in ((False, np.asarray(stored)), (True, seen)):
        encoding = Encoding(image_size=8, image_format="png", exif_orientation=asked)
        encoded = sharding.encode(str(tmp_path / "folder" / "1.jpg"), encoding)
        np.testing.assert_array_equal(Image.open(io.BytesIO(encoded)), expected)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_every_format_is_turned_as_pillow_turns_it(tmp_path, kind):
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    path = tmp_path / "picture"
    save(
        picture((12, 8)),
        path,
        format=kind,
        exif=exif,
        lossless=kind == "WEBP",
    )
    encoded = path.read_bytes()
    seen = np.asarray(ImageOps.exif_transpose(Image.open(path)).convert("RGB"))
    image = upright(decode(tf.constant(encoded), str(path), 3), tf.constant(encoded))
    assert image.shape == seen.shape == (12, 8, 3)
    np.testing.assert_allclose(image.numpy().astype(int), seen.astype(int), atol=2)


def test_a_photo_of_very_many_pixels_is_turned(tmp_path, monkeypatch):
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    save(picture((12, 8)), tmp_path / "1.jpg", exif=exif)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)  # Twice as many, and Pillow opens nothing.
    assert orientation_of((tmp_path / "1.jpg").read_bytes()) == 6


def test_an_orientation_in_xmp_counts(tmp_path):
    notes = PngInfo()
    notes.add_itxt("XML:com.adobe.xmp", '<rdf:Description tiff:Orientation="8"/>')
    save(picture((12, 8)), tmp_path / "1.png", pnginfo=notes)
    assert orientation_of((tmp_path / "1.png").read_bytes()) == 8


def test_what_has_no_orientation_is_upright():
    pixels = np.zeros((4, 6, 3), np.uint8)
    assert orientation_of(encode(pixels)) == orientation_of(b"Exif, but no image") == 1


@pytest.mark.ci
def test_every_shard_is_a_random_sample(tmp_path):
    folder = write_folder(tmp_path / "folder", num_images=200, num_classes=2)
    orders = []
    for seed in (0, 0, 1):
        out = tmp_path / f"out{len(orders)}"
        plan, _ = write(folder, out, Encoding(4, image_format="png"), num_shards=4, seed=seed)
        images, labels = next(iter(tfrecords(plan.pattern, num_classes=2).in_order(200)))
        orders.append(images[:, 0, 0, 0].numpy())
        # Of 50 drawn from 100 and 100, all but one in 10^5 hold from 13 to 37 of the first.
        assert all(13 < sum(labels[i : i + 50]) < 37 for i in range(0, 200, 50))
        assert sorted(orders[-1]) == list(range(200))
    np.testing.assert_array_equal(orders[0], orders[1])
    assert (orders[0] != orders[2]).sum() > 150


@given(num_images=st.integers(1, 30), num_shards=st.integers(1, 30))
@examples(20)
def test_shards_differ_by_one_image_at_most(tmp_path_factory, num_images, num_shards):
    folder = tmp_path_factory.mktemp("folder")
    for index in range(num_images):
        (folder / f"{index}.png").write_bytes(b"")
    if num_shards > num_images:
        with pytest.raises(InputError, match="choose fewer"):
            Sharding(str(folder), "/nowhere", PNG, num_shards=num_shards)
        return
    plan = Sharding(str(folder), "/nowhere", PNG, num_shards=num_shards)
    lengths = [len(task.images) for task in plan.tasks()]
    assert len(lengths) == num_shards
    assert sum(lengths) == num_images
    assert max(lengths) - min(lengths) <= 1


def test_by_default_a_shard_has_about_1024_images(tmp_path, monkeypatch):
    monkeypatch.setattr(sharding, "IMAGES_PER_SHARD", 4)
    plan, _ = write(write_folder(tmp_path / "folder", 9), tmp_path / "out")
    assert plan.num_shards == 3
    assert "train-00000-of-00003.tfrecord" in files(tmp_path / "out")


class Killed(BaseException):
    pass


@given(st.integers(0, 11), st.booleans())
@examples(8)
def test_resumed_equals_uninterrupted(tmp_path_factory, kill_at, in_the_write):
    path = tmp_path_factory.mktemp("kill")
    folder = write_folder(path / "folder", num_images=11)
    (path / "folder" / "class0" / "bad.png").write_bytes(b"bad")
    write(folder, path / "whole", num_shards=4, skip_corrupt=True)
    count = 0

    def encode_or_die(*arguments):
        nonlocal count
        count += 1
        if count > kill_at:
            raise Killed
        return encode(*arguments)

    encode = sharding.encode
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sharding, "encode", encode_or_die)
        if in_the_write:  # What a SIGKILL leaves behind.
            patch.setattr(pathlib.Path, "unlink", lambda *_, **__: None)
        with pytest.raises(Killed):
            write(folder, path / "resumed", num_shards=4, skip_corrupt=True)
    write(folder, path / "resumed", num_shards=4, skip_corrupt=True)
    assert files(path / "resumed") == files(path / "whole")


def test_finished_shards_are_not_written_again_and_torn_ones_are(tmp_path):
    folder = write_folder(tmp_path / "folder")
    plan, _ = write(folder, tmp_path / "out", num_shards=3)
    before = files(tmp_path / "out")
    shards = sorted((tmp_path / "out").glob("*.tfrecord"))
    shards[0].write_bytes(shards[0].read_bytes()[:-1])
    shards[1].unlink()
    kept = shards[2].stat().st_mtime_ns
    done = []
    plan.run(on_shard=done.append)
    assert files(tmp_path / "out") == before
    assert shards[2].stat().st_mtime_ns == kept
    assert sorted(shard.name for shard in done) == [path.name for path in shards]


COMMAND = [sys.executable, "-m", "stugan_tf.shard"]


@pytest.mark.slow
def test_a_killed_command_goes_on_whatever_the_number_of_workers(tmp_path):
    zoo, out = write_zoo(tmp_path / "zoo"), tmp_path / "out"
    (tmp_path / "zoo" / "日本語" / "bad.webp").write_bytes(b"RIFF")
    whole, _ = write(zoo, tmp_path / "whole", num_shards=16, skip_corrupt=True)
    arguments = [f"--input={zoo}", f"--output={out}", "--image_size=8", "--format=png"]
    arguments += ["--num_shards=16", "--skip_corrupt"]
    with subprocess.Popen([*COMMAND, *arguments, "--workers=2"]) as process:
        while process.poll() is None and not list(out.glob("train-*")):
            time.sleep(0.01)
        process.kill()
    environment = {name: os.environ[name] for name in os.environ if name != "TF_CPP_MIN_LOG_LEVEL"}
    result = subprocess.run(
        [*COMMAND, *arguments, "--workers=2"],
        capture_output=True,
        text=True,
        check=True,
        env=environment,
    )
    assert files(out) == files(tmp_path / "whole")
    assert f"tfrecords.pattern = '{out}/{pathlib.Path(whole.pattern).name}'" in result.stdout
    assert "tfrecords.num_classes = 3" in result.stdout
    # A slow machine shows progress.
    assert all(line.startswith("sharding ") for line in result.stderr.splitlines())


@pytest.fixture(scope="module")
def spoiled(tmp_path_factory):
    """12 good images and four that are not."""
    folder = tmp_path_factory.mktemp("spoiled")
    write_folder(folder, num_images=12)
    jpeg = encode(np.asarray(picture((60, 40))), "JPEG")
    for name, data in {
        "class0/empty.jpg": b"",
        "class0/text.jpg": b"<html>404</html>",
        "class1/cut.jpg": jpeg[:-200],
        "class1/cut.png": encode(numbered(0))[:-30],
    }.items():
        (folder / name).write_bytes(data)
    return folder


BAD = ["class0/empty.jpg", "class0/text.jpg", "class1/cut.jpg", "class1/cut.png"]


def test_corrupt_images_are_all_named_and_then_skipped(spoiled, tmp_path):
    with pytest.raises(InputError, match="4 of 16 images cannot be decoded") as caught:
        write(spoiled, tmp_path, num_shards=8)
    for name in BAD:
        assert f"{spoiled}/{name}: " in str(caught.value)
    kept = files(tmp_path)
    plan, skipped = write(spoiled, tmp_path, num_shards=8, skip_corrupt=True)
    assert sorted(skipped) == BAD
    assert skipped["class0/text.jpg"] == "unknown format"
    assert tfrecords(plan.pattern).num_images == 12
    shards = {name: data for name, data in kept.items() if name.endswith("tfrecord")}
    assert 4 <= len(shards) < 8
    assert shards.items() <= files(tmp_path).items()


def test_what_only_tensorflow_refuses_is_named_with_its_reason(tmp_path):
    folder = pathlib.Path(write_folder(tmp_path / "folder"))
    (folder / "class0" / "short.png").write_bytes(short_png())
    with pytest.raises(InputError, match=r"class0/short\.png: Invalid PNG data, size \d+\n"):
        write(folder, tmp_path / "out")


def test_a_long_list_of_corrupt_images_is_cut(tmp_path):
    for index in range(30):
        (tmp_path / f"{index}.jpg").write_bytes(b"")
    out = tmp_path.with_name("out")
    with pytest.raises(InputError, match=r"(?s)30 of 30.* 10 more\n"):
        write(tmp_path, out)
    with pytest.raises(InputError, match=r"No image of .* can be decoded"):
        write(tmp_path, out, skip_corrupt=True)


def test_a_repaired_image_is_taken_in(tmp_path):
    folder = pathlib.Path(write_folder(tmp_path / "folder"))
    (folder / "class0" / "bad.png").write_bytes(b"")
    write(folder, tmp_path / "out", num_shards=3, skip_corrupt=True)
    (folder / "class0" / "bad.png").write_bytes(encode(numbered(99)))
    plan, skipped = write(folder, tmp_path / "out", num_shards=3)
    assert not skipped
    assert tfrecords(plan.pattern).num_images == 12


def test_an_image_that_is_another_one_now_is_taken_in(tmp_path):
    folder = pathlib.Path(write_folder(tmp_path / "folder"))
    write(folder, tmp_path / "out", num_shards=3)
    before = files(tmp_path / "out")
    changed = folder / "class0" / "004.png"
    changed.write_bytes(encode(np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)))
    write(folder, tmp_path / "out", num_shards=3)
    write(folder, tmp_path / "new", num_shards=3)
    after = files(tmp_path / "out")
    assert after == files(tmp_path / "new")
    assert sum(after[name] != before[name] for name in after if name.endswith(".tfrecord")) == 1


def test_shards_of_a_former_version_are_finished(tmp_path):
    folder = write_folder(tmp_path / "folder")
    plan, _ = write(folder, tmp_path / "out", num_shards=3)
    manifest = json.loads(plan.manifest_path.read_text())
    for found in manifest["shards"].values():
        del found["source_sizes"]
    plan.manifest_path.write_text(json.dumps(manifest))
    (shard, *_) = sorted((tmp_path / "out").glob("*.tfrecord"))
    written = shard.stat().st_mtime_ns
    write(folder, tmp_path / "out", num_shards=3)
    assert shard.stat().st_mtime_ns == written


def test_another_configuration_needs_another_folder(tmp_path):
    folder, out = write_folder(tmp_path / "folder"), tmp_path / "out"
    write(folder, out, num_shards=2)
    for changed in ({"seed": 1}, {"num_shards": 3}, {"encoding": Encoding(image_size=9)}):
        with pytest.raises(InputError, match="begun with another configuration"):
            write(folder, out, **{"num_shards": 2, **changed})
    with pytest.raises(InputError, match="image_size was 8, is 9"):
        write(folder, out, Encoding(image_size=9), num_shards=2)
    (tmp_path / "folder" / "class0" / "more.png").write_bytes(encode(numbered(1)))
    with pytest.raises(InputError, match="num_source_images was 11, is 12"):
        write(folder, out, num_shards=2)
    other = write_folder(tmp_path / "other", num_classes=3)
    with pytest.raises(InputError, match="has other classes"):
        write(other, out, split="test")
    (out / "train.shards.json").write_text("{")
    with pytest.raises(InputError, match="not a manifest of shards, or is damaged"):
        write(folder, out, num_shards=2)
    (out / "train.shards.json").unlink()
    with pytest.raises(InputError, match=r"is there without a train\.shards\.json"):
        write(folder, out, num_shards=2)


def test_two_at_once_are_refused(tmp_path):
    plan = Sharding(write_folder(tmp_path / "folder"), str(tmp_path / "out"), PNG)
    with pytest.raises(InputError, match=f"The output {tmp_path}/out is in use"):
        plan.run(on_shard=lambda shard: plan.run())


@pytest.fixture
def start(use):
    return lambda *arguments: use("shard", list(arguments))


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], "--input is missing"),
        (["--input={in}"], "--output is missing"),
        (["--input={in}/no", "--output={out}"], "no' is not a folder"),
        (["--input={empty}", "--output={out}"], "holds no image"),
        (["--input={gap}", "--output={out}"], "class without images, 'gap'"),
        (["--input={in}", "--output={in}/out"], "in the folder of the images"),
        (["--input={in}", "--output={in}/class0/000.png"], "in the folder of the images"),
        (["--input={in}", "--output={file}"], "cannot be written to: File exists"),
        (["--input={in}", "--output={out}", "--image_size=0"], "must be a positive int, got 0"),
        (["--input={in}", "--output={out}", "--channels=4"], "must be 1 (grey) or 3 (RGB)"),
        (["--input={in}", "--output={out}", "--format=gif"], "must be jpeg or png, got 'gif'"),
        (["--input={in}", "--output={out}", "--quality=0"], "must be in 1 .. 100, got 0"),
        (["--input={in}", "--output={out}", "--format=png", "--quality=9"], "--quality is for"),
        (
            ["--input={in}", "--output={out}", "--num_shards=0"],
            "number of shards must be a positive integer, got 0",
        ),
        (["--input={in}", "--output={out}", "--num_shards=99"], "do not fill 99 shards"),
        (["--input={in}", "--output={out}", "--workers=0"], "must be at least 1, got 0"),
        (["--input={in}", "--output={out}", "--split=a-b"], "letters, digits and underscores"),
        (["--input={in}", "--output={out}", "--seed=-1"], "at least 0, got -1"),
        (["--input={in}", "--output={out}", "--gin_param=a.b = 1"], "does not read gin"),
        (["--input={latin}", "--output={out}"], "holds a name that is not UTF-8"),
    ],
)
def test_wrong_uses_are_told_and_write_nothing(start, tmp_path, arguments, expected):
    places = {name: tmp_path / name for name in ("in", "out", "empty", "gap", "file", "latin")}
    write_folder(places["in"])
    write_folder(places["gap"])
    (places["gap"] / "gap").mkdir()
    (places["empty"]).mkdir()
    places["file"].write_text("")
    os.makedirs(os.fsencode(places["latin"]) + b"/\xe9")
    code, out, errors = start(*(argument.format(**places) for argument in arguments))
    assert (code, out) == (1, "")
    assert expected in errors
    assert not places["out"].exists()


def test_the_lines_printed_at_the_end_train(start, tmp_path):
    write_folder(tmp_path / "in", num_images=6)
    (tmp_path / "in" / "class0" / "bad.png").write_bytes(b"")
    (tmp_path / "in" / "class0" / "notes.txt").write_text("no image")
    (tmp_path / "in").rename(tmp_path / "in [1]")
    out = tmp_path / "shards [v1] \\{a,b} 'x'"
    flags_ = [f"--input={tmp_path}/in [1]/", f"--output={out}", "--image_size=8"]
    code, said, errors = start(*flags_, "--channels=1", "--workers=1", "--skip_corrupt")
    assert (code, errors) == (0, "")
    summary, lines = said.split("\n\n")
    assert f"1 were skipped: see {out}/train.shards.json." in summary
    assert "Left out: 1 file is not of a known image format (.txt 1)" in summary
    assignments = dict(line.split(" = ") for line in lines.splitlines())
    assert assignments["tfrecords.class_names"] == "('class0', 'class1')"
    assert assignments.pop("data.source") == "@tfrecords()"
    source = tfrecords(**{name.split(".")[1]: eval(value) for name, value in assignments.items()})
    images, labels = next(iter(source.batches(6, seed=0)))
    assert images.shape == (6, 8, 8, 1)
    assert sorted(labels.numpy()) == [0, 0, 0, 1, 1, 1]
