"""What the page of the demo draws, of generators that are sums in NumPy."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stugan_tf.demo import drawing
from stugan_tf.demo.drawing import ANY, EACH, Sheet, Walk
from stugan_tf.errors import InputError
from stugan_tf.images import to_uint8
from tests.helpers.exhibited import LATENT_DIM, generator, images_of


def test_a_sheet_is_what_the_generator_draws_of_the_seed():
    one = generator(num_classes=3)
    latents, labels = one.inputs(5, seed=7, truncation=0.5)
    images, columns = drawing.draw(one, Sheet(7, 5, ANY, 0.5))
    assert columns is None
    assert np.array_equal(images, to_uint8(images_of(latents, np.eye(3)[labels])))
    images, _ = drawing.draw(one, Sheet(7, 5, 2, 0.5))
    assert np.array_equal(images, to_uint8(images_of(latents, np.eye(3)[[2] * 5])))


def test_rows_of_classes_share_latents():
    one = generator(num_classes=3)
    latents, _ = one.inputs(drawing.ROW, seed=1)
    images, columns = drawing.draw(one, Sheet(1, 16, EACH))
    assert columns == drawing.ROW
    for label, row in enumerate(np.split(images, 3)):
        expected = images_of(latents, np.eye(3)[[label] * drawing.ROW])
        assert np.array_equal(row, to_uint8(expected))


@pytest.mark.parametrize("label", [ANY, EACH, 1])
def test_classes_mean_nothing_to_an_unconditional_generator(label):
    images, columns = drawing.draw(generator(), Sheet(0, 4, label))
    assert columns is None
    assert np.array_equal(images, generator()(4))
    assert "takes no classes" in drawing.describe(generator(), Sheet(0, 4, label))


def test_a_class_of_another_generator_is_refused_in_words():
    with pytest.raises(InputError, match="labels must be from 0 to 2, got 5"):
        drawing.draw(generator(num_classes=3), Sheet(label=5))
    with pytest.raises(InputError, match="Classes of this generator are from 0 to 2, got 5"):
        drawing.walk_images(generator(num_classes=3), Walk(labels=(0, 5)), [0])
    with pytest.raises(InputError, match="up to 20 classes, got 21"):
        drawing.draw(generator(num_classes=21), Sheet(label=EACH))


def test_sheets_and_walks_are_told_by_the_names_of_classes():
    one = generator(num_classes=2, class_names=("cat", "dog"))
    assert drawing.describe(one, Sheet(3, label=EACH)) == "Seed 3. Rows from the top: 0 cat, 1 dog."
    assert drawing.describe(one, Sheet(3, label=1)) == "Seed 3. All are of class 1 dog."
    described = drawing.describe_walk(one, Walk((3, 4), (0, 1)))
    assert described == "From seed 3, class 0 cat to seed 4, class 1 dog."
    drawn = one.inputs(1, 3)[1][0]
    named = f"From seed 3, class {drawn} {('cat', 'dog')[drawn]} to"
    assert drawing.describe_walk(one, Walk((3, 4))).startswith(named)
    assert drawing.describe_walk(generator(), Walk((3, 4))) == "From seed 3 to seed 4."


def test_a_walk_begins_and_ends_with_the_images_of_its_seeds():
    one, walk = generator(num_classes=4), Walk((2, 9), (1, 3), 1.5)
    first, last = drawing.walk_images(one, walk, [0, 100])
    assert np.array_equal(first, one(1, 2, labels=1, truncation=1.5)[0])
    assert np.array_equal(last, one(1, 9, labels=3, truncation=1.5)[0])


@pytest.mark.parametrize("position", [0, 1, 37, 100])
def test_a_walk_goes_along_a_great_circle_and_mixes_classes_evenly(position):
    seen = []

    def noted(compute):
        return lambda *inputs: seen.append(inputs) or compute(*inputs)

    one = generator(num_classes=4, around=noted)
    drawing.walk_images(one, Walk((0, 1), (1, 3)), [position])
    ((latents, weights),) = seen
    np.testing.assert_allclose(weights, [[0, 1 - position / 100, 0, position / 100]], atol=1e-6)
    start, end = (one.inputs(1, seed)[0][0].astype(float) for seed in (0, 1))
    angle = np.arccos(start @ end / np.linalg.norm(start) / np.linalg.norm(end))
    part = position / 100
    expected = np.sin((1 - part) * angle) * start + np.sin(part * angle) * end
    np.testing.assert_allclose(latents[0], expected / np.sin(angle), rtol=1e-4, atol=1e-5)


def test_within_a_class_no_mixtures_are_needed():
    one = generator(num_classes=3, mixes=False)
    drawing.walk_images(one, Walk((0, 1), (2, 2)), [50])
    with pytest.raises(InputError, match="cannot mix classes: there is one only"):
        drawing.walk_images(one, Walk((0, 1), (1, 2)), [50])


@pytest.mark.parametrize("positions", [[], [-1], [0, 101]])
def test_beyond_a_walk_there_is_nothing(positions):
    with pytest.raises(InputError, match="from 0 to 100"):
        drawing.walk_images(generator(), Walk(), positions)


@given(num=st.integers(2, 50))
def test_a_strip_goes_from_start_to_end_by_equal_steps(num):
    positions = drawing.strip_positions(num)
    assert (positions[0], positions[-1], len(positions)) == (0, 100, num)
    assert np.ptp(np.diff(positions)) <= 1


def test_the_slider_of_truncation_ends_with_none():
    values = [drawing.truncation_of(text) for text in drawing.TRUNCATIONS]
    assert values == [*(tenths / 10 for tenths in range(1, 21)), None]


def test_classes_to_choose_from_are_those_of_the_generator_with_most():
    interfaces = [
        generator(num_classes=2, class_names=("cat", "dog")).interface,
        generator(num_classes=3).interface,
        generator().interface,
    ]
    assert drawing.classes_of(interfaces) == ["0", "1", "2"]
    assert drawing.classes_of(interfaces[:1]) == ["0 cat", "1 dog"]
    assert drawing.classes_of(interfaces[2:]) == []
    digits = generator(num_classes=2, class_names=("0", "1")).interface
    assert drawing.classes_of([digits]) == ["0", "1"]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("width", [1, 130, 200, 1000])
def test_pictures_are_enlarged_by_whole_pixels(channels, width):
    images = np.random.default_rng(0).integers(0, 256, [2, 4, 4, channels], np.uint8)
    small, large = drawing.picture(images, 2), drawing.picture(images, 2, width)
    factor = large.shape[1] // small.shape[1]
    assert large.shape[1] <= max(width, small.shape[1]) < large.shape[1] + small.shape[1]
    assert np.array_equal(large[::factor, ::factor], small)
    assert large.shape[-1] == channels


def test_latents_are_those_that_the_interface_asks_for():
    assert generator().inputs(1)[0].shape == (1, LATENT_DIM)
