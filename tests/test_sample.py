"""The command `sample`, on runs of one step: a conditional GAN and one without labels."""

import functools
import io

import gin
import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

import stugan_tf.command
import stugan_tf.evaluation.evaluator
import stugan_tf.models  # noqa: F401 - registers with gin, which a parsed file forbids
from stugan_tf import config
from stugan_tf.data import digits
from stugan_tf.evaluation.sampling import Sampler
from stugan_tf.latents import between_classes
from stugan_tf.randomness import Purpose, fold
from stugan_tf.runs.checkpoints import Checkpoints
from stugan_tf.runs.loop import Training
from tests.helpers import commands
from tests.helpers.commands import STATIC, call
from tests.helpers.params import first_by_default
from tests.helpers.projection import projection_discriminator
from tests.helpers.tracing import untraced

CONDITIONAL = (
    "GAN.conditional = True",
    "GAN.generator = @sample_generator",
    f"GAN.discriminator = @{projection_discriminator.__name__}",
)

ONE_HOT = (*CONDITIONAL, "sample_generator.one_hot = True")
CLASSES = 10
BLOCK = 64


@gin.configurable(module="sample_test", denylist=["image_shape", "num_classes"])
def sample_generator(image_shape, num_classes=CLASSES, one_hot=False):
    """Classes are easily told apart, and batch norm has something to do."""
    latents, labels = keras.Input([8]), keras.Input([], dtype="int32")
    if one_hot:
        of_class = keras.layers.CategoryEncoding(num_classes, "one_hot", name="of_class")(labels)
    else:
        embedding = keras.layers.Embedding(num_classes, 8, embeddings_initializer="normal")
        embedding.build()
        embedding.embeddings.assign(np.random.default_rng(0).normal(size=[num_classes, 8]))
        of_class = embedding(labels)
    outputs = keras.layers.Concatenate()([latents, of_class])
    outputs = keras.layers.Reshape([8, 8, 1])(keras.layers.Dense(64)(outputs))
    outputs = keras.layers.BatchNormalization(momentum=0.5)(outputs)
    outputs = keras.layers.Conv2D(8, 3, padding="same", activation="relu")(outputs)
    outputs = keras.layers.Conv2D(image_shape[-1], 3, padding="same", activation="tanh")(outputs)
    return keras.Model([latents, labels], outputs, name="mine")


def train(workdir, *bindings):
    with untraced():
        return commands.train(workdir, *STATIC, *bindings)


@pytest.fixture(scope="module")
def conditional(tmp_path_factory):
    return train(tmp_path_factory.mktemp("conditional") / "run", *CONDITIONAL)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return train(tmp_path_factory.mktemp("plain") / "run")


def draw(workdir, *flags):
    """What the command writes to a file, and what it says."""
    path = workdir.parent / "drawn" / "picture.png"
    code, output, errors = call("sample", f"--workdir={workdir}", f"--output={path}", *flags)
    assert code == 0, errors
    return path.read_bytes(), output


@functools.cache
def drawn(workdir, *flags):
    """As `draw`, of functions that are not compiled, and once for the same flags."""
    with untraced():
        return draw(workdir, *flags)


def images(workdir, *flags):
    """The images in the picture, uint8 [rows, columns, 8, 8]."""
    return cells(drawn(workdir, *flags)[0])


def cells(picture):
    """The images in a picture, in cells of 66 pixels after 2."""
    grid = np.asarray(Image.open(io.BytesIO(picture)))
    rows, columns = (size // 66 for size in grid.shape)
    framed = grid[2:, 2:].reshape(rows, 66, columns, 66).swapaxes(1, 2)
    enlarged = framed[:, :, :64, :64].reshape(rows, columns, 8, 8, 8, 8)
    assert np.all(enlarged == enlarged[:, :, :, :1, :, :1])
    return enlarged[:, :, :, 0, :, 0]


def in_a_row(pictures):
    return pictures.reshape(-1, 8, 8)


BATCH_NORMS = ["inference", "batch", "standing"]


@pytest.mark.ci
@pytest.mark.parametrize("batch_norm", first_by_default(*BATCH_NORMS, in_ci=1))
@pytest.mark.parametrize(
    "flags",
    first_by_default(
        [], ["--interpolate=classes"], ["--interpolate=latents"], ["--class_id=3"], in_ci=1
    ),
)
def test_more_images_begin_with_the_same(conditional, flags, batch_norm):
    flags = (*flags, f"--batch_norm={batch_norm}", "--columns=8")
    few, many = (images(conditional, *flags, f"--num={num}") for num in (16, 72))
    assert few.shape == (2, 8, 8, 8)
    assert many.shape == (9, 8, 8, 8)
    np.testing.assert_array_equal(many[:2], few)


@pytest.mark.ci
def test_the_same_flags_draw_the_same_bytes(conditional):
    flags = ("--num=8", "--seed=1", "--truncation=0.7", "--weights=live", "--batch_norm=standing")
    assert draw(conditional, *flags) == draw(conditional, *flags)


@pytest.mark.parametrize(
    "flag",
    first_by_default("--weights=live", "--seed=1", "--truncation=0.7", by_default=0, in_ci=2),
)
def test_other_flags_draw_other_images(conditional, flag):
    assert drawn(conditional, flag)[0] != drawn(conditional)[0]


def restored(workdir):
    config.parse_gin([workdir / "config.gin"])
    training = Training(digits(), tf.distribute.OneDeviceStrategy("CPU:0"))
    Checkpoints(workdir / "checkpoints", training.state()).restore(1)
    config.parse_gin()
    return training


@pytest.mark.ci
def test_a_grid_is_of_the_checkpoint(plain):
    training = restored(plain)
    sampler = Sampler(training.gan, tf.distribute.OneDeviceStrategy("CPU:0"), BLOCK)
    (expected,) = sampler.batches(BLOCK, fold((0, 0), Purpose.SAMPLES))
    picture, said = draw(plain)
    assert "step 1: " in said
    for pictures in (cells(picture), images(plain)):
        assert pictures.shape == (8, 8, 8, 8)
        difference = in_a_row(pictures).astype(int) - expected[..., 0]
        assert np.abs(difference).max() <= 1


@pytest.mark.ci
def test_a_row_of_a_class_has_the_images_drawn_with_its_label(conditional):
    rows = images(conditional, "--classes", "--columns=5")
    assert rows.shape == (CLASSES, 5, 8, 8)
    for number in (0, 3, 9):
        alone = in_a_row(images(conditional, f"--class_id={number}", "--num=10"))
        np.testing.assert_array_equal(rows[number], alone[:5])
    some = images(conditional, "--class_id=9", "--class_id=3", "--columns=5")
    np.testing.assert_array_equal(some, rows[[9, 3]])
    assert not np.array_equal(rows[0], rows[1])
    np.testing.assert_array_equal(images(conditional, "--classes", "--num=5"), rows)
    wrapped = images(conditional, "--classes", "--num=4", "--columns=2")
    np.testing.assert_array_equal(wrapped, rows[:, :4].reshape(2 * CLASSES, 2, 8, 8))
    said = drawn(conditional, "--class_id=9", "--class_id=3", "--columns=5")[1]
    assert "rows from the top: 9, 3" in said


@pytest.mark.ci
def test_a_row_between_latents_starts_and_ends_with_plain_images(conditional):
    pictures = in_a_row(images(conditional, "--class_id=3", "--num=16"))
    rows = images(conditional, "--class_id=3", "--num=15", "--columns=5", "--interpolate=latents")
    np.testing.assert_array_equal(rows[:, 0], pictures[[0, 2, 4]])
    np.testing.assert_array_equal(rows[:, -1], pictures[[1, 3, 5]])
    assert len(np.unique(in_a_row(rows), axis=0)) == 15


@pytest.mark.ci
def test_rows_between_latents_need_no_labels(plain):
    rows = images(plain, "--num=8", "--columns=4", "--interpolate=latents")
    np.testing.assert_array_equal(rows[:, 0], in_a_row(images(plain))[[0, 2]])


@pytest.mark.ci
@pytest.mark.parametrize("batch_norm", first_by_default("inference", "standing", in_ci=0))
def test_a_row_between_classes_starts_and_ends_with_images_of_them(conditional, batch_norm):
    flags = ("--columns=5", f"--batch_norm={batch_norm}")
    classes = images(conditional, "--classes", *flags)
    rows = images(conditional, "--interpolate=classes", "--num=15", *flags)
    for row in range(3):
        np.testing.assert_array_equal(rows[row, 0], classes[row, row])
        np.testing.assert_array_equal(rows[row, -1], classes[row + 1, row])
    chosen = ("--class_id=7", "--class_id=2")
    rows = images(conditional, "--interpolate=classes", "--num=15", *chosen, *flags)
    np.testing.assert_array_equal(rows[:, 0], classes[7, :3])
    np.testing.assert_array_equal(rows[:, -1], classes[2, :3])
    assert len(np.unique(in_a_row(rows), axis=0)) == 15


@pytest.mark.ci
def test_between_classes_lie_mixtures_of_embeddings(conditional):
    gan = restored(conditional).gan
    gan.allow_mixtures()
    sampler = Sampler(gan, tf.distribute.OneDeviceStrategy("CPU:0"), BLOCK)
    latents, _ = sampler.inputs(1, fold((0, 0), Purpose.SAMPLES))
    model = gan.averaged.model
    embedding = next(x for x in model.layers if isinstance(x, keras.layers.Embedding))
    weights = between_classes([7], [2], CLASSES, 5)
    mixed = weights @ embedding.embeddings.numpy()
    embedding.embeddings.assign(np.concatenate([mixed, np.zeros([5, 8])]))
    expected = gan.generate(
        tf.repeat(latents, 5, axis=0), tf.range(5), training=False, averaged=True
    )
    flags = ("--interpolate=classes", "--num=5", "--columns=5", "--class_id=7", "--class_id=2")
    difference = images(conditional, *flags)[0] - (127.5 * expected.numpy()[..., 0] + 127.5)
    assert np.abs(difference).max() < 1.01


@pytest.mark.ci
def test_truncation_makes_images_alike(plain):
    spread = [
        images(plain, *flags).std(axis=(0, 1)).max() for flags in (("--truncation=0.01",), ())
    ]
    assert spread[0] < spread[1] / 10


def frames(workdir, *flags, suffix=".webp"):
    """The images in each frame of a video, int [frames, num, 8, 8], and what the command says."""
    path = workdir.parent / "drawn" / f"walk{suffix}"
    source = () if any(flag.startswith("--artifact") for flag in flags) else (workdir,)
    source = [f"--workdir={path}" for path in source]
    with untraced():
        code, output, errors = call("sample", *source, f"--video={path}", *flags)
    assert code == 0, errors
    with Image.open(path) as film:
        found = []
        for number in range(film.n_frames):
            film.seek(number)
            grid = np.asarray(film.convert("L")).astype(int)
            rows, columns = (size // 66 for size in grid.shape)
            framed = grid[2:, 2:].reshape(rows, 66, columns, 66).swapaxes(1, 2)
            # The encoding blurs edges, so a pixel is the middle of what shows it.
            found.append(framed[:, :, 4:64:8, 4:64:8].reshape(-1, 8, 8))
    return np.stack(found), output


SHORT = ("--seconds=1", "--fps=6", "--num=4", "--keyframes=3")


@pytest.mark.ci
def test_a_video_walks_through_latents_and_classes(conditional):
    film, said = frames(conditional, *SHORT, suffix=".gif")  # Exact in grey.
    assert film.shape == (6, 4, 8, 8)
    assert "which walk through latents and classes in 6 frames" in said
    # Frame 2 k is keyframe k of each image: number 3 i + k of the images of the seed.
    plain = in_a_row(images(conditional, "--num=16")).astype(int)
    for keyframe in range(3):
        difference = film[2 * keyframe] - plain[keyframe:12:3]
        assert np.abs(difference).max() <= 1
    assert np.abs(film[1] - film[0]).max() > 2


@pytest.mark.ci
@pytest.mark.parametrize(
    ("flags", "walked"),
    [
        (["--class_id=3"], "latents"),
        (["--interpolate=latents"], "latents"),
        (["--interpolate=classes"], "classes"),
        (["--class_id=3", "--class_id=5", "--class_id=9"], "latents and classes"),
    ],
)
def test_a_video_walks_through_what_it_is_told_to(conditional, flags, walked):
    film, said = frames(conditional, *SHORT, *flags, suffix=".gif")
    assert f"which walk through {walked} in" in said
    if "--class_id=3" in flags:
        row = in_a_row(images(conditional, "--class_id=3", "--num=16")).astype(int)
        assert np.abs(film[0] - row[0:12:3]).max() <= 1


@pytest.mark.ci
def test_a_video_needs_no_labels(plain):
    film, said = frames(plain, *SHORT)
    assert film.shape == (6, 4, 8, 8)
    assert "which walk through latents in" in said


@pytest.mark.ci
def test_a_video_of_classes_that_do_not_mix_keeps_them(tmp_path):
    workdir = train(tmp_path / "run", *ONE_HOT)
    _, said = frames(workdir, *SHORT)
    assert "which walk through latents in" in said
    code, _, errors = call(
        "sample", f"--workdir={workdir}", f"--video={tmp_path}/a.gif", "--classes"
    )
    assert code == 1
    assert "its labels enter CategoryEncoding 'of_class'" in errors


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--output=grid.png"], "--output is for a picture, --video for a video"),
        (["--batch_norm=batch"], "so a video would flicker"),
        (["--seconds=0"], "--seconds must be a number above 0"),
        (["--fps=100"], "--fps must be at most 60, got 100"),
        (["--keyframes=1"], "--keyframes must be at least 2"),
        (["--interpolate=classes", "--class_id=1"], "give several --class_id, or none"),
        (["--video=walk.avi"], "must end in .mp4 or .webp or .gif"),
        (["--seconds=0.1", "--classes"], "3 frames is too short for 10 keyframes"),
    ],
)
def test_a_video_that_makes_no_sense_is_told(conditional, tmp_path, flags, told):
    video = f"--video={tmp_path / 'walk.webp'}"
    code, _, errors = call("sample", f"--workdir={conditional}", video, *flags)
    assert code == 1
    assert errors.startswith("error: ")
    assert told in errors
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--fps=3"], "--fps is for --video"),
        (["--num=0"], "--num must be a positive integer, got 0"),
        (["--columns=0"], "--columns must be a positive integer"),
        (["--seed=-1"], "--seed must be an integer of at least 0"),
        (["--truncation=0"], "--truncation must be a number above 0"),
        (["--workdir="], "--workdir is missing"),
        (["--workdir={}"], "not the folder of a run"),
        (["--output="], "--output is missing"),
        (["--output={}/grid.jpg"], "must end in .png"),
        (["--output={}/dir.png"], "is a folder"),
        (["--output={}/notes.txt/grid.png"], "notes.txt is not a folder"),
        (["--classes", "--class_id=3"], "--classes draws all classes, --class_id some"),
        (["--classes", "--interpolate=latents"], "both decide what a row shows"),
        (["--classes", "--num=7", "--columns=5"], "--num=7, the number of images of each class, "),
        (["--interpolate=latents", "--columns=1"], "--columns of at least 2"),
        (["--interpolate=latents", "--num=12"], "--num=12 must be a multiple of --columns (8)"),
        (["--interpolate=classes", "--class_id=1"], "give two different --class_id, or none"),
        (["--class_id=10"], "--class_id=10 is not one of the classes: 0, 1, 2"),
        (["--class_id=-1"], "--class_id=-1 is not one of the classes"),
        (["--class_id=cat"], "--class_id=cat is not one of the classes: 0, 1, 2"),
        (
            ["--interpolate=classes", "--class_id=1", "--class_id=01"],
            "give two different --class_id, or none",
        ),
        (["--checkpoint=7"], "neither latest nor best, nor a step that was kept: 0, 1"),
        (["--checkpoint=all"], "--checkpoint=all is neither"),
        (["--checkpoint=best"], "scored during training, so none is the best"),
    ],
)
def test_what_makes_no_sense_is_told(conditional, tmp_path, flags, told):
    (tmp_path / "dir.png").mkdir()
    (tmp_path / "notes.txt").write_text("")
    before = list(tmp_path.rglob("*"))
    flags = [flag.format(tmp_path) for flag in flags]
    defaults = [f"--workdir={conditional}", f"--output={tmp_path / 'grid.png'}"]
    code, _, errors = call("sample", *defaults, *flags)
    assert code == 1
    assert errors.startswith("error: ")
    assert told in errors
    assert list(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    "flag", first_by_default("--classes", "--class_id=1", "--interpolate=classes")
)
def test_classes_need_a_conditional_gan(plain, tmp_path, flag):
    code, _, errors = call("sample", f"--workdir={plain}", f"--output={tmp_path}/grid.png", flag)
    assert code == 1
    assert f"{flag.removesuffix('=1')} needs a conditional GAN" in errors


@pytest.mark.ci
def test_a_model_whose_labels_are_not_embedded_has_nothing_between_classes(tmp_path):
    workdir = train(tmp_path / "run", *ONE_HOT)
    output = f"--output={tmp_path}/grid.png"
    code, _, errors = call("sample", f"--workdir={workdir}", output, "--interpolate=classes")
    assert code == 1
    assert "its labels enter CategoryEncoding 'of_class'" in errors
    assert images(workdir, "--classes").shape == (CLASSES, 8, 8, 8)
