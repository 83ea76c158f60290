"""The command and its PNG files."""

import io

import numpy as np
import pytest
from PIL import Image

import stugan_runtime
from sparse_files import served, write
from stugan_runtime.__main__ import main
from stugan_runtime.pictures import PADDING, grid, png


@pytest.mark.parametrize("channels", [1, 3])
def test_a_png_file_is_read_back(channels):
    random = np.random.default_rng(0)
    picture = random.integers(0, 256, [5, 7, channels], np.uint8)
    read = np.asarray(Image.open(io.BytesIO(png(picture))))
    np.testing.assert_array_equal(read.reshape(picture.shape), picture)


def test_each_image_has_its_place_in_the_grid():
    images = np.arange(5, dtype=np.uint8)[:, None, None, None] * np.ones([5, 4, 6, 3], np.uint8)
    picture = grid(images, 3)
    assert picture.shape == (2 * (4 + PADDING) + PADDING, 3 * (6 + PADDING) + PADDING, 3)
    for i in range(5):
        top, left = (i // 3) * (4 + PADDING) + PADDING, (i % 3) * (6 + PADDING) + PADDING
        assert np.all(picture[top : top + 4, left : left + 6] == i)
    assert np.all(picture[-5:, -6:] == 255)


def test_the_command_draws_the_images_of_a_seed(tmp_path):
    path, output = tmp_path / "file", tmp_path / "grid.png"
    write(path, *served("biggan"))
    arguments = [str(path), f"--output={output}", "--num_images=5", "--seed=2", "--label=3"]
    assert main(arguments) == 0
    expected = grid(stugan_runtime.load(path)(5, seed=2, labels=3))
    np.testing.assert_array_equal(np.asarray(Image.open(output)), expected)


def test_the_command_tells_what_is_wrong(tmp_path, capsys):
    assert main([str(tmp_path / "nothing"), f"--output={tmp_path / 'x'}"]) == 1
    assert "cannot be read" in capsys.readouterr().err
    (tmp_path / "file").write_bytes(b"nothing")
    assert main([str(tmp_path / "file"), f"--output={tmp_path / 'x'}"]) == 1
    assert "damaged or not a sparse file" in capsys.readouterr().err
