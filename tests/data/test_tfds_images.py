import numpy as np
import pytest

from stugan_tf.data import cifar10, imagenet2012, tfds_images
from stugan_tf.errors import InputError
from tests.helpers.params import first_by_default


@pytest.fixture(scope="module")
def tfds():
    """Its import takes a second, which processes without these tests are spared."""
    import tensorflow_datasets

    return tensorflow_datasets


@pytest.fixture(scope="module")
def prepared_cifar10(tfds):
    if not tfds.builder("cifar10").is_prepared():
        pytest.skip("cifar10 is not prepared")


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
        (
            {"name": "cifar10/large"},
            "cannot open the data set 'cifar10/large': .*BuilderConfig large",
        ),
        ({"name": "cifar10:1.9.9"}, "cannot open the data set 'cifar10:1.9.9': .*version 1.9.9"),
        ({"name": "cifar 10"}, "cannot open the data set 'cifar 10'.*such as 'cifar10'"),
        ({"name": "celeb_a"}, "no class feature 'label'.*attributes"),
        ({"name": "stl10", "image_feature": "picture"}, "no image feature 'picture'"),
        ({"name": "imagenet2012"}, "differ in size"),
        ({"name": "stl10", "image_size": -1}, "positive int"),
    ],
)
def test_impossible_sets_are_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        tfds_images(**arguments)


@pytest.mark.usefixtures("prepared_cifar10")
def test_an_unknown_split_is_refused():
    with pytest.raises(InputError, match="no split 'validation'"):
        cifar10("validation").inspect()


@pytest.mark.usefixtures("prepared_cifar10")
@pytest.mark.parametrize("cache_gib", first_by_default(0, 1))
def test_a_slice_has_the_images_tfds_gives(tfds, cache_gib):
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


def prepare(tfds, folder, dtype=np.uint8):
    """Prepares a data set of three images, whose pixels are 0, 1 and 2, in a folder."""
    features = {
        "image": tfds.features.Image(shape=(4, 4, 1), dtype=dtype),
        "label": tfds.features.ClassLabel(num_classes=2),
    }
    images = [(i, {"image": np.full((4, 4, 1), i, dtype), "label": i % 2}) for i in range(3)]
    tfds.dataset_builders.store_as_tfds_dataset(
        name="three",
        version="1.0.0",
        data_dir=folder,
        features=tfds.features.FeaturesDict(features),
        split_datasets={"train": images},
        disable_shuffling=True,
    )
    return str(folder)


@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
def test_images_that_are_not_of_8_bits_are_refused(tfds, tmp_path, dtype):
    folder = prepare(tfds, tmp_path, dtype)
    with pytest.raises(InputError, match=f"three are {np.dtype(dtype).name}.*only uint8"):
        tfds_images("three", data_dir=folder)


@pytest.mark.parametrize("name", ["data [v1]", "a*b?\\"])
def test_a_set_may_be_in_a_folder_of_any_name(tfds, tmp_path, name):
    source = tfds_images("three", data_dir=prepare(tfds, tmp_path / name))
    assert source.inspect().class_counts == (2, 1)


def test_a_set_in_another_format_is_refused_by_its_name(tfds, tmp_path):
    folder = prepare(tfds, tmp_path)
    info = tmp_path / "three" / "1.0.0" / "dataset_info.json"
    info.write_text(info.read_text().replace('"tfrecord"', '"array_record"'))
    with pytest.raises(InputError, match=r"stored as array_record.*--file_format=tfrecord"):
        tfds_images("three", data_dir=folder).inspect()
