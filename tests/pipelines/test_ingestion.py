"""Any source becomes shards and statistics: what is in them, and that a kill changes nothing."""

import collections
import pathlib

import numpy as np
import pytest
from numbered_images import Numbers, encode, numbered, write_folder, write_tfrecords

from pipelines import ingestion
from pipelines.components import ingest
from pipelines.settings import Beam, Ingest
from stugan_tf import config
from stugan_tf.data import digits, image_folder, tfrecords
from stugan_tf.errors import InputError


def run(source, folder, settings=None, text=None):
    folder.mkdir(parents=True, exist_ok=True)
    settings = settings or Ingest()
    # The text stands for the source in other processes; here it must only be another each time.
    return ingestion.ingest(source, text or str(folder), settings, Beam(), str(folder))


def shards(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.tfrecord"))}


def read_back(source, folder, num_shards):
    """Through the very gin lines that training reads them by."""
    config.parse_gin((), ["".join(ingest.gin_lines(source, folder, num_shards))])
    found = config.gin.get_configurable("data")()
    config.parse_gin()
    return found


def pairs(source):
    images, labels = next(iter(source.in_order(source.num_images)))
    return [(int(y), x.tobytes()) for x, y in zip(images.numpy(), labels, strict=True)]


@pytest.mark.parametrize("image_size", [8, 5])
def test_shards_hold_what_the_source_holds(tmp_path, image_size):
    source = digits(image_size=image_size, flip=True)
    found = run(source, tmp_path, Ingest(num_shards=3))
    back = read_back(source, tmp_path, 3)
    assert sorted(pairs(back)) == sorted(pairs(source))
    assert pairs(back) != pairs(source)  # Digits are in an order of their own.
    assert back.image_shape == source.image_shape
    assert (back.class_names, back.num_classes, back.flip) == (source.class_names, 10, True)
    assert (found["images"], found["shards"]) == (1797, 3)


def test_statistics_are_those_of_the_pixels(tmp_path):
    source = image_folder(write_folder(tmp_path / "folder", 60, 3))
    found = run(source, tmp_path / "out", Ingest(num_shards=7))
    images, labels = (part.numpy() for part in next(iter(source.in_order(60))))
    np.testing.assert_allclose(found["channels"]["mean"], images.mean(axis=(0, 1, 2)))
    np.testing.assert_allclose(
        found["channels"]["standard_deviation"], images.std(axis=(0, 1, 2), dtype=np.float64)
    )
    counts = collections.Counter(labels.tolist())
    assert found["classes"] == {f"class{label}": count for label, count in counts.items()}
    sizes = [path.stat().st_size for path in (tmp_path / "out").glob("*.tfrecord")]
    assert found["bytes"]["shards"] == sum(sizes)
    assert len(found["anomalies"]["blank"]) == 60  # Each is of one colour.


def test_a_stream_keeps_its_order(tmp_path):
    source = tfrecords(write_tfrecords(tmp_path), num_classes=2)
    run(source, tmp_path / "out", Ingest(num_shards=4))
    assert pairs(read_back(source, tmp_path / "out", 4)) == pairs(source)


@pytest.mark.parametrize("positions", [[0], [3, 4, 5, 6, 7, 8], [10], list(range(11))])
def test_positions_of_a_stream_are_those_of_its_order(tmp_path, positions):
    source = tfrecords(write_tfrecords(tmp_path), num_classes=2)
    found = [int(image[0, 0, 0]) for image, _ in source.examples_at(np.array(positions))]
    assert found == positions


def test_the_same_seed_gives_the_same_bytes_and_another_others(tmp_path):
    source = Numbers(50)
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        run(source, tmp_path / name, Ingest(num_shards=4, seed=seed))
    assert shards(tmp_path / "a") == shards(tmp_path / "b")
    assert shards(tmp_path / "a") != shards(tmp_path / "c")


class Killed(BaseException):
    pass


@pytest.mark.parametrize("after", [0, 1, 3])
def test_resumed_equals_uninterrupted_and_writes_only_what_is_missing(tmp_path, monkeypatch, after):
    source, settings = Numbers(40), Ingest(num_shards=4)
    whole = run(source, tmp_path / "whole", settings)
    write, written = ingestion.write_shard, []

    def write_or_die(source, task, encoding):
        if len(written) == after:
            pathlib.Path(f"{task.path}").write_bytes(b"torn")
            raise Killed
        written.append(task.index)
        return write(source, task, encoding)

    monkeypatch.setattr(ingestion, "write_shard", write_or_die)
    with pytest.raises(BaseException):  # noqa: B017, PT011 - whatever Beam makes of it
        run(source, tmp_path / "killed", settings)
    first = list(written)

    def write_and_note(source, task, encoding):
        written.append(task.index)
        return write(source, task, encoding)

    monkeypatch.setattr(ingestion, "write_shard", write_and_note)
    assert run(source, tmp_path / "killed", settings) == whole
    assert shards(tmp_path / "killed") == shards(tmp_path / "whole")
    assert len(first) == after
    assert sorted(written) == [0, 1, 2, 3]


def with_bad_images(tmp_path):
    folder = tmp_path / "folder"
    write_folder(folder, 10, 2)
    (folder / "class0" / "bad.png").write_bytes(b"no image")
    (folder / "class1" / "torn.png").write_bytes(encode(numbered(3))[:40])
    return image_folder(str(folder))


def test_images_that_cannot_be_read_are_all_named(tmp_path):
    with pytest.raises(InputError) as error:
        run(with_bad_images(tmp_path), tmp_path / "out", Ingest(num_shards=2))
    assert "2 of 12 images" in str(error.value)
    assert "class0/bad.png" in str(error.value)
    assert "class1/torn.png" in str(error.value)


def test_images_that_cannot_be_read_can_be_left_out(tmp_path):
    source = with_bad_images(tmp_path)
    found = run(source, tmp_path / "out", Ingest(num_shards=2, skip_unreadable=True))
    good = image_folder(write_folder(tmp_path / "good", 10, 2))
    assert sorted(pairs(read_back(source, tmp_path / "out", 2))) == sorted(pairs(good))
    assert set(found["anomalies"]["unreadable"]) == {"5", "11"}


@pytest.mark.parametrize("duplicates", ["keep", "drop"])
def test_duplicates_are_found_by_content(tmp_path, duplicates):
    folder = tmp_path / "folder"
    write_folder(folder, 6, 2)  # class0 has 0, 2, 4 and class1 has 1, 3, 5
    again = encode(numbered(2), "BMP")  # other bytes, the same pixels
    (folder / "class0" / "z_again.bmp").write_bytes(again)
    (folder / "class1" / "z_other_class.bmp").write_bytes(again)
    source = image_folder(str(folder))
    found = run(source, tmp_path / "out", Ingest(num_shards=3, duplicates=duplicates))
    assert found["anomalies"]["duplicates"] == [[1, 3, 7]]
    assert found["anomalies"]["duplicates_of_other_classes"] == [[1, 3, 7]]
    back = pairs(read_back(source, tmp_path / "out", 3))
    # Of one class the later one goes; that an image is of two classes is not for us to decide.
    assert len(back) == (8 if duplicates == "keep" else 7)
    assert set(back) == set(pairs(source))


def test_more_shards_than_images_are_refused(tmp_path):
    with pytest.raises(InputError, match="choose fewer"):
        run(Numbers(3), tmp_path, Ingest(num_shards=4))


def test_bindings_of_the_original_shards_do_not_leak_into_the_ingested(tmp_path):
    source = tfrecords(write_tfrecords(tmp_path, label_offset=5), num_classes=2, label_offset=5)
    run(source, tmp_path / "out", Ingest(num_shards=2))
    lines = "".join(ingest.gin_lines(source, tmp_path / "out", 2))
    config.parse_gin((), ["tfrecords.label_offset = 5\ntfrecords.image_size = 3", lines])
    found = config.gin.get_configurable("data")()
    assert pairs(found) == pairs(source)
    config.parse_gin()
