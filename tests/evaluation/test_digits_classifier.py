import re

import numpy as np
import pytest
import tensorflow as tf

from stugan_tf.errors import InputError
from stugan_tf.evaluation.digits_classifier import model as digits
from stugan_tf.evaluation.digits_classifier import train
from stugan_tf.evaluation.extractors import digits_classifier
from tests.helpers.params import first_by_default

CARD = (digits.WEIGHTS.parent / "CARD.md").read_text()


@pytest.mark.parametrize("image_size", first_by_default(8, 16, 32))
def test_it_is_as_good_as_its_card_says_on_digits_of_any_size(image_size):
    _, (images, labels) = digits.split(image_size)
    features, logits = digits_classifier()(images)
    assert features.shape == (360, 64)
    (promised,) = re.findall(r"accuracy on held-out digits \| ([0-9.]+) %", CARD)
    assert 100 * np.mean(np.argmax(logits, axis=1) == labels) >= float(promised) - 0.5


def test_its_card_names_its_weights():
    assert digits_classifier().sha256 in CARD


@pytest.mark.ci
def test_no_feature_is_dead():
    (images, _), _ = digits.split()
    features, _ = digits_classifier()(images)
    assert np.linalg.matrix_rank(np.cov(features, rowvar=False)) == digits.NUM_FEATURES


def test_the_split_is_fixed_and_disjoint():
    (images, labels), (held_out, held_out_labels) = digits.split()
    assert len(images) == len(labels) == 1437
    assert len(held_out) == len(held_out_labels) == 360
    assert np.bincount(held_out_labels).min() >= 34  # every class alike
    both = np.concatenate([images, held_out]).reshape(1797, -1)
    assert len(np.unique(both, axis=0)) == len(both)
    np.testing.assert_array_equal(held_out, digits.split()[1][0])


def test_saved_weights_are_loaded_as_they_were(tmp_path):
    model = digits.build(seed=3)
    digits.save(model, tmp_path / "model.npz")
    loaded = digits.load(tmp_path / "model.npz")
    for weight, other in zip(model.weights, loaded.weights, strict=True):
        np.testing.assert_array_equal(weight, other)
    digits.save(loaded, tmp_path / "again.npz")
    assert (tmp_path / "again.npz").read_bytes() == (tmp_path / "model.npz").read_bytes()


@pytest.mark.parametrize("content", [b"", b"no archive", None])
def test_a_damaged_installation_is_told(tmp_path, content):
    path = tmp_path / "model.npz"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match="Install the package again"):
        digits.load(path)


@pytest.mark.ci
def test_training_learns():
    (images, labels), _ = digits.split()
    model = train.train(images, labels, epochs=2)
    assert train.accuracy(model, images, labels) > 0.8


def test_moving_leaves_the_average_image_in_its_place():
    image = np.full([16, 16], -1.0, np.float32)
    image[6:10, 6:10] = 1.0
    moved = train.moved(tf.constant(np.tile(image[None, ..., None], [4000, 1, 1, 1])), [0, 1])
    assert not np.allclose(moved[0], moved[1])
    mass = np.mean(moved, axis=0)[..., 0] + 1.0
    centre = (mass * np.arange(16)).sum() / mass.sum(), (mass.T * np.arange(16)).sum() / mass.sum()
    np.testing.assert_allclose(centre, 7.5, atol=0.05)
