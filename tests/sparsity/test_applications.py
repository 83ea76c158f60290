"""All models of `keras.applications`, sparse: `fit` changes masks, zeros, and saving."""

import keras
import numpy as np
import pytest

from stugan_tf.fit.optimizer import SparseOptimizer
from stugan_tf.layers.kernel_mask import kernel_masks
from stugan_tf.layers.masked import check_zeros, unmasked_kernels
from stugan_tf.sparsity.rules import RigL
from stugan_tf.sparsity.sparsify import count_weights, sparsify

SMALL = ("MobileNetV2",)
SIZES = {"InceptionResNetV2": 75, "InceptionV3": 75, "NASNetLarge": 331, "NASNetMobile": 224}
BUILDERS = sorted(
    name
    for name, value in vars(keras.applications).items()
    if callable(value) and name[0].isupper()
)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.ci if name in SMALL else pytest.mark.slow)
        for name in BUILDERS
    ],
)
def test_a_model_is_sparse_trains_and_is_loaded(name, tmp_path):
    size = SIZES.get(name, 71 if name == "Xception" else 32)
    build = getattr(keras.applications, name)
    model = build(weights=None, classes=10, input_shape=(size, size, 3))
    images = np.random.default_rng(0).random((2, size, size, 3)).astype(np.float32)
    sparsify(model, 0.9)
    assert unmasked_kernels(model) == []
    counts = count_weights(model)
    assert counts.sparsity == pytest.approx(0.9, abs=1e-3)
    optimizer = SparseOptimizer(keras.optimizers.SGD(1e-3), RigL(update_interval=1), total_steps=4)
    model.compile(optimizer, "sparse_categorical_crossentropy", run_eagerly=True)
    step(model, images, counts)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    for mask, expected in zip(kernel_masks(loaded), kernel_masks(model), strict=True):
        np.testing.assert_array_equal(mask.kernel_mask, expected.kernel_mask)
    np.testing.assert_array_equal(loaded(images), model(images))
    loaded.run_eagerly = True  # Keras does not save it.
    step(loaded, images, counts)
    assert int(loaded.optimizer.iterations) == 2


def step(model, images, counts):
    """One step of `fit`, with a topology update."""
    before = [mask.kernel_mask.numpy() for mask in kernel_masks(model)]
    model.fit(images, np.array([0, 1]), batch_size=2, verbose=0)
    check_zeros(model)
    assert count_weights(model) == counts
    after = [mask.kernel_mask.numpy() for mask in kernel_masks(model)]
    moved = sum(int(np.sum(old != new)) for old, new in zip(before, after, strict=True))
    assert moved > 0.1 * counts.active
