"""Any source becomes shards and statistics: what is in them, and that a kill changes nothing."""

import collections
import pathlib

import numpy as np
import pytest

from stugan_tf import config
from stugan_tf.data import image_folder, tfrecords
from stugan_tf.data.sharding import Encoding
from stugan_tf.errors import InputError
from stugan_tf.pipelines import beams, ingestion
from stugan_tf.pipelines.components import ingest
from stugan_tf.pipelines.settings import Beam, Ingest
from tests.helpers.numbered_images import Numbers, encode, numbered, write_folder, write_tfrecords
from tests.helpers.params import first_by_default


def run(source, folder, settings=None, text=None):
    folder.mkdir(parents=True, exist_ok=True)
    settings = settings or Ingest()
    # The text stands for the source in other processes; here it must only be another each time.
    return ingestion.ingest(source, text or str(folder), settings, Beam(), str(folder))


def shards(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.tfrecord"))}


def read_back(source, folder, num_shards, before=""):
    """Through the very gin lines that training reads them by, after those for the source."""
    config.parse_gin((), [before, "".join(ingest.gin_lines(source, folder, num_shards))])
    found = config.gin.get_configurable("data")()
    config.parse_gin()
    return found


def pairs(source):
    images, labels = next(iter(source.in_order(source.num_images)))
    return [(int(y), x.tobytes()) for x, y in zip(images.numpy(), labels, strict=True)]


@pytest.mark.ci
def test_shards_and_statistics_are_of_what_the_source_holds(tmp_path):
    source = image_folder(write_folder(tmp_path / "folder", 60, 3), flip=True)
    out = tmp_path / "out [1]*"
    found = run(source, out, Ingest(num_shards=7))
    back = read_back(source, out, 7)
    assert sorted(pairs(back)) == sorted(pairs(source))
    assert pairs(back) != pairs(source)  # Where images can be had in any order, it is random.
    assert back.image_shape == source.image_shape
    assert (back.class_names, back.num_classes, back.flip) == (source.class_names, 3, True)
    assert (found["images"], found["shards"]) == (60, 7)

    images, labels = (part.numpy() for part in next(iter(source.in_order(60))))
    np.testing.assert_allclose(found["channels"]["mean"], images.mean(axis=(0, 1, 2)))
    np.testing.assert_allclose(
        found["channels"]["standard_deviation"], images.std(axis=(0, 1, 2), dtype=np.float64)
    )
    counts = collections.Counter(labels.tolist())
    assert found["classes"] == {f"class{label}": count for label, count in counts.items()}
    sizes = [path.stat().st_size for path in out.glob("*.tfrecord")]
    assert found["bytes"]["shards"] == sum(sizes)
    assert len(found["anomalies"]["blank"]) == 60  # Each is of one colour.


@pytest.mark.ci
def test_a_stream_keeps_its_order_and_its_bindings_do_not_leak_into_the_ingested(tmp_path):
    source = tfrecords(write_tfrecords(tmp_path, label_offset=5), num_classes=2, label_offset=5)
    run(source, tmp_path / "out", Ingest(num_shards=4))
    before = "tfrecords.label_offset = 5\ntfrecords.image_size = 3"
    assert pairs(read_back(source, tmp_path / "out", 4, before)) == pairs(source)


@pytest.mark.parametrize("positions", [[0], [3, 4, 5, 6, 7, 8], [10], list(range(11))])
def test_positions_of_a_stream_are_those_of_its_order(tmp_path, positions):
    source = tfrecords(write_tfrecords(tmp_path), num_classes=2)
    found = [int(image[0, 0, 0]) for image, _ in source.examples_at(np.array(positions))]
    assert found == positions


def test_another_seed_gives_another_order(tmp_path):
    orders = [
        np.concatenate([task.positions for task in ingestion.plan(Numbers(50), settings, "")])
        for settings in (Ingest(num_shards=4), Ingest(num_shards=4), Ingest(num_shards=4, seed=1))
    ]
    assert (orders[0] == orders[1]).all()
    assert (orders[0] != orders[2]).any()
    assert sorted(orders[2]) == list(range(50))


class Killed(BaseException):
    pass


@pytest.mark.ci
def test_resumed_equals_uninterrupted_and_writes_only_what_is_missing(tmp_path, monkeypatch):
    source, settings, after = Numbers(40), Ingest(num_shards=4), 2
    whole = run(source, tmp_path / "whole", settings)
    write, written = ingestion.write_shard, []

    def write_or_die(source, task, encoding):
        if len(written) == after:
            path = pathlib.Path(task.path)
            path.write_bytes(b"torn")
            path.with_name(f".{path.name}.0").write_bytes(b"to")
            path.with_name("parts").joinpath(f".{path.name}.json.0").write_bytes(b"{")
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
    assert names(tmp_path / "killed") == names(tmp_path / "whole")
    # The images are let go.
    monkeypatch.setattr(beams.tf.config, "set_visible_devices", lambda devices, kind: None)
    for name in ("whole", "killed"):
        assert beams.shared(str(tmp_path / name), lambda: None) is None
    assert len(first) == after
    assert sorted(written) == [0, 1, 2, 3]


def names(folder):
    return sorted(path.relative_to(folder) for path in folder.rglob("*"))


def test_a_full_disk_leaves_no_half_of_a_shard(tmp_path, monkeypatch):
    (task,) = ingestion.plan(Numbers(3), Ingest(), str(tmp_path))

    def refuse(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(ingestion.os, "fsync", refuse)
    with pytest.raises(OSError, match="No space"):
        ingestion.write_shard(Numbers(3), task, Encoding(1, 3, "png"))
    assert list(tmp_path.iterdir()) == []


def with_bad_images(tmp_path):
    folder = tmp_path / "folder"
    write_folder(folder, 10, 2)
    (folder / "class0" / "bad.png").write_bytes(b"no image")
    (folder / "class1" / "torn.png").write_bytes(encode(numbered(3))[:40])
    return image_folder(str(folder))


@pytest.mark.ci
def test_images_that_cannot_be_read_are_all_named_and_can_be_left_out(tmp_path, monkeypatch):
    source = with_bad_images(tmp_path)
    with pytest.raises(InputError) as error:
        run(source, tmp_path / "out", Ingest(num_shards=2))
    assert "2 of 12 images" in str(error.value)
    assert "class0/bad.png" in str(error.value)
    assert "class1/torn.png" in str(error.value)
    monkeypatch.setattr(ingestion, "write_shard", None)  # All is ready.
    found = run(source, tmp_path / "out", Ingest(num_shards=2, skip_unreadable=True))
    good = image_folder(write_folder(tmp_path / "good", 10, 2))
    assert sorted(pairs(read_back(source, tmp_path / "out", 2))) == sorted(pairs(good))
    assert set(found["anomalies"]["unreadable"]) == {"5", "11"}


@pytest.mark.parametrize("duplicates", first_by_default("keep", "drop"))
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
