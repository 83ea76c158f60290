"""Generators of both families draw what `stugan_tf.serving.load` draws."""

import threading

import numpy as np
import pytest

import stugan_runtime
from sparse_files import check_threads_and_batches, served, write
from stugan_runtime.generator import loads
from stugan_tf.serving.loading import load

FAMILIES = ["sngan", "biggan", "biggan_imagenet"]


@pytest.fixture(scope="module", params=FAMILIES)
def path(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("generators") / "generator.safetensors"
    write(path, *served(request.param))
    return path


@pytest.fixture(scope="module")
def reference(path):
    return load(path)


def test_a_seed_draws_the_same_images(path, reference):
    generator = stugan_runtime.load(path)
    latents, labels = generator.inputs(70, seed=5)  # More than one block of numbers.
    expected_latents, expected_labels = reference.inputs(70, seed=5)
    np.testing.assert_allclose(latents, expected_latents, atol=1e-6)
    np.testing.assert_array_equal(labels, expected_labels)
    images = generator(70, seed=5, dtype="float32")
    np.testing.assert_allclose(images, reference(70, seed=5, dtype="float32"), atol=1e-5)
    np.testing.assert_array_equal(generator(3, seed=5, dtype="float32"), images[:3])


def test_truncation_and_labels_mean_the_same(path, reference):
    generator = stugan_runtime.load(path)
    for truncation in (0.01, 0.7, 50.0):
        found = generator.inputs(9, seed=1, truncation=truncation)[0]
        expected = reference.inputs(9, seed=1, truncation=truncation)[0]
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    given = {"labels": 3} if generator.conditional else {}
    found = generator(4, seed=2, truncation=0.7, **given)
    expected = reference(4, seed=2, truncation=0.7, **given)
    assert found.dtype == np.uint8
    assert np.abs(found.astype(int) - expected).max() <= 1


def test_images_do_not_depend_on_threads_or_batches(path):
    check_threads_and_batches(path)


def test_each_instruction_set_draws_the_same_images(path, monkeypatch):
    expected = stugan_runtime.load(path)(5, dtype="float32")
    for name in ("baseline", "x86-64-v3"):
        monkeypatch.setenv("STUGAN_INSTRUCTION_SET", name)
        generator = stugan_runtime.load(path)
        assert generator.instruction_set in ("baseline", name)
        np.testing.assert_allclose(generator(5, dtype="float32"), expected, atol=1e-5)


def test_several_generators_work_at_once(path):
    generators = [stugan_runtime.load(path, 2) for _ in range(3)]
    expected = [generators[0](7, seed=seed) for seed in range(3)]
    found = [None] * 6

    def draw(i):
        found[i] = generators[i % 3](7, seed=i % 3)

    threads = [threading.Thread(target=draw, args=[i]) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i, images in enumerate(found):
        np.testing.assert_array_equal(images, expected[i % 3])


def test_float16_is_read(tmp_path):
    path = tmp_path / "file"
    write(path, *served("biggan"), "float16")
    found, expected = (draw(4, dtype="float32") for draw in (stugan_runtime.load(path), load(path)))
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_generator_says_what_it_is(path, reference):
    generator = stugan_runtime.load(path, 2)
    interface = reference.interface
    assert generator.latent_dim == interface.latent_dim
    assert generator.image_shape == interface.image_shape
    assert generator.num_classes == interface.num_classes
    assert generator.conditional == interface.conditional
    assert 0 < generator.num_nonzero < generator.num_weights
    assert generator.weight_bytes > 4 * generator.num_nonzero
    assert generator.workspace_bytes > 0


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"num_images": 0}, "num_images must be an integer from 1"),
        ({"num_images": 1.5}, "num_images must be an integer"),
        ({"seed": -1}, "seed must be an integer from 0"),
        ({"truncation": 0.0}, "truncation must be a finite number above 0"),
        ({"truncation": float("nan")}, "truncation must be a finite number above 0"),
        ({"labels": 10}, "labels must be from 0 to 9, got 10"),
        ({"labels": -1}, "labels must be from 0 to 9, got -1"),
        ({"labels": [1, 2]}, "labels must be an integer or 1 of them"),
        ({"latents": [[0.0] * 8]}, "needs labels for given latents"),
        ({"latents": [[0.0] * 7], "labels": 1}, r"latents must be of shape \[n, 8\]"),
        ({"latents": [[float("nan")] * 8], "labels": 1}, "latents must be finite"),
        ({"latents": [[0.0] * 8], "labels": 1, "seed": 0, "truncation": 1.0}, "leave out"),
        ({"dtype": "int8"}, "dtype must be"),
    ],
)
def test_wrong_arguments_are_told(tmp_path, arguments, told):
    generator = loads(write(tmp_path / "file", *served("biggan")), 1)
    with pytest.raises(stugan_runtime.WrongArgumentError, match=told):
        generator(**arguments)


def test_labels_for_a_generator_without_them_are_told(tmp_path):
    generator = loads(write(tmp_path / "file", *served("sngan")), 1)
    with pytest.raises(stugan_runtime.WrongArgumentError, match="without labels"):
        generator(labels=1)


@pytest.mark.parametrize("num_threads", [0, -1, 257])
def test_a_wrong_number_of_threads_is_told(tmp_path, num_threads):
    data = write(tmp_path / "file", *served("sngan"))
    with pytest.raises(stugan_runtime.WrongArgumentError, match="num_threads must be from 1"):
        loads(data, num_threads)
