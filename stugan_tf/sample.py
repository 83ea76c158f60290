"""Draws images of a generator: `python -m stugan_tf.sample --workdir=DIR --output=grid.png`.

    --artifact=DIR                            draws from an exported generator, not from a run
    --num=100                                 a grid of 100 images
    --class_id=3                              ... of class 3; a name such as cat works, too
    --class_id=3 --class_id=5                 a row of each of these classes
    --classes                                 a row of each class
    --classes --num=12                        12 images of each class
    --interpolate=latents                     each row from one image to another
    --interpolate=classes                     each row from one class to another
    --video=walk.mp4                          a video in place of a picture: a smooth walk of 9
                                              images through latents and classes, which repeats
    --video=walk.webp --classes --seconds=20  ... through all classes in turn

The same flags draw the same picture, byte for byte. Latents are numbered: image number 7 has the
same latents in every picture, whatever --num and --class_id are.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from absl import flags

from stugan_tf import command
from stugan_tf.checks import check_above_zero, check_positive, check_seed
from stugan_tf.choices import BATCH_NORMS, WEIGHTS
from stugan_tf.errors import InputError
from stugan_tf.files import local_path, output_file
from stugan_tf.images import check_grid, grid_size, image_grid, to_uint8, write_png
from stugan_tf.latents import (
    between_classes,
    between_latents,
    class_rows,
    loop_through,
    loop_through_classes,
)
from stugan_tf.progress import ProgressBar
from stugan_tf.video import SUFFIXES, check_encoder, check_size, write_video

FLAGS = flags.FLAGS
flags.adopt_module_key_flags(command)  # For --help.
flags.DEFINE_string("workdir", None, "Folder of the run.")
flags.DEFINE_string("artifact", None, "Folder of an exported generator, instead of --workdir.")
flags.DEFINE_string("output", None, "Path of the picture, a .png file.")
flags.DEFINE_string("checkpoint", "latest", "latest, best or a step.")
flags.DEFINE_integer(
    "num", 64, "Number of images; in rows of classes the number of images of each class, then 8."
)
flags.DEFINE_integer(
    "columns",
    None,
    "Images in a row. By default the grid is square, rows of interpolations have 8 images, and "
    "each class has one row.",
)
flags.DEFINE_integer("seed", 0, "Seed of the latents and of labels that are drawn.")
flags.DEFINE_multi_string(
    "class_id", [], "Draw the class of this number or name; given several times, a row of each."
)
flags.DEFINE_bool("classes", False, "Draw a row of each class.")
flags.DEFINE_float("truncation", None, "Truncate latents at this absolute value, e.g. 0.7.")
flags.DEFINE_enum(
    "interpolate",
    None,
    ["latents", "classes"],
    "Fill each row with steps from one latent vector to another, or from one class to another "
    "(between the two --class_id; by default from each class to the next).",
)
flags.DEFINE_enum(
    "batch_norm",
    "inference",
    BATCH_NORMS,
    "Statistics that batch norm uses: moving averages (inference), those of each block of 64 "
    "images, which then depend on each other (batch), or the mean of 16 batches (standing).",
)
flags.DEFINE_enum("weights", "averaged", WEIGHTS, "Which generator to draw from.")

flags.DEFINE_string(
    "video",
    None,
    "Path of a video, instead of --output: .mp4 (by ffmpeg), .webp or .gif. Each of --num images "
    "(by default 9) walks through latents and classes. Several --class_id, or --classes, are "
    "walked through in turn; --interpolate=latents or classes keeps the other as it is.",
)
flags.DEFINE_float("seconds", 10.0, "Length of the video.")
flags.DEFINE_float("fps", 30.0, "Frames a second of the video.")
flags.DEFINE_integer(
    "keyframes",
    None,
    "Latents, and classes, that each image of the video passes; by default 6, or as many as "
    "classes were chosen.",
)

COLUMNS = 8  # In rows of classes or interpolations.
ANOTHER_CLASS = (
    "--interpolate=classes goes from one class to another: give two different --class_id, or none "
    "to go from each class to the next."
)
IN_VIDEO = 9  # Images.
KEYFRAMES = 6
MAX_FPS = 60  # What browsers show of an animation.
MAX_FPS_OF_GIF = 50  # It counts in hundredths of a second, and browsers slow down single ones.


def _check_flags():
    """Raises InputError for flags that would be wrong for every generator."""
    if FLAGS.artifact:
        _check_artifact()
    elif not FLAGS.workdir:
        raise InputError(
            "--workdir is missing: the folder of the run to draw from. Or give --artifact, the "
            "folder of an exported generator."
        )
    check_positive("--num", FLAGS.num)
    if FLAGS.columns is not None:
        check_positive("--columns", FLAGS.columns)
    check_seed("--seed", FLAGS.seed)
    if FLAGS.truncation is not None:
        check_above_zero("--truncation", FLAGS.truncation)
    if FLAGS.classes and FLAGS.class_id:
        raise InputError("--classes draws all classes, --class_id some. Choose one.")
    if FLAGS.classes and FLAGS.interpolate and not FLAGS.video:
        raise InputError(
            f"--classes and --interpolate={FLAGS.interpolate} both decide what a row shows. "
            "Choose one."
        )
    if FLAGS.video:
        _check_video()
        return
    for name in ("seconds", "fps", "keyframes"):
        if FLAGS[name].present:
            raise InputError(f"--{name} is for --video. Give its path, or leave it out.")
    if FLAGS.interpolate:
        _check_interpolation()
    elif _has_class_rows() and _per_class() % _columns():
        raise InputError(
            f"--num={FLAGS.num}, the number of images of each class, must be a multiple of "
            f"--columns={FLAGS.columns}: classes begin on new rows. Leave --columns out for one "
            "row of each class."
        )
    if not FLAGS.output:
        raise InputError("--output is missing: the path of the picture, e.g. --output=grid.png.")
    _output()


def _output():
    return output_file(FLAGS.output, "--output", [".png"])


def _video():
    return output_file(FLAGS.video, "--video", SUFFIXES)


def _check_video():
    if FLAGS.output:
        raise InputError("--output is for a picture, --video for a video. Choose one.")
    if FLAGS.batch_norm == "batch":
        raise InputError(
            "--batch_norm=batch lets images depend on each other, so a video would flicker. Choose "
            "inference or standing."
        )
    for name in ("seconds", "fps"):
        check_above_zero(f"--{name}", FLAGS[name].value)
    is_gif = _video().suffix.lower() == ".gif"
    most = MAX_FPS_OF_GIF if is_gif else MAX_FPS
    if FLAGS.fps > most:
        of_gif = " in a GIF" if is_gif else ""
        raise InputError(f"--fps must be at most {most}{of_gif}, got {FLAGS.fps:g}.")
    if FLAGS.keyframes is not None and FLAGS.keyframes < 2:
        raise InputError(f"--keyframes must be at least 2, got {FLAGS.keyframes}.")
    if FLAGS.interpolate == "classes" and len(FLAGS.class_id) == 1:
        raise InputError(
            "--interpolate=classes goes from class to class: give several --class_id, or none."
        )
    check_encoder(_video())


def _check_artifact():
    """Raises InputError for flags that only apply to a run."""
    if FLAGS.workdir:
        raise InputError("--workdir and --artifact both name a generator. Choose one.")
    if FLAGS.gin_file or FLAGS.gin_param:
        raise InputError("An artifact has no configuration: leave out --gin_file and --gin_param.")
    for name in ("checkpoint", "weights", "batch_norm"):
        if FLAGS[name].present:
            raise InputError(
                f"--{name} was fixed when the artifact was exported. Leave it out, or draw from "
                "a run with --workdir."
            )


def _check_interpolation():
    if _columns() < 2:
        raise InputError("--interpolate needs --columns of at least 2: a start and an end.")
    if FLAGS.num % _columns():
        raise InputError(
            f"--num={FLAGS.num} must be a multiple of --columns ({_columns()}): "
            "--interpolate fills whole rows."
        )
    chosen = FLAGS.class_id
    if FLAGS.interpolate == "classes" and chosen and (len(chosen) != 2 or chosen[0] == chosen[1]):
        raise InputError(ANOTHER_CLASS)


def _columns():
    """Images in a row; None to make the grid square."""
    if _has_class_rows():
        return FLAGS.columns or _per_class()
    return FLAGS.columns or (COLUMNS if FLAGS.interpolate and not FLAGS.video else None)


def _per_class():
    """Images of each class, if each begins a row."""
    return FLAGS.num if FLAGS["num"].present else FLAGS.columns or COLUMNS


def _has_class_rows():
    chosen = FLAGS.classes or len(FLAGS.class_id) > 1
    return chosen and not FLAGS.interpolate and not FLAGS.video


with command.late_imports(__name__, _check_flags):
    from stugan_tf.runs.opening import NEEDS_LABELS, open_run, sample_seed
    from stugan_tf.serving.generator import ServedGenerator
    from stugan_tf.serving.interface import Interface
    from stugan_tf.serving.loading import load
    from stugan_tf.serving.numbering import BLOCK
    from stugan_tf.signatures import Seed


class Drawer(NamedTuple):
    """A generator of a run, or an exported one, and how messages name it.

    Attributes:
        sampler: has `inputs` and `images_of`, as `evaluation.sampling.Sampler` does.
        interface: shapes and classes of the generator.
        place: the checkpoint or the artifact.
        name: which generator, in words.
        allow_mixtures: lets it take weights of classes in place of labels, or raises InputError.
    """

    sampler: Any
    interface: Interface
    place: str
    name: str
    allow_mixtures: Callable[[], None]


def main(_: list[str]) -> None:
    """Draws the picture that the flags ask for."""
    drawer = _exported() if FLAGS.artifact else _trained()
    if FLAGS.interpolate == "classes":
        drawer.allow_mixtures()
    if FLAGS.video:
        _draw_video(drawer)
        return
    num_rows = len(FLAGS.class_id) or drawer.interface.num_classes
    count = num_rows * _per_class() if _has_class_rows() else FLAGS.num
    check_grid(count, drawer.interface.image_shape, _columns())
    num_images, inputs = _inputs(drawer.sampler, drawer.interface.num_classes)
    images = np.concatenate(list(drawer.sampler.images_of(*inputs, _seed())))[:num_images]
    write_png(_output(), image_grid(images, _columns()))
    print(
        f"{drawer.place}: {FLAGS.output} shows {num_images} images of the {drawer.name}"
        f"{_described(drawer.interface, num_images)}."
    )


def _trained():
    """The generator of a checkpoint."""
    run = open_run(FLAGS.workdir, FLAGS.checkpoint, FLAGS.gin_param, gin_files=FLAGS.gin_file)
    _check_classes(run.interface)
    return Drawer(
        run.sampler(FLAGS.weights, FLAGS.batch_norm, FLAGS.truncation),
        run.interface,
        f"step {run.step}",
        f"{FLAGS.weights} generator",
        run.gan.allow_mixtures,
    )


class ArtifactSampler:
    """Draws from an exported generator as `Sampler` does from a trained one."""

    def __init__(self, generator: ServedGenerator, truncation: float | None) -> None:
        self._generator = generator
        self._truncation = truncation

    def inputs(self, num_images: int, _: Seed) -> tuple[np.ndarray, np.ndarray]:
        """Latents float32 [num_images, latent_dim] and labels int32 [num_images] of --seed."""
        return self._generator.inputs(num_images, FLAGS.seed, self._truncation)

    def images_of(self, latents: np.ndarray, labels: np.ndarray, _: Seed) -> Iterator[np.ndarray]:
        """Yields batches of images, uint8 [B, H, W, C]."""
        return map(to_uint8, self._generator.batches(latents, labels))


def _exported():
    """The generator of an artifact."""
    # Pictures do not depend on what is installed, and TensorFlow mixes classes.
    generator = load(local_path(FLAGS.artifact, "--artifact"), by="tensorflow")
    _check_classes(generator.interface)
    return Drawer(
        ArtifactSampler(generator, FLAGS.truncation),
        generator.interface,
        FLAGS.artifact,
        "exported generator",
        generator.check_mixes,
    )


def _draw_video(drawer):
    """Draws a walk of several images, frame by frame."""
    num_images = FLAGS.num if FLAGS["num"].present else IN_VIDEO
    num_frames = max(1, round(FLAGS.seconds * FLAGS.fps))
    check_grid(num_images, drawer.interface.image_shape, _columns())
    latents, labels = _walks(drawer, num_images, num_frames)
    size = grid_size(num_images, drawer.interface.image_shape, _columns())
    check_size(_video(), num_frames, size)
    with ProgressBar(num_frames, "frame") as progress:
        batches = drawer.sampler.images_of(latents, labels, _seed())
        write_video(_video(), _frames(batches, num_images, progress), FLAGS.fps)
    walked = " and ".join(
        name
        for name, values in (("latents", latents), ("classes", labels))
        if np.any(values != np.tile(values[:num_images], [num_frames, *[1] * (values.ndim - 1)]))
    )
    print(
        f"{drawer.place}: {FLAGS.video} shows {num_images} images of the {drawer.name}, which walk "
        f"through {walked} in {num_frames} frames."
    )


def _walks(drawer, num_images, num_frames):
    """Latents and labels, or weights of classes, of all frames, one frame after the other."""
    chosen = FLAGS.class_id or list(range(drawer.interface.num_classes) if FLAGS.classes else [])
    num_keyframes = FLAGS.keyframes or (len(chosen) if len(chosen) > 1 else KEYFRAMES)
    if FLAGS.interpolate != "latents" and 1 < num_keyframes < len(chosen):
        raise InputError(
            f"--keyframes={num_keyframes} is too few for {len(chosen)} classes. Give more, or "
            "fewer classes by --class_id."
        )
    if num_frames < num_keyframes:
        raise InputError(
            f"A video of {num_frames} frames is too short for {num_keyframes} keyframes. Give more "
            "--seconds, or fewer --keyframes."
        )
    latents, labels = drawer.sampler.inputs(num_images * num_keyframes, _seed())
    latents = latents.reshape(num_images, num_keyframes, -1)
    if FLAGS.interpolate == "classes":
        latents = latents[:, :1]
    latents = loop_through(latents, num_frames).reshape(-1, latents.shape[-1])
    labels = labels.reshape(num_images, num_keyframes)
    if FLAGS.interpolate == "latents":
        labels = np.resize(chosen or labels[:, 0], [num_images, 1])
    elif chosen:
        labels = np.tile(np.resize(np.int32(chosen), num_keyframes), [num_images, 1])
    if FLAGS.interpolate == "classes" and np.all(labels == labels[:, :1]):
        raise InputError(
            "--interpolate=classes: each image has drawn one class only, so nothing would move. "
            "Give several --class_id, or more --keyframes."
        )
    if np.any(labels != labels[:, :1]) and drawer.interface.conditional:
        try:
            drawer.allow_mixtures()
        except InputError:
            if chosen or FLAGS.interpolate:
                raise
            labels = labels[:, :1]  # Nothing lies between its classes.
    if np.all(labels == labels[:, :1]) or not drawer.interface.conditional:
        return latents, np.tile(np.int32(labels[:, 0]), num_frames)
    weights = loop_through_classes(labels, drawer.interface.num_classes, num_frames)
    return latents, weights.reshape(-1, weights.shape[-1])


def _frames(batches, num_images, progress):
    """Yields frames, uint8 [height, width, C], from batches of images."""
    images = []
    for batch in batches:
        images.extend(batch)
        while len(images) >= num_images:
            yield image_grid(np.stack(images[:num_images]), _columns())
            progress.advance(1)
            del images[:num_images]


def _check_classes(interface):
    """Raises InputError if the flags ask for classes that the generator does not have."""
    chosen = [name for name in ("classes", "class_id") if FLAGS[name].value]
    if FLAGS.interpolate == "classes":
        chosen.append("interpolate=classes")
    if chosen and not interface.conditional:
        raise InputError(f"--{chosen[0]} {NEEDS_LABELS}")
    FLAGS.class_id = interface.numbers_of(FLAGS.class_id, "--class_id")  # From here on, numbers.
    if FLAGS.interpolate == "classes" and len(set(FLAGS.class_id)) == 1:
        raise InputError(ANOTHER_CLASS)


def _seed():
    return sample_seed(FLAGS.seed)


def _inputs(sampler, num_classes):
    """The number of images to show, and the latents and labels of all that are computed.

    Images are computed in whole blocks, so batch statistics do not depend on --num.
    """
    if _has_class_rows():
        latents, _ = sampler.inputs(_per_class(), _seed())
        inputs = class_rows(latents, FLAGS.class_id or range(num_classes))
        return len(inputs[1]), inputs
    whole = -(-FLAGS.num // BLOCK) * BLOCK
    if not FLAGS.interpolate:
        latents, labels = sampler.inputs(whole, _seed())
        inputs = latents, _chosen(labels)
    else:
        num_rows = -(-whole // _columns())
        of_rows = _between_classes if FLAGS.interpolate == "classes" else _between_latents
        inputs = of_rows(sampler, num_rows, num_classes)
    return FLAGS.num, tuple(values[:whole] for values in inputs)


def _chosen(labels):
    """The classes that were asked for, in turn; by default the labels that were drawn."""
    return np.resize(np.int32(FLAGS.class_id), len(labels)) if FLAGS.class_id else labels


def _between_latents(sampler, num_rows, _):
    """Row r goes from latents 2r to latents 2r + 1, with the class of latents 2r."""
    latents, labels = sampler.inputs(2 * num_rows, _seed())
    labels = np.repeat(_chosen(labels[::2]), _columns())
    return between_latents(latents[::2], latents[1::2], _columns()), labels


def _between_classes(sampler, num_rows, num_classes):
    """Row r has latents r."""
    latents, _ = sampler.inputs(num_rows, _seed())
    starts, ends = _class_pairs(num_rows, num_classes)
    weights = between_classes(starts, ends, num_classes, _columns())
    return np.repeat(latents, _columns(), axis=0), weights


def _class_pairs(num_rows, num_classes):
    """The first and the last class of each row."""
    if FLAGS.class_id:
        return tuple([number] * num_rows for number in FLAGS.class_id)
    starts = np.arange(num_rows) % num_classes
    return starts, (starts + 1) % num_classes


def _described(interface, num_images):
    """What the rows or the images show, for the message; '' for a plain grid."""
    names = interface.names()
    if _has_class_rows():
        shown = FLAGS.class_id or range(len(names))
        return f"; rows from the top: {', '.join(str(names[number]) for number in shown)}"
    if FLAGS.interpolate == "classes":
        starts, ends = _class_pairs(min(num_images // _columns(), len(names)), len(names))
        pairs = dict.fromkeys(zip(starts, ends, strict=True))
        return f"; rows from {', '.join(f'{names[one]} to {names[two]}' for one, two in pairs)}"
    if FLAGS.interpolate == "latents":
        return "; rows go from one to another"
    if FLAGS.class_id:
        return f" of {names[FLAGS.class_id[0]]}"
    return ""


if __name__ == "__main__":
    command.run(main)
