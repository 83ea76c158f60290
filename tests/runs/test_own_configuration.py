"""Which configuration is chosen for a folder of images."""

import numpy as np
import pytest
from PIL import Image

from stugan_tf import (
    config,
    models,  # noqa: F401 - registers them with gin, which a parsed file forbids
)
from stugan_tf.data.own_images import own_images  # noqa: F401 - the same
from stugan_tf.errors import InputError
from stugan_tf.evaluation import evaluator  # noqa: F401 - the same
from stugan_tf.runs import own_configuration as module
from stugan_tf.runs.loop import Training  # noqa: F401 - the same
from stugan_tf.runs.own_configuration import own_configuration


@pytest.fixture(autouse=True)
def _clean_configuration():
    yield
    config.parse_gin()


@pytest.fixture
def images(tmp_path):
    """A function that makes a folder of images, all in one file by links of other names."""

    def make(number, side=32, classes=(), grey=False):
        folder = tmp_path / "images"
        shape = (side, side + 5) if grey else (side, side + 5, 3)
        Image.fromarray(np.zeros(shape, np.uint8)).save(tmp_path / "image.png")
        for index in range(number):
            place = folder / classes[index % len(classes)] if classes else folder
            place.mkdir(parents=True, exist_ok=True)
            (place / f"{index}.png").hardlink_to(tmp_path / "image.png")
        return folder

    return make


@pytest.mark.parametrize(
    ("folder", "files", "size"),
    [
        ({"number": 12}, ["images/sngan_32.gin", "images/few_images.gin"], 32),
        ({"number": 12, "side": 100}, ["images/sngan_64.gin", "images/few_images.gin"], 64),
        ({"number": 12, "side": 20}, ["images/sngan_32.gin", "images/few_images.gin"], 32),
        (
            {"number": 40, "classes": ("a", "b"), "side": 64},
            ["images/biggan_64.gin", "images/few_images.gin"],
            64,
        ),
        # Too few for each class.
        (
            {"number": 12, "classes": ("a", "b")},
            ["images/sngan_32.gin", "images/few_images.gin"],
            32,
        ),
    ],
    ids=["small", "larger", "enlarged", "classes", "few of a class"],
)
def test_size_number_and_classes_choose(images, folder, files, size):
    chosen = own_configuration(images(**folder))
    assert list(chosen.files) == files
    assert chosen.bindings[0] == "data.source = @own_images()"
    assert f"own_images.image_size = {size}" in chosen.bindings
    assert "own_images.channels = 3" in chosen.bindings
    assert files[0] in str(chosen)
    config.parse_gin(chosen.files, chosen.bindings)


def test_many_images_are_scored_by_fid_and_may_be_larger(images, monkeypatch):
    monkeypatch.setattr(module, "FEW_IMAGES", 10)
    monkeypatch.setattr(module, "SIZES", {32: 0, 64: 0, 128: 20})
    folder = images(15, side=150)
    chosen = own_configuration(folder)
    assert chosen.files == ("images/sngan_64.gin",)
    assert "but 128x128 is for 20 images or more" in str(chosen)
    monkeypatch.setattr(module, "SIZES", {32: 0, 64: 0, 128: 15})
    assert own_configuration(folder).files == ("images/sngan_128.gin",)


def test_what_the_user_gives_comes_last(images):
    folder = images(12, side=70)
    size = "own_images.image_size = 32"
    chosen = own_configuration(folder, ["methods/static.gin"], [size, "train.seed = 1"])
    assert chosen.files[0] == "images/sngan_32.gin"
    assert chosen.files[-1] == "methods/static.gin"
    assert chosen.bindings[-2:] == (size, "train.seed = 1")
    config.parse_gin(chosen.files, chosen.bindings)
    assert config.value_of("own_images.image_size") == 32
    by_macro = own_configuration(folder, gin_params=["SIZE = 48", "own_images.image_size = %SIZE"])
    assert by_macro.files[0] == "images/sngan_64.gin"
    config.parse_gin(by_macro.files, by_macro.bindings)
    assert config.value_of("own_images.image_size") == 48
    config.parse_gin(chosen.files, chosen.bindings)
    assert config.value_of("Algorithm.generator_exploration") is None


def test_a_base_file_of_the_user_is_used_with_the_images(images):
    chosen = own_configuration(images(12, side=70, grey=True), ["sngan_cifar10_small.gin"])
    assert chosen.files == ("sngan_cifar10_small.gin",)
    assert "own_images.channels = 1" in chosen.bindings
    config.parse_gin(chosen.files, chosen.bindings)
    source = config.value_of("own_images.path")
    assert source.endswith("/images")
    assert config.value_of("own_images.image_size") == 64


def test_images_that_are_enlarged_are_counted(images):
    folder = images(12, side=70)
    Image.fromarray(np.zeros((20, 40, 3), np.uint8)).save(folder / "small.png")
    said = str(own_configuration(folder))
    assert "1 of 13 images that were looked at are smaller than 64x64" in said
    assert f"such as {folder}/small.png" in said


def test_what_cannot_be_trained_on_is_told(images):
    folder = images(1, side=8)
    with pytest.raises(InputError, match="holds 1 image, but a GAN learns from many: at least 10"):
        own_configuration(folder)
    images(30, classes=("a",))
    with pytest.raises(InputError, match="holds images both beside its sub-folders"):
        own_configuration(folder)


def test_images_smaller_than_the_network_are_refused_unless_asked_for(images):
    folder = images(12, side=8)
    with pytest.raises(InputError, match=r"smaller than the network: .* has 8 pixels or fewer"):
        own_configuration(folder)
    asked = own_configuration(folder, gin_params=["own_images.image_size = 32"])
    assert "12 of 12 images that were looked at are smaller than 32x32" in str(asked)


def test_two_choices_of_data_are_refused(images):
    folder = images(12)
    for param in ("data.source = @digits()", "own_images.path = '/elsewhere'"):
        name = param.partition(" ")[0]
        with pytest.raises(InputError, match=f"--data and --gin_param={name} both choose"):
            own_configuration(folder, gin_params=[param])
