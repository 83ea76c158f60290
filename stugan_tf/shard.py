"""Writes a folder of images as TFRecord shards of small squares.

`python -m stugan_tf.shard --input=FOLDER --output=DIR --image_size=128`. Sub-folders are classes,
as for `image_folder`. The command can be stopped at any time; started again, it writes the shards
that are missing.
"""

from absl import flags

from stugan_tf import command
from stugan_tf.cores import num_cores
from stugan_tf.errors import InputError
from stugan_tf.progress import ProgressBar

FLAGS = flags.FLAGS
flags.DEFINE_string("input", None, "Folder of images; its sub-folders are the classes.")
flags.DEFINE_string("output", None, "Folder for the shards.")
flags.DEFINE_integer("image_size", 128, "Height and width that images are cropped and resized to.")
flags.DEFINE_integer("channels", 3, "3 (RGB) or 1 (grey).")
flags.DEFINE_string("format", "jpeg", "jpeg, or png to keep every pixel as it is.")
flags.DEFINE_integer("quality", None, "Quality of JPEG, 1 to 100; 95 by default.")
flags.DEFINE_bool("exif_orientation", False, "Turn images as their EXIF data say.")
flags.DEFINE_integer("num_shards", None, "Number of shards; by default about 1024 images each.")
flags.DEFINE_string("split", "train", "First part of the shards' names.")
flags.DEFINE_integer("seed", 0, "Seed of the order of the images.")
flags.DEFINE_integer("workers", None, "Number of processes; one for each core by default.")
flags.DEFINE_bool(
    "skip_corrupt", False, "Leave out images that cannot be decoded; the manifest lists them."
)


def _check_flags() -> None:
    for name in ("input", "output"):
        if not FLAGS[name].value:
            raise InputError(
                "Give both --input, a folder of images, and --output, a folder for the shards; "
                f"--{name} is missing."
            )
    if FLAGS.gin_file or FLAGS.gin_param:
        raise InputError("Sharding does not read gin: leave out --gin_file and --gin_param.")
    if FLAGS.format == "png" and FLAGS.quality is not None:
        raise InputError("--quality is for JPEG: leave it out, or choose --format=jpeg.")
    if FLAGS.workers is not None and FLAGS.workers < 1:
        raise InputError(f"--workers must be at least 1, got {FLAGS.workers}.")


with command.late_imports(__name__, _check_flags):
    import tensorflow as tf

    from stugan_tf.data.sharding import Encoding, Sharding


def main(_: list[str]) -> None:
    """Writes the shards and prints how to train on them."""
    sharding = _sharding()
    workers = num_cores() if FLAGS.workers is None else FLAGS.workers
    tf.config.set_visible_devices([], "GPU")
    with ProgressBar(sharding.num_images, "image", "sharding") as progress:
        skipped = sharding.run(
            workers=workers,
            skip_corrupt=FLAGS.skip_corrupt,
            on_shard=lambda shard: progress.advance(shard.num_images + len(shard.corrupt)),
        )
    print(_summary(sharding, skipped))


def _sharding():
    encoding = Encoding(
        image_size=FLAGS.image_size,
        channels=FLAGS.channels,
        image_format=FLAGS.format,
        quality=95 if FLAGS.quality is None else FLAGS.quality,
        exif_orientation=FLAGS.exif_orientation,
    )
    return Sharding(
        FLAGS.input,
        FLAGS.output,
        encoding,
        num_shards=FLAGS.num_shards,
        split=FLAGS.split,
        seed=FLAGS.seed,
    )


def _summary(sharding, skipped):
    lines = [f"{sharding.num_images - len(skipped)} images in {sharding.num_shards} shards."]
    if skipped:
        lines.append(f"{len(skipped)} were skipped: see {sharding.manifest_path}.")
    lines += sharding.remarks
    lines += [
        "To train on them:",
        "",
        "data.source = @tfrecords()",
        f"tfrecords.pattern = {sharding.pattern!r}",
    ]
    if sharding.num_classes > 1:
        lines.append(f"tfrecords.num_classes = {sharding.num_classes}")
        lines.append(f"tfrecords.class_names = {sharding.class_names!r}")
    if FLAGS.channels == 1:
        lines.append("tfrecords.channels = 1")
    return "\n".join(lines)


if __name__ == "__main__":
    command.run(main)
