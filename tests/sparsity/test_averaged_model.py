import keras
import numpy as np
import pytest
from keras import layers

from stugan_tf.layers.masked import mask_layers, masked_layers
from stugan_tf.sparsity.averaged_model import AveragedModel
from stugan_tf.sparsity.averaging import masked_ema, of_parameters, sema

DECAY = 0.75


def build():
    model = keras.Sequential(
        [
            keras.Input((6, 6, 2)),
            layers.Conv2D(3, 3),
            layers.BatchNormalization(),
            layers.Dropout(0.1),  # holds a seed, which is no float
            layers.Conv2D(4, 2),
        ]
    )
    return mask_layers(model)


def values(model):
    return {variable.path: variable.numpy() for variable in model.variables}


def change(model, rng, explore):
    """Something like a training step: every variable moves, masked kernels under their masks."""
    for layer in masked_layers(model):
        if explore:
            mask = rng.integers(0, 2, layer.kernel.shape).astype(np.float32)
            layer.assign_mask(mask)  # grown weights are zero in this step
        else:
            kernel = rng.normal(size=layer.kernel.shape)
            layer.kernel.assign(kernel * layer.kernel_mask.numpy())
    for variable in model.variables:
        if "kernel" not in variable.path:
            if np.issubdtype(variable.numpy().dtype, np.floating):
                variable.assign(rng.normal(size=variable.shape))
            else:
                variable.assign(variable.numpy() + 1)


def is_masked_kernel(path):
    return path.endswith("kernel")


@pytest.mark.parametrize("rule", [sema, masked_ema, of_parameters])
def test_the_average_follows_a_simulation(rule):
    """Eq. 5 with a counter T per weight; plain averages, batch norm's included or not; copies."""
    original, rng = build(), np.random.default_rng(0)
    copied = ("kernel_mask",)
    if rule is of_parameters:
        copied += ("moving_mean", "moving_variance")
    change(original, rng, explore=True)
    change(original, rng, explore=False)
    averaged = AveragedModel(original, build(), rule)
    expected = values(original)
    names = dict(zip(expected, values(averaged.model), strict=True))
    masks = {path: value for path, value in expected.items() if path.endswith("kernel_mask")}
    active_steps = {
        path.removesuffix("_mask"): np.where(mask > 0, 2, 0) for path, mask in masks.items()
    }
    for step in range(12):
        change(original, rng, explore=step % 4 == 1)
        averaged.update(DECAY)
        live = values(original)
        for path, value in live.items():
            blended = DECAY * expected[path] + (1 - DECAY) * value
            if is_masked_kernel(path):
                mask = live[path + "_mask"]
                if rule is masked_ema:
                    expected[path] = mask * blended
                    continue
                # T counts from the first update that finds the grown weight trained.
                started = (active_steps[path] > 0) | (value != 0)
                active_steps[path] = np.where(mask == 0, 0, active_steps[path] + started)
                age = active_steps[path]
                expected[path] = np.select([age == 0, age == 1], [0.0, value], blended)
            elif path.endswith(copied) or value.dtype.kind != "f":
                expected[path] = value
            else:
                expected[path] = blended
        actual = values(averaged.model)
        for path, value in expected.items():
            np.testing.assert_allclose(actual[names[path]], value, rtol=1e-5, atol=1e-6)
    assert {path.rsplit("/", 1)[1] for path in expected} >= {
        "kernel",
        "kernel_mask",
        "bias",
        "gamma",
        "moving_mean",
        "moving_variance",
        "seed_generator_state",
    }


def test_the_average_starts_as_a_copy_and_shares_nothing():
    original = build()
    before = list(values(original).values())
    averaged = AveragedModel(original, build(), sema)
    change(original, np.random.default_rng(0), explore=True)
    for variable, value in zip(averaged.model.variables, before, strict=True):
        np.testing.assert_array_equal(variable, value)


@pytest.mark.parametrize("explore", [False, True])
def test_without_decay_the_average_is_the_live_network(explore):
    original = build()
    averaged = AveragedModel(original, build(), sema)
    for seed in range(3):
        change(original, np.random.default_rng(seed), explore)
        averaged.update(0.0)
    for variable, live in zip(averaged.model.variables, original.variables, strict=True):
        np.testing.assert_array_equal(variable, live)
