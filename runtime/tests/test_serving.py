"""`stugan_tf.serving.load` computes sparse files by this library where it can."""

import sys

import numpy as np
import pytest
from absl import logging

from sparse_files import served, write
from stugan_tf.errors import InputError
from stugan_tf.serving import artifact
from stugan_tf.serving.formats import FORMATS, Settings
from stugan_tf.serving.loading import load


@pytest.fixture(scope="module", params=["sngan", "biggan_imagenet"])
def path(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("serving") / "generator.safetensors"
    write(path, *served(request.param))
    return path


@pytest.fixture
def told(monkeypatch):
    """What is logged."""
    lines = []
    monkeypatch.setattr(logging, "info", lambda text, *values: lines.append(text % values))
    return lines


def test_both_executors_draw_the_same_images(path, told):
    generator, reference = load(path), load(path, by="tensorflow")
    assert generator.computed_by.startswith("stugan_runtime ")
    assert reference.computed_by == "TensorFlow"
    (line,) = told
    assert line == f"{path} is computed by {generator.computed_by}"
    assert generator.interface == reference.interface
    assert generator.about == reference.about
    labels = {"labels": 3} if generator.interface.conditional else {}
    for given in ({"seed": 5}, {"seed": 1, "truncation": 0.5, **labels}):
        images, expected = (each(70, **given) for each in (generator, reference))
        assert images.dtype == np.uint8
        assert np.abs(images.astype(int) - expected).max() <= 1
    for found, expected in zip(generator.inputs(9, 2), reference.inputs(9, 2), strict=True):
        np.testing.assert_array_equal(found, expected)


def test_both_executors_refuse_the_same_arguments(path):
    generator, reference = load(path, by="runtime"), load(path, by="tensorflow")
    size = generator.interface.latent_dim
    for wrong in (
        {"num_images": 0},
        {"seed": -1},
        {"truncation": 0.0},
        {"labels": 10},
        {"latents": [[0.0] * (size + 1)]},
        {"latents": [[float("nan")] * size], "labels": 0},
        {"dtype": "int8"},
    ):
        messages = []
        for each in (generator, reference):
            with pytest.raises(InputError) as error:
                each(**wrong)
            messages.append(str(error.value))
        assert messages[0] == messages[1]


def test_mixtures_of_classes_are_left_to_tensorflow(tmp_path):
    path = tmp_path / "file"
    write(path, *served("biggan"))
    with pytest.raises(InputError, match=r'stugan_runtime .* Load it with by="tensorflow"'):
        load(path).check_mixes()
    load(path, by="tensorflow").check_mixes()


@pytest.mark.parametrize("by", ["auto", "runtime", "tensorflow"])
def test_damaged_files_are_refused(path, tmp_path, by):
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(data)
    with pytest.raises(InputError, match="its checksum is wrong"):
        load(damaged, by=by)


def test_without_the_library_tensorflow_computes(path, monkeypatch, told):
    monkeypatch.setitem(sys.modules, "stugan_runtime", None)
    assert load(path).computed_by == "TensorFlow"
    assert "is computed by TensorFlow: stugan_runtime is not installed" in told[0]
    with pytest.raises(InputError, match=r"pip install \./runtime"):
        load(path, by="runtime")


def test_a_folder_is_computed_by_it_too(tmp_path):
    folder = tmp_path / "1"
    folder.mkdir()
    graph, interface = served("sngan")
    FORMATS["sparse"].write(folder, graph, interface, Settings())
    artifact.write_manifest(folder, "sparse", interface)
    generator = load(folder)
    assert generator.computed_by.startswith("stugan_runtime ")
    assert generator(2).shape == (2, *interface.image_shape)


def test_other_formats_are_not_computed_by_it(tmp_path):
    folder = tmp_path / "1"
    folder.mkdir()
    graph, interface = served("sngan")
    FORMATS["onnx"].write(folder, graph, interface, Settings())
    artifact.write_manifest(folder, "onnx", interface)
    assert load(folder).computed_by == "ONNX Runtime"
    with pytest.raises(InputError, match="is of the format onnx"):
        load(folder, by="runtime")
    with pytest.raises(InputError, match="by must be 'auto', 'tensorflow' or 'runtime'"):
        load(folder, by="numpy")
