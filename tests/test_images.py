import numpy as np
import pytest
from PIL import Image

from stugan_tf.errors import InputError
from stugan_tf.images import check_grid, image_grid, to_uint8, write_png


def test_pixels_are_truncated_and_clipped():
    # 127.5 * [-2, -1, -0.001, 0, 0.5, 1, 2] + 127.5 = [-127.5, 0, 127.37, 127.5, 191.25, 255, 382]
    pixels = to_uint8([-2.0, -1.0, -0.001, 0.0, 0.5, 1.0, 2.0])
    assert pixels.tolist() == [0, 0, 127, 127, 191, 255, 255]


@pytest.mark.parametrize(
    ("shape", "columns", "expected"),
    [
        ((4, 64, 64, 3), None, (134, 134, 3)),  # 2 + 2 * (64 + 2)
        ((3, 32, 32, 3), 3, (68, 200, 3)),  # twice as large
        ((5, 8, 8, 1), 2, (200, 134, 1)),  # eight times as large, three rows
        ((1, 128, 100, 3), None, (132, 104, 3)),  # as it is
        ((4, 64, 64, 3), 100_000, (68, 266, 3)),  # no wider than its images
        ((4, 64, 64, 3), 10**30, (68, 266, 3)),
    ],
)
def test_grids_are_padded_and_small_images_enlarged(shape, columns, expected):
    assert image_grid(np.zeros(shape), columns).shape == expected


def test_images_lie_row_by_row_on_white():
    values = np.linspace(-1, 0.9, 5)
    grid = image_grid(np.tile(values[:, None, None, None], [1, 32, 32, 3]), columns=3)
    rows, columns = np.meshgrid([2, 68], [2, 68, 134], indexing="ij")
    corners = grid[rows.ravel(), columns.ravel(), 0]
    assert corners.tolist() == [*to_uint8(values), 255]
    assert np.all(grid[2:66, 2:66] == grid[2, 2])
    assert np.all(grid[:2] == 255)
    assert np.all(grid[:, 66:68] == 255)


def test_a_picture_that_is_too_large_is_refused_before_it_is_drawn():
    with pytest.raises(InputError, match=r"in 1,000 rows and 1,000 columns .*4,356,000,000 pixels"):
        check_grid(10**6, (64, 64, 3), 1000)
    check_grid(60_000, (64, 64, 3))


@pytest.mark.parametrize("channels", [1, 3])
def test_a_png_reads_back_the_same(tmp_path, channels):
    grid = image_grid(np.random.default_rng(0).uniform(-1, 1, [6, 20, 16, channels]))
    write_png(tmp_path / "samples" / "grid.png", grid)
    read = np.asarray(Image.open(tmp_path / "samples" / "grid.png"))
    assert np.array_equal(read.reshape(grid.shape), grid)
