import numpy as np
import pytest
import tensorflow_datasets as tfds

from stugan_tf.data import cifar10, imagenet2012, tfds_images
from stugan_tf.errors import InputError

needs_cifar10 = pytest.mark.skipif(
    not tfds.builder("cifar10").is_prepared(), reason="cifar10 is not prepared"
)


def test_shapes_and_classes_are_known_unprepared(tmp_path):
    source = cifar10(data_dir=str(tmp_path))
    assert (source.image_shape, source.num_classes) == ((32, 32, 3), 10)
    source = imagenet2012(data_dir=str(tmp_path))
    assert (source.image_shape, source.num_classes) == ((128, 128, 3), 1000)


def test_an_unprepared_set_says_what_to_run(tmp_path):
    source = imagenet2012(data_dir=str(tmp_path))  # is to be downloaded by hand
    with pytest.raises(InputError, match="tfds build imagenet2012"):
        source.inspect()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "cifar11"}, "Did you mean.*cifar10"),
        ({"name": "celeb_a"}, "no class feature 'label'.*attributes"),
        ({"name": "stl10", "image_feature": "picture"}, "no image feature 'picture'"),
        ({"name": "imagenet2012"}, "differ in size"),
        ({"name": "stl10", "image_size": -1}, "positive int"),
    ],
)
def test_impossible_sets_are_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        tfds_images(**arguments)


@needs_cifar10
def test_an_unknown_split_is_refused():
    with pytest.raises(InputError, match="no split 'validation'"):
        cifar10("validation").inspect()


@needs_cifar10
@pytest.mark.parametrize("cache_gib", [0, 1])
def test_a_slice_has_the_images_tfds_gives(cache_gib):
    source = tfds_images("cifar10", "test[10:20]", cache_gib=cache_gib)
    expected = tfds.load("cifar10", split="test[10:20]", as_supervised=True, batch_size=-1)
    images, labels = next(iter(source.batches(10, seed=0)))
    pixels = np.rint((images.numpy() + 1) * 127.5).astype(np.uint8)
    found = sorted(
        (image.tobytes(), label) for image, label in zip(pixels, labels.numpy(), strict=True)
    )
    assert found == sorted(
        (image.tobytes(), label)
        for image, label in zip(expected[0].numpy(), expected[1].numpy(), strict=True)
    )
