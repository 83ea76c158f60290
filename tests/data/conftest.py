"""One source of each kind."""

import types

import pytest

from stugan_tf.data import digits, image_folder, tfrecords
from tests.helpers.numbered_images import SIZE, Numbers, write_folder, write_tfrecords


@pytest.fixture(scope="session")
def paths(tmp_path_factory):
    shards = tmp_path_factory.mktemp("shards")
    return types.SimpleNamespace(
        folder=write_folder(tmp_path_factory.mktemp("folder")), pattern=write_tfrecords(shards)
    )


@pytest.fixture(
    params=[
        "digits",
        "folder",
        "records streamed",
        pytest.param("numbers", marks=pytest.mark.ci),
        pytest.param("folder streamed", marks=pytest.mark.ci),
        pytest.param("records", marks=pytest.mark.ci),
    ]
)
def source(request, paths):
    """One source of each kind, of 11 images where that is ours to say."""
    make = {
        "digits": lambda: digits(),
        "numbers": lambda: Numbers(11, flip=True),
        "folder": lambda: image_folder(paths.folder, flip=True),
        "folder streamed": lambda: image_folder(paths.folder, image_size=3, cache_gib=0),
        "records": lambda: tfrecords(paths.pattern, num_classes=2),
        "records streamed": lambda: tfrecords(
            paths.pattern, SIZE, num_classes=2, flip=True, cache_gib=0, block_size=5
        ),
    }
    return make[request.param]()
