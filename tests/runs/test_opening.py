"""Runs opened again: with their data and without, several at once, and beside other settings."""

import shutil

import gin
import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from stugan_tf import config
from stugan_tf.data import Source, data
from stugan_tf.errors import InputError
from stugan_tf.evaluation import evaluator  # noqa: F401 - registers itself with gin
from stugan_tf.evaluation.records import read
from stugan_tf.images import image_grid
from stugan_tf.methods import method  # noqa: F401 - registers itself while that is still allowed
from stugan_tf.runs.loop import Training
from stugan_tf.runs.manifest import read_manifest
from stugan_tf.runs.opening import open_run
from stugan_tf.runs.status import FINISHED
from tests.helpers.projection import projection_discriminator

SETTINGS = (
    "data.source = @image_folder()",
    "image_folder.channels = 1",
    "GAN.generator = @opened_generator",
    f"GAN.discriminator = @{projection_discriminator.__name__}",
    "GAN.conditional = True",
    "GAN.generator_sparsity = 0.5",
    "GAN.discriminator_sparsity = 0.5",
    "Algorithm.total_steps = 2",
    "Algorithm.average_decay = 0.1",
    "MaskedAdam.learning_rate = 0.05",
    "Algorithm.batch_size = 4",
    "Algorithm.generator_batch_size = 4",
    "Algorithm.generator_exploration = None",
    "Algorithm.discriminator_exploration = None",
    "train.log_every = 1",
    "train.checkpoint_every = 1",
)
SCORES = (
    "Evaluator.extractor = @digits_classifier",
    "Evaluator.metrics = ['fid']",
    "Evaluator.num_images = 130",
)


@gin.configurable(module="opening_test", denylist=["image_shape", "num_classes"])
def opened_generator(image_shape, num_classes):
    latents, labels = keras.Input([4]), keras.Input([], dtype="int32")
    embedded = keras.layers.Embedding(num_classes, 64, embeddings_initializer="normal")(labels)
    outputs = keras.layers.Add()([keras.layers.Dense(64)(latents), embedded])
    outputs = keras.layers.Reshape([8, 8, 1])(outputs)
    outputs = keras.layers.Conv2D(image_shape[-1], 3, padding="same", activation="tanh")(outputs)
    return keras.Model([latents, labels], outputs, name="opened")


def write_class(folder, name, count=70):
    (folder / name).mkdir(parents=True)
    for number in range(count):
        seed = [number, *name.encode()]
        pixels = np.random.default_rng(seed).integers(0, 256, [8, 8], np.uint8)
        Image.fromarray(pixels).save(folder / name / f"{number:03d}.png")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with `images` of cats and dogs and the `run` of a GAN of them."""
    folder = tmp_path_factory.mktemp("opened")
    for name in ("cat", "dog"):
        write_class(folder / "images", name)
    train(folder)
    return folder


def train(folder, *bindings):
    config.parse_gin([], [*SETTINGS, f"image_folder.path = '{folder / 'images'}'", *bindings])
    tf.config.run_functions_eagerly(True)  # Two steps are sooner done than compiled.
    try:
        training = Training(data(), tf.distribute.OneDeviceStrategy("CPU:0"))
        training.run(folder / "run", config.operative_config())
    finally:
        tf.config.run_functions_eagerly(False)
        config.parse_gin()


@pytest.fixture(scope="module")
def pictures(trained):
    """What the run draws as long as its data are there: 10 images each, of seed 3."""
    run = open_run(trained / "run")
    return {class_id: run.generate(10, seed=3, class_id=class_id) for class_id in (None, 0, 1)}


@pytest.fixture
def moved(trained, tmp_path):
    """A copy of the run alone, whose data are where nobody knows."""
    (trained / "images").rename(trained / "elsewhere")
    yield shutil.copytree(trained / "run", tmp_path / "run")
    (trained / "elsewhere").rename(trained / "images")


def test_a_run_tells_what_it_is(trained, pictures):
    run = open_run(trained / "run")
    assert run.step == 2
    assert run.checkpoints == [0, 1, 2]
    assert (run.status.state, run.status.step) == (FINISHED, 2)
    assert run.interface.names() == ("cat", "dog")
    assert run.config == (trained / "run" / "config.gin").read_text()
    assert run.setting("Algorithm.batch_size") == 4
    assert [record["step"] for record in run.metrics] == [1, 2]
    assert run.evaluations == []
    assert run.facts == read_manifest(trained / "run")
    latents, labels = tf.zeros([1, 4]), tf.zeros([1], tf.int32)
    images = [model([latents, labels]) for model in (run.generator, run.average)]
    assert not np.array_equal(*images)
    assert run.discriminator([images[0], labels]).shape == (1, 1)
    assert run.restore(1) == 1
    assert not np.array_equal(run.generate(10, seed=3), pictures[None])
    assert run.restore() == 2
    np.testing.assert_array_equal(run.generate(10, seed=3), pictures[None])


def test_it_draws_what_the_command_draws(trained, pictures, use, tmp_path):
    picture = tmp_path / "grid.png"
    flags = [f"--workdir={trained / 'run'}", "--num=10", "--seed=3", "--class_id=1", "--columns=5"]
    code, _, errors = use("sample", [*flags, f"--output={picture}"])
    assert code == 0, errors
    with Image.open(picture) as drawn:
        grid = np.asarray(drawn.convert("L"))
    np.testing.assert_array_equal(grid, image_grid(pictures[1], 5)[..., 0])


def test_more_images_begin_with_the_same(opened, pictures):
    run = opened
    np.testing.assert_array_equal(run.generate(70, seed=3)[:10], pictures[None])
    both = run.generate(4, seed=3, class_id=[1, 0])
    np.testing.assert_array_equal(both[::2], pictures[1][:4:2])
    np.testing.assert_array_equal(both[1::2], pictures[0][1:4:2])


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"n": 0}, "n must be"),
        ({"n": 1, "class_id": 2}, "class_id=2 is not one of the classes: 0 cat, 1 dog"),
        ({"n": 1, "class_id": True}, "class_id=True is not one"),
        ({"n": 1, "class_id": []}, "class_id is an empty list"),
        ({"n": 1, "truncation": 0}, "truncation"),
        ({"n": 1, "weights": "mean"}, "averaged, live"),
        ({"n": 1, "batch_norm": "none"}, "inference, batch, standing"),
    ],
)
def test_wrong_arguments_are_told(opened, arguments, told):
    with pytest.raises(InputError, match=told):
        opened.generate(**arguments)


@pytest.fixture(scope="module")
def opened(trained):
    return open_run(trained / "run")


def test_nothing_is_drawn_from_no_checkpoint(trained):
    with pytest.raises(InputError, match="call `restore` first"):
        open_run(trained / "run", checkpoint=None).generate(1)


def test_a_run_without_its_data_draws_the_same(pictures, moved):
    run = open_run(moved)
    np.testing.assert_array_equal(run.generate(10, seed=3), pictures[None])
    assert run.interface.names() == ("cat", "dog")
    with pytest.raises(
        InputError, match=r"cannot be read: `path` .* is not a folder.*in the cache"
    ):
        run.source.in_order(4)


@pytest.mark.ci
def test_a_run_whose_classes_have_moved_keeps_their_names(trained, pictures, use, tmp_path):
    write_class(trained / "images", "ant")  # The first by name.
    try:
        picture = tmp_path / "grid.png"
        flags = [f"--workdir={trained / 'run'}", "--class_id=0", f"--output={picture}"]
        code, output, errors = use("sample", flags)
        assert code == 0, errors
        assert "images of the averaged generator of cat." in output
        run = open_run(trained / "run")
        np.testing.assert_array_equal(run.generate(10, seed=3, class_id=0), pictures[0])
        with pytest.raises(InputError, match=r"there were 140 .* and are 210 .*Evaluator.real"):
            run.source.in_order(4)
    finally:
        shutil.rmtree(trained / "images" / "ant")


@pytest.mark.ci
def test_an_export_has_the_names_of_then(moved, use, tmp_path):
    flags = [f"--workdir={moved}", f"--output={tmp_path / '[out]'}"]
    code, _, errors = use("export", flags)
    assert code == 0, errors
    manifest = next((tmp_path / "[out]" / "1").glob("*.json")).read_text()
    assert '"cat"' in manifest


@pytest.mark.ci
def test_scores_without_the_data_are_made_by_cached_statistics(trained, use, tmp_path):
    workdir = shutil.copytree(trained / "run", tmp_path / "run")
    cache = f"Evaluator.cache_dir = '{tmp_path / 'cache'}'"
    flags = [f"--workdir={workdir}", *(f"--gin_param={binding}" for binding in (*SCORES, cache))]
    code, output, errors = use("evaluate", flags)
    assert code == 0, errors
    (trained / "images").rename(trained / "elsewhere")
    try:
        code, again, errors = use("evaluate", flags)
    finally:
        (trained / "elsewhere").rename(trained / "images")
    assert code == 0, errors
    assert output.split("  (")[0] == again.split("  (")[0]
    (one,) = read(workdir)  # The same step and protocol.
    assert one["protocol"]["real"]["num_images"] == 140


def test_an_older_run_is_known_by_its_data(trained, tmp_path):
    workdir = shutil.copytree(trained / "run", tmp_path / "run")
    (workdir / "run.json").unlink()
    run = open_run(workdir)
    assert run.interface.names() == ("cat", "dog")
    (trained / "images").rename(trained / "elsewhere")
    try:
        with pytest.raises(InputError, match=r"run.json does not say .*cannot be read: `path`"):
            open_run(workdir)
    finally:
        (trained / "elsewhere").rename(trained / "images")


@pytest.mark.ci
def test_runs_are_opened_side_by_side_and_beside_other_settings(trained, pictures, tmp_path):
    workdir = shutil.copytree(trained / "run", tmp_path / "[a] *ü")
    config.parse_gin([], ["Algorithm.total_steps = 77", "digits.image_size = 32"])
    gin.query_parameter("digits.image_size")
    before = gin.config_str(), config.operative_config(), gin.config_is_locked()
    one = open_run(trained / "run", checkpoint=1, gin_params=["train.seed = 5"])
    other = open_run(workdir)
    np.testing.assert_array_equal(other.generate(10, seed=3), pictures[None])
    assert one.step == 1
    assert not np.array_equal(one.generate(10, seed=3), pictures[None])
    assert [run.setting("train.seed") for run in (one, other)] == [5, 0]
    with pytest.raises(InputError, match="There is no configurable 'Algoritm'"):
        open_run(workdir, gin_params=["Algoritm.total_steps = 1"])
    assert before == (gin.config_str(), config.operative_config(), gin.config_is_locked())
    assert config.value_of("Algorithm.total_steps") == 77
    config.parse_gin()


def test_a_relative_path_stays_what_it_was(trained, pictures, tmp_path, monkeypatch):
    monkeypatch.chdir(trained)
    run = open_run("run")
    monkeypatch.chdir(tmp_path)
    assert len(run.metrics) == 2
    assert run.restore(1) == 1


@pytest.mark.parametrize(
    ("workdir", "told"),
    [
        ("gs://bucket/run", "an address that begins with gs://"),
        ("absent", "not the folder of a run"),
        (__file__, "is a file. Give the folder of a run"),
    ],
)
def test_what_is_no_run_is_told(workdir, told):
    with pytest.raises(InputError, match=told):
        open_run(workdir)


@pytest.mark.parametrize("name", ["gin_params", "gin_files"])
def test_one_text_is_not_a_list_of_texts(name):
    with pytest.raises(InputError, match=rf"{name} of open_run must be a list, .* \['a\.gin'\]"):
        open_run("absent", **{name: "a.gin"})


def test_a_binding_without_use_is_told(trained):
    with pytest.raises(InputError, match="Nothing uses these bindings"):
        open_run(trained / "run", gin_params=["digits.image_size = 16"])


def test_a_recorded_source_reads_nothing_until_it_must(trained):
    run = open_run(trained / "run")
    assert isinstance(run.source, Source)
    inspection = run.source.inspect()
    assert inspection.class_counts == (70, 70)
    images, labels = next(iter(run.source.in_order(140)))
    assert images.shape == (140, 8, 8, 1)
    np.testing.assert_array_equal(np.bincount(labels), [70, 70])
    assert run.real_images is run.source
