"""A folder of images as TFRecord shards that `tfrecords` reads: small squares, in random order.

The content of a shard is a function of the folder and the configuration alone. It does not depend
on the number of processes or on earlier calls. A shard that the manifest beside it calls finished
is kept, unless an image of it now has another size in bytes; any other is written again. So a job
that was killed goes on when it is started again.
"""

import concurrent.futures
import contextlib
import dataclasses
import functools
import hashlib
import itertools
import json
import multiprocessing
import os
import pathlib
import re
import signal
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import tensorflow as tf

from stugan_tf.checks import check_natural, check_positive
from stugan_tf.data.decoding import (
    check_channels,
    check_image_size,
    damage,
    decode,
    orientation_of,
    square,
    turned,
)
from stugan_tf.data.listing import Listing, list_images
from stugan_tf.data.paths import escaped
from stugan_tf.data.source import reason
from stugan_tf.errors import FailedRun, InputError
from stugan_tf.files import expanded, local_path, locked, write_atomically

IMAGES_PER_SHARD = 1024  # by default: an eighth of what `tfrecords` shuffles at once
NUM_NAMED = 20  # images that an error lists
MANIFEST = ".shards.json"
ADVICE = (
    "Repair them, or leave them out by --skip_corrupt; either way the shards that are finished are "
    "kept."
)


@dataclasses.dataclass(frozen=True)
class Encoding:
    """How an image is resized and encoded.

    Attributes:
        image_size: height and width in pixels.
        channels: 1 or 3.
        image_format: "jpeg" or "png".
        quality: of JPEG, in [1, 100]; chroma is never subsampled.
        exif_orientation: whether images are turned as their EXIF data say. `image_folder` does
            not, nor do the reference's loaders.
    """

    image_size: int = 128
    channels: int = 3
    image_format: str = "jpeg"
    quality: int = 95
    exif_orientation: bool = False

    def __post_init__(self) -> None:
        check_image_size(self.image_size)
        check_channels(self.channels)
        if self.image_format not in ("jpeg", "png"):
            raise InputError(f"The format must be jpeg or png, got {self.image_format!r}.")
        if type(self.quality) is not int or not 1 <= self.quality <= 100:
            raise InputError(f"The quality must be in 1 .. 100, got {self.quality!r}.")


@dataclasses.dataclass(frozen=True)
class Task:
    """One shard to write.

    Attributes:
        path: path of the shard.
        images: paths of its images, in order.
        labels: their classes.
        encoding: how images are encoded.
        skip_corrupt: whether images that cannot be decoded are left out.
    """

    path: pathlib.Path
    images: list[str]
    labels: list[int]
    encoding: Encoding
    skip_corrupt: bool


@dataclasses.dataclass(frozen=True)
class Shard:
    """A finished `Task`; `corrupt` maps paths of images that cannot be decoded to reasons."""

    name: str
    num_images: int
    num_bytes: int
    corrupt: dict[str, str]


class Sharding:
    """The plan for a folder; `run` writes the shards that are missing.

    Attributes:
        num_images: number of images in the folder.
        num_shards: number of shards, finished or not.
        num_classes: number of classes; 1 without sub-folders.
        class_names: their names in the order of the labels, or None without sub-folders.
        pattern: the pattern of the shards, for `tfrecords`.
        remarks: as of a `Listing`.
        manifest_path: path of a JSON file: the configuration, the classes in the order of their
            labels, and the finished shards with the images they leave out.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        output: str | os.PathLike[str],
        encoding: Encoding,
        *,
        num_shards: int | None = None,
        split: str = "train",
        seed: int = 0,
        listing: Listing | None = None,
    ) -> None:
        """Lists the folder; writes nothing.

        Args:
            folder: a folder of images, as in `image_folder`.
            output: a local folder for shards and manifest.
            encoding: how images are encoded.
            num_shards: number of shards; None for about 1024 images in each.
            split: beginning of the names of the shards.
            seed: it decides where in the shards each image is.
            listing: of the folder without links on the way, if it is known.

        Raises:
            InputError: if the folder holds no images, the output lies in it, or another argument
                cannot work.
        """
        check_natural("The seed", seed)
        if num_shards is not None:
            check_positive("The number of shards", num_shards)
        if not re.fullmatch(r"\w+", split, re.ASCII):
            raise InputError(
                f"The split must be of letters, digits and underscores, got {split!r}: the names "
                "of the shards begin with it."
            )
        self._output = local_path(output, "--output").resolve()
        folder = expanded(folder, "--input")
        folder = os.path.realpath(folder) if os.path.isdir(folder) else folder.rstrip("/")
        if pathlib.Path(folder) in (self._output, *self._output.parents):
            raise InputError(
                f"The output {output} is in the folder of the images, where it would pass for a "
                "class. Choose another."
            )
        self._folder, self._encoding, self._split = folder, encoding, split
        listing = listing or list_images(folder)
        self.class_names, self.remarks = listing.class_names, listing.remarks
        self._images, self._labels = listing.paths, listing.labels
        self.num_images = len(self._images)
        self.num_classes = len(self.class_names or [folder])
        by_default = -(-self.num_images // IMAGES_PER_SHARD)
        self.num_shards = by_default if num_shards is None else num_shards
        if self.num_shards > self.num_images:
            raise InputError(
                f"{self.num_images} images do not fill {self.num_shards} shards: choose fewer."
            )
        self._seed = seed
        names = f"{split}-*-of-{self.num_shards:05}.tfrecord"
        self.pattern = f"{escaped(str(self._output))}/{names}"
        self.manifest_path = self._output / f"{split}{MANIFEST}"

    def run(
        self,
        *,
        workers: int = 1,
        skip_corrupt: bool = False,
        on_shard: Callable[[Shard], object] = lambda shard: None,
        wait: Callable[[str], object] | None = None,
        advice: str = ADVICE,
    ) -> dict[str, str]:
        """Writes the shards that are not finished.

        Args:
            workers: number of processes; with 1, this process does all.
            skip_corrupt: whether images that cannot be decoded are left out. Otherwise they are an
                error, once all other images are checked and the shards without them are written.
            on_shard: called with each `Shard`, including those finished earlier.
            wait: as for `files.locked`, if another process writes them.
            advice: what to do about images that cannot be decoded, for the message.

        Returns:
            The images left out: {path relative to the folder: reason}.

        Raises:
            InputError: if images cannot be decoded and `skip_corrupt` is false, if no image can be
                decoded, or if the output belongs to something else.
            FailedRun: if a worker was killed.
        """
        with self._locked(wait):
            manifest = self._manifest()
            sizes = {name: self._sizes(images) for name, images in self._parts().items()}
            finished = {
                name: found
                for name, found in manifest["shards"].items()
                if self._is_whole(name, found)
                and (skip_corrupt or not found["skipped"])
                and found.get("source_sizes") in (None, sizes.get(name))
            }
            manifest["shards"] = finished
            self._write(manifest)
            for name, found in finished.items():
                on_shard(Shard(name, found["num_images"], found["num_bytes"], found["skipped"]))
            corrupt: dict[str, str] = {}
            for shard in _written(self.tasks(finished, skip_corrupt), workers):
                relative = {self._relative(path): why for path, why in shard.corrupt.items()}
                corrupt.update(relative)
                if skip_corrupt or not shard.corrupt:
                    finished[shard.name] = {
                        "num_images": shard.num_images,
                        "num_bytes": shard.num_bytes,
                        "skipped": relative,
                        "source_sizes": sizes[shard.name],
                    }
                    self._write(manifest)
                on_shard(shard)
        if corrupt and not skip_corrupt:
            raise InputError(self._complaint(corrupt, advice))
        if not any(found["num_images"] for found in finished.values()):
            raise InputError(f"No image of {self._folder} can be decoded.")
        return {path: why for found in finished.values() for path, why in found["skipped"].items()}

    def tasks(self, finished: Collection[str] = (), skip_corrupt: bool = False) -> list[Task]:
        """The shards to write: all but those whose names are in `finished`."""
        return [
            Task(
                self._output / name,
                [self._images[image] for image in chosen],
                [int(self._labels[image]) for image in chosen],
                self._encoding,
                skip_corrupt,
            )
            for name, chosen in self._parts().items()
            if name not in finished
        ]

    def _parts(self) -> dict[str, list[int]]:
        """{name of a shard: its images, as places in the listing}."""
        order = sorted(range(self.num_images), key=self._place)
        bounds = [self.num_images * i // self.num_shards for i in range(self.num_shards + 1)]
        return {
            f"{self._split}-{index:05}-of-{self.num_shards:05}.tfrecord": order[start:end]
            for index, (start, end) in enumerate(itertools.pairwise(bounds))
        }

    def _sizes(self, images: Sequence[int]) -> str | None:
        """A digest of the sizes of files, to notice that an image is another one under its name.

        None for images at an address, where a size may take as long as the image.
        """
        digest = hashlib.sha256()
        for image in images:
            path = self._images[image]
            if "://" in path:
                return None
            with contextlib.suppress(OSError):  # What cannot be read is told when it is written.
                digest.update(f"{os.path.getsize(path)}".encode())
            digest.update(b"\0")
        return digest.hexdigest()[:16]

    def _place(self, image: int) -> bytes:
        """A random key, made by a hash because NumPy's generators may change with its version."""
        text = f"{self._seed}/{self._relative(self._images[image])}"
        return hashlib.sha256(text.encode()).digest()[:16]

    def _relative(self, path: str) -> str:
        return path[len(self._folder) :].lstrip("/")

    def _configuration(self) -> dict[str, Any]:
        listing = hashlib.sha256()
        for path in self._images:
            listing.update(self._relative(path).encode() + b"\0")
        return {
            "source": self._folder,
            "split": self._split,
            **dataclasses.asdict(self._encoding),
            "seed": self._seed,
            "num_shards": self.num_shards,
            "num_source_images": self.num_images,
            "names_sha256": listing.hexdigest(),
            "classes": list(self.class_names) if self.class_names else None,
        }

    def _manifest(self) -> dict[str, Any]:
        """The manifest of the output folder, or a new one; refuses another configuration."""
        configuration = self._configuration()
        for path in self._output.glob(f"*{MANIFEST}"):
            if path != self.manifest_path and _read(path)["classes"] != configuration["classes"]:
                raise InputError(
                    f"{path} has other classes than {self._folder}: the same label would mean "
                    "another class. Choose another output, or give both folders the same classes."
                )
        if self.manifest_path.exists():
            manifest = _read(self.manifest_path)
            self._compare(manifest, configuration)
            return manifest
        foreign = sorted(self._output.glob(f"{self._split}-*.tfrecord"))
        if foreign:
            raise InputError(
                f"{foreign[0]} is there without a {self.manifest_path.name} that says what it "
                "holds. Choose another output or another split."
            )
        return {**configuration, "shards": {}}

    def _compare(self, manifest: dict[str, Any], configuration: dict[str, Any]) -> None:
        different = [
            f"{name} was {manifest.get(name)!r}, is {value!r}"
            for name, value in configuration.items()
            if manifest.get(name) != value
        ]
        if different:
            shown = "; ".join(text if len(text) < 200 else f"{text[:200]}..." for text in different)
            raise InputError(
                f"{self._output} was begun with another configuration: {shown}. Choose another "
                f"output, or remove {self.manifest_path.name} and the shards."
            )

    def _is_whole(self, name: str, found: dict[str, Any]) -> bool:
        path = self._output / name
        return path.is_file() and path.stat().st_size == found["num_bytes"]

    def _write(self, manifest: dict[str, Any]) -> None:
        ordered = {**manifest, "shards": dict(sorted(manifest["shards"].items()))}
        text = json.dumps(ordered, indent=1, ensure_ascii=False)
        write_atomically(self.manifest_path, text.encode())

    def _complaint(self, corrupt: dict[str, str], advice: str) -> str:
        named = sorted(corrupt.items())[:NUM_NAMED]
        lines = [f"  {os.path.join(self._folder, path)}: {why}" for path, why in named]
        if len(corrupt) > NUM_NAMED:
            lines.append(f"  ... {len(corrupt) - NUM_NAMED} more")
        return "\n".join(
            [
                f"{len(corrupt)} of {self.num_images} images cannot be decoded:",
                *lines,
                advice,
            ]
        )

    @contextlib.contextmanager
    def _locked(self, wait: Callable[[str], object] | None) -> Iterator[None]:
        with locked(self._output / f".{self._split}.lock", f"The output {self._output}", wait):
            for name in (f"{self._split}-*.tfrecord", self.manifest_path.name):
                for left_over in self._output.glob(f".{name}.*"):  # by a kill
                    left_over.unlink()
            yield


def write_shard(task: Task) -> Shard:
    """Writes one shard, whole or not at all."""
    temporary = task.path.with_name(f".{task.path.name}.{os.getpid()}")
    corrupt: dict[str, str] = {}
    try:
        with tf.io.TFRecordWriter(str(temporary)) as writer:
            for image, label in zip(task.images, task.labels, strict=True):
                try:
                    writer.write(example(encode(image, task.encoding), label))
                except _CorruptError as error:
                    corrupt[image] = str(error)
        size = temporary.stat().st_size
        if task.skip_corrupt or not corrupt:
            with open(temporary, "rb") as file:
                os.fsync(file.fileno())
            os.replace(temporary, task.path)
    finally:
        temporary.unlink(missing_ok=True)
    return Shard(task.path.name, len(task.images) - len(corrupt), size, corrupt)


def example(encoded: bytes, label: int) -> bytes:
    """The bytes of a `tf.train.Example` with the features that `tfrecords` reads by default."""
    feature = {
        "image/encoded": tf.train.Feature(bytes_list=tf.train.BytesList(value=[encoded])),
        "image/class/label": tf.train.Feature(int64_list=tf.train.Int64List(value=[label])),
    }
    features = tf.train.Features(feature=feature)
    return tf.train.Example(features=features).SerializeToString(deterministic=True)


def encode(path: str, encoding: Encoding) -> bytes:
    """The image at `path`, resized and encoded.

    Raises:
        InputError: if the file cannot be read.
    """
    try:
        with tf.io.gfile.GFile(path, "rb") as file:
            original = file.read()
    except tf.errors.OpError as error:
        raise InputError(f"{path} cannot be read: {error.message}.") from error
    turn = orientation_of(original) if encoding.exif_orientation else 1
    try:
        with tf.device("CPU"):
            return _encoder(encoding)(original, path, turn).numpy()
    except tf.errors.OpError as error:
        raise _CorruptError(damage(original) or reason(error)) from error


class _CorruptError(Exception):
    """An image cannot be decoded; the message says why."""


@functools.cache
def _encoder(encoding: Encoding) -> Callable[[bytes, str, int], tf.Tensor]:
    text = tf.TensorSpec([], tf.string)

    @tf.autograph.experimental.do_not_convert
    def transform(original: tf.Tensor, path: tf.Tensor, orientation: tf.Tensor) -> tf.Tensor:
        image = turned(decode(original, path, encoding.channels), orientation)
        image = square(image, encoding.image_size)
        if encoding.image_format == "png":
            return tf.io.encode_png(image)
        return tf.io.encode_jpeg(image, quality=encoding.quality, chroma_downsampling=False)

    return tf.function(transform, input_signature=[text, text, tf.TensorSpec([], tf.int32)])


def _read(path: pathlib.Path) -> dict[str, Any]:
    try:
        manifest = json.loads(path.read_bytes())
        manifest["classes"], manifest["shards"].items()
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{path} is not a manifest of shards, or is damaged: {error!r}. Remove it and its "
            "shards, or choose another output."
        ) from error
    return manifest


def _written(tasks: Sequence[Task], workers: int) -> Iterator[Shard]:
    """Yields a `Shard` for each task as it is done."""
    if min(workers, len(tasks)) <= 1:
        yield from map(write_shard, tasks)
        return
    pool = concurrent.futures.ProcessPoolExecutor(
        min(workers, len(tasks)), multiprocessing.get_context("spawn"), _start_worker
    )
    try:
        futures = [pool.submit(write_shard, task) for task in tasks]
        for future in concurrent.futures.as_completed(futures):
            yield future.result()
    except BrokenProcessPool as error:
        raise FailedRun(
            "A worker was killed, perhaps for lack of memory: try fewer --workers. The same "
            "command goes on with the shards that are not finished."
        ) from error
    finally:
        for process in list((pool._processes or {}).values()):
            if any(not future.done() for future in futures):
                process.terminate()
        pool.shutdown(cancel_futures=True)


def _start_worker() -> None:
    """Limits a worker to one core and no GPU, and ends it with its parent process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # The parent process tells it to stop.
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
    tf.config.set_visible_devices([], "GPU")
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
