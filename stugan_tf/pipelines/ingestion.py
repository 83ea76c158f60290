"""Turns a data source into shards and statistics by Beam: a shard is one element.

The contents of a shard depend only on the source and the settings, never on the workers. A source
with random access is put in random order, as in `stugan_tf.shard`. A streamed source, which TFDS or
`stugan_tf.shard` wrote in random order, keeps its own, so that nothing has to be shuffled through
the memory of the workers. A job that was killed goes on with the shards that are missing.
"""

import contextlib
import dataclasses
import functools
import hashlib
import json
import os
import uuid
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from stugan_tf.data import Source
from stugan_tf.data.paths import escaped
from stugan_tf.data.sharding import IMAGES_PER_SHARD, Encoding, example
from stugan_tf.data.source import reason
from stugan_tf.errors import InputError
from stugan_tf.pipelines import beams, configuration
from stugan_tf.pipelines.beams import beam
from stugan_tf.pipelines.settings import Beam, Ingest

CHUNK = 256  # images in memory at once
NUM_NAMED = 20  # images that an error lists


@dataclasses.dataclass(frozen=True)
class Task:
    """One shard to write.

    Attributes:
        index: int, of the shard.
        path: str, of the shard.
        positions: int64 [n], positions of its images in the source, in order.
        left_out: tuple of positions that are not written.
    """

    index: int
    path: str
    positions: np.ndarray
    left_out: tuple[int, ...] = ()

    @property
    def part(self) -> str:
        """Path of the JSON file that says what is in the shard; written last."""
        folder, name = os.path.split(self.path)
        return f"{folder}/parts/{name}.json"


def plan(source: Source, settings: Ingest, folder: str) -> list[Task]:
    """The `Task`s for all images of a source.

    Args:
        source: a `stugan_tf.data` source.
        settings: an `Ingest`.
        folder: str, folder for the shards.
    """
    num_images = source.num_images
    num_shards = settings.num_shards or -(-num_images // IMAGES_PER_SHARD)
    if num_shards > num_images:
        raise InputError(
            f"{num_images} images do not fill Ingest.num_shards = {num_shards}: choose fewer."
        )
    order = np.arange(num_images)
    if source.has_random_access:
        # By a hash, because generators may change with NumPy's version.
        keys = [hashlib.sha256(f"{settings.seed}/{i}".encode()).digest()[:16] for i in order]
        order = np.array(sorted(order, key=keys.__getitem__))
    ends = [num_images * index // num_shards for index in range(num_shards + 1)]
    return [
        Task(
            index,
            f"{folder}/train-{index:05}-of-{num_shards:05}.tfrecord",
            order[ends[index] : ends[index + 1]],
        )
        for index in range(num_shards)
    ]


def ingest(
    source: Source, text: str, settings: Ingest, runner: Beam, folder: str
) -> dict[str, Any]:
    """Writes the shards of a source that are not there, and summarizes all of them.

    Args:
        source: a `stugan_tf.data` source.
        text: gin text from which another process can build the source.
        settings: an `Ingest`.
        runner: a `Beam`.
        folder: str, a folder that TensorFlow and the workers can write to.

    Returns:
        A dictionary that JSON can hold: `images`, `shards`, `bytes`, `classes`, `channels`,
        `anomalies`, `content` (a digest of all shards).

    Raises:
        InputError: if images cannot be read, unless `Ingest.skip_unreadable` is set.
    """
    encoding = Encoding(1, source.image_shape[-1], settings.image_format, settings.quality)
    tasks = plan(source, settings, folder)
    tf.io.gfile.makedirs(f"{folder}/parts")
    for place in (folder, f"{folder}/parts"):
        for path in tf.io.gfile.glob(f"{escaped(place)}/.*.*"):  # left over by a kill
            tf.io.gfile.remove(path)
    with beams.kept(text, source):
        found = _run(tasks, text, encoding, runner, folder)
        if settings.duplicates == "drop":
            dropped = {position for group in found["duplicates"] for position in _later_ones(group)}
            if dropped:
                tasks = [_without(task, dropped) for task in tasks]
                kept = found["duplicates"]
                found = {**_run(tasks, text, encoding, runner, folder), "duplicates": kept}
    unreadable = {int(position): why for position, why in found["unreadable"].items()}
    if unreadable and not settings.skip_unreadable:
        raise InputError(_complaint(unreadable, source))
    if not found["count"]:
        raise InputError(f"No image of {source.name} can be read.")
    return _summary(source, found, unreadable, len(tasks))


def _run(tasks, text, encoding, runner, folder):
    """The sum of the parts of all tasks, with the groups of equal images."""
    merged, groups = f"{folder}/parts/merged.json", f"{folder}/parts/groups.json"

    def build(pipeline):
        parts = (
            pipeline
            | beam.Create(tasks)
            | beam.Reshuffle()  # Otherwise one worker would get all tasks.
            | beam.ParDo(WriteShard(text, encoding))
        )
        (
            parts
            | "without images" >> beam.Map(lambda part: {**part, "images": None})
            | beam.CombineGlobally(Merge())
            | beam.Map(lambda total: write_json(merged, total))
        )
        (
            parts
            | beam.FlatMap(
                lambda part: [(image[1], (image[0], image[2])) for image in part["images"]]
            )
            | beam.GroupByKey()
            | beam.Map(lambda group: sorted(group[1]))
            | beam.Filter(lambda group: len(group) > 1)
            | beam.combiners.ToList()
            | beam.Map(lambda found: write_json(groups, sorted(found)))
        )

    beams.run(runner, build)
    return {**read_json(merged), "duplicates": read_json(groups)}


class WriteShard(beam.DoFn):
    """Turns a `Task` into its part, a dictionary. A finished part is only read."""

    def __init__(self, text, encoding):
        """Notes the gin text of the source, and the `Encoding`."""
        self._text, self._encoding = text, encoding

    def process(self, task):
        """Yields one part."""
        found = finished(task)
        if found is None:
            source = beams.shared(self._text, lambda: configuration.source(self._text))
            found = write_shard(source, task, self._encoding)
        yield found


class Merge(beam.CombineFn):
    """Adds up parts. All sums are of integers, so the result is the same in any order."""

    def create_accumulator(self):
        """The sum of no parts."""
        return {
            "count": 0,
            "bytes": 0,
            "classes": {},
            "sum": [],
            "sum_of_squares": [],
            "encoded": [],
            "blank": [],
            "unreadable": {},
            "shards": [],
        }

    def add_input(self, total, part):
        """Adds one part."""
        return self.merge_accumulators([total, part])

    def merge_accumulators(self, totals):
        """Adds several sums."""
        merged = self.create_accumulator()
        for total in totals:
            merged["count"] += total["count"]
            merged["bytes"] += total["bytes"]
            for label, count in total["classes"].items():
                merged["classes"][label] = merged["classes"].get(label, 0) + count
            for name in ("sum", "sum_of_squares"):
                pairs = zip(merged[name] or [0] * len(total[name]), total[name], strict=True)
                merged[name] = [a + b for a, b in pairs] or merged[name]
            if total["encoded"]:
                least, most = total["encoded"]
                known = merged["encoded"] or [least, most]
                merged["encoded"] = [min(known[0], least), max(known[1], most)]
            merged["blank"] = sorted([*merged["blank"], *total["blank"]])
            merged["unreadable"] |= total["unreadable"]
            merged["shards"] = sorted([*merged["shards"], *total["shards"]])
        return merged

    def extract_output(self, total):
        """Returns the sum."""
        return total


def finished(task: Task) -> dict[str, Any] | None:
    """The part of a task if its shard is there, else None."""
    try:
        part = read_json(task.part)
        size = tf.io.gfile.stat(task.path).length
    except (tf.errors.OpError, ValueError):
        return None
    intact = size == part["bytes"] and part["left_out"] == list(task.left_out)
    return part if intact else None


def write_shard(source: Source, task: Task, encoding: Encoding) -> dict[str, Any]:
    """Writes a shard, whole or not at all, and then its part.

    Returns:
        The part: a dictionary of integers, hashes and reasons, see `Merge`. `images` is a list of
        `[position, hash of the pixels, label]`.
    """
    images, labels, unreadable, sizes, blank = [], [], {}, [], []
    channels = source.image_shape[-1]
    sums, squares = np.zeros(channels, np.int64), np.zeros(channels, np.int64)
    with _renamed(task.path) as temporary:
        with tf.io.TFRecordWriter(temporary) as writer:
            for position, found in examples(source, task.positions, encoding):
                if isinstance(found, str):
                    unreadable[str(position)] = found
                elif position not in task.left_out:
                    encoded, pixels, label = found
                    writer.write(example(encoded, label))
                    digest = hashlib.sha256(pixels.tobytes()).hexdigest()[:24]
                    images.append([position, digest, label])
                    labels.append(label)
                    sizes.append(len(encoded))
                    values = pixels.reshape(-1, channels).astype(np.int64)
                    sums += values.sum(axis=0)
                    squares += (values**2).sum(axis=0)
                    if (values == values[0]).all():
                        blank.append(position)
        digest, num_bytes = _digest(temporary)
    part = {
        "count": len(images),
        "bytes": num_bytes,
        "classes": {str(label): labels.count(label) for label in sorted(set(labels))},
        "sum": sums.tolist(),
        "sum_of_squares": squares.tolist(),
        "encoded": [min(sizes), max(sizes)] if sizes else [],
        "blank": blank,
        "unreadable": unreadable,
        "shards": [[task.index, digest]],
        "left_out": list(task.left_out),
        "images": images,
    }
    write_json(task.part, part)
    return part


@contextlib.contextmanager
def _renamed(path):
    """Yields a temporary path, which is renamed at the end, or removed if anything fails.

    Runners may let two workers, on two machines, do the same at once.
    """
    folder, name = os.path.split(path)
    temporary = f"{folder}/.{name}.{uuid.uuid4().hex}"
    try:
        yield temporary
        if os.path.exists(temporary):  # else it is in a bucket
            with open(temporary, "rb") as file:
                os.fsync(file.fileno())
        tf.io.gfile.rename(temporary, path, overwrite=True)
    except BaseException:
        with contextlib.suppress(tf.errors.OpError):
            tf.io.gfile.remove(temporary)
        raise


def _digest(path):
    """`(SHA-256, number of bytes)` of a file."""
    digest, num_bytes = hashlib.sha256(), 0
    with tf.io.gfile.GFile(path, "rb") as file:
        while block := file.read(2**20):
            digest.update(block)
            num_bytes += len(block)
    return digest.hexdigest(), num_bytes


def examples(
    source: Source, positions: Sequence[int] | np.ndarray, encoding: Encoding
) -> Iterator[tuple[int, Any]]:
    """Yields `(position, (encoded, pixels, label))`, or a reason instead if it cannot be read."""
    for start in range(0, len(positions), CHUNK):
        chunk = positions[start : start + CHUNK]
        try:
            dataset = source.examples_at(chunk).map(
                functools.partial(_encoded, encoding=encoding), tf.data.AUTOTUNE
            )
            found = [
                (encoded, pixels, int(label))
                for encoded, pixels, label in dataset.as_numpy_iterator()
            ]
        except tf.errors.OpError:
            found = _one_by_one(source, chunk, encoding)
        yield from zip(map(int, chunk), found, strict=True)


def _one_by_one(source, positions, encoding):
    """Like `examples`, but loads images one by one to find those that cannot be read."""
    record_type = source.records_at(positions[:1]).element_spec

    @tf.function(input_signature=[record_type], autograph=False)
    def load(record):
        return _encoded(*source.example(record), encoding=encoding)

    found = []
    try:
        for record in source.records_at(positions):
            try:
                encoded, pixels, label = (part.numpy() for part in load(record))
                found.append((encoded, pixels, int(label)))
            except tf.errors.OpError as error:
                found.append(reason(error))
    except tf.errors.OpError as error:  # Nothing can be found behind a damaged record.
        found += [f"its record, or one before, is damaged: {reason(error)}"]
        found += found[-1:] * (len(positions) - len(found))
    return found


@tf.autograph.experimental.do_not_convert
def _encoded(image, label, encoding):
    with tf.device("CPU"):
        if encoding.image_format == "png":
            encoded = tf.io.encode_png(image)
        else:
            encoded = tf.io.encode_jpeg(image, quality=encoding.quality, chroma_downsampling=False)
    return encoded, image, label


def _later_ones(group):
    """The positions in a group of equal images that follow another image of the same class."""
    seen, later = set(), []
    for position, label in group:
        if label in seen:
            later.append(position)
        seen.add(label)
    return later


def _without(task, dropped):
    left_out = tuple(int(position) for position in task.positions if int(position) in dropped)
    return dataclasses.replace(task, left_out=left_out)


def _summary(source, found, unreadable, num_shards):
    names = source.class_names or tuple(map(str, range(source.num_classes)))
    num_values = found["count"] * source.image_shape[0] * source.image_shape[1]
    means = [total / num_values for total in found["sum"]]
    variances = [
        total / num_values - mean**2
        for total, mean in zip(found["sum_of_squares"], means, strict=True)
    ]
    least, most = found["encoded"]
    conflicting = [group for group in found["duplicates"] if len({y for _, y in group}) > 1]
    return {
        "source": source.name,
        "images": found["count"],
        "image_shape": list(source.image_shape),
        "shards": num_shards,
        "bytes": {
            "shards": found["bytes"],
            "smallest_image": least,
            "largest_image": most,
        },
        "classes": {name: found["classes"].get(str(i), 0) for i, name in enumerate(names)},
        # In [0, 255], as stored.
        "channels": {
            "mean": means,
            "standard_deviation": [max(variance, 0.0) ** 0.5 for variance in variances],
        },
        "anomalies": {
            "unreadable": {str(position): why for position, why in sorted(unreadable.items())},
            "duplicates": [[position for position, _ in group] for group in found["duplicates"]],
            "duplicates_of_other_classes": [
                [position for position, _ in group] for group in conflicting
            ],
            "blank": found["blank"],
            "empty_classes": [
                name for i, name in enumerate(names) if not found["classes"].get(str(i))
            ],
        },
        "content": hashlib.sha256(json.dumps(found["shards"]).encode()).hexdigest()[:16],
    }


def _complaint(unreadable, source):
    named = sorted(unreadable.items())[:NUM_NAMED]
    lines = [f"  number {position}: {why}" for position, why in named]
    if len(unreadable) > NUM_NAMED:
        lines.append(f"  ... {len(unreadable) - NUM_NAMED} more")
    return "\n".join(
        [
            f"{len(unreadable)} of {source.num_images} images of {source.name} cannot be read:",
            *lines,
            "Repair them, or leave them out by Ingest.skip_unreadable = True: the shards for that "
            "are ready.",
        ]
    )


def write_json(path: str, values: Any) -> None:
    """Writes values as JSON, whole or not at all, to a path that TensorFlow can write to."""
    with _renamed(path) as temporary, tf.io.gfile.GFile(temporary, "w") as file:
        file.write(json.dumps(values))


def read_json(path: str) -> Any:
    """The values that `write_json` wrote."""
    with tf.io.gfile.GFile(path, "r") as file:
        return json.loads(file.read())
