"""Compares two ways to compute one model."""

import keras
import numpy as np
import tensorflow as tf

from stugan_tf.layers.masked import masked_layers


def randomize(model, density=0.5, seed=0):
    """Random masks, of which no output channel is empty, and values in place of zeros and ones."""
    random = np.random.default_rng(seed)
    for layer in masked_layers(model):
        mask = random.random(layer.kernel.shape) < density
        *_, inputs, outputs = mask.shape
        mask[..., np.arange(outputs) % inputs, np.arange(outputs)] = True
        layer.assign_mask(mask.astype(np.float32))
    for variable in model.variables:
        if variable.path.split("/")[-1] in ("bias", "beta", "gamma", "moving_mean"):
            variable.assign(variable + random.normal(0, 0.3, variable.shape))
    return model


def everything(call, inputs, variables, training=True):
    """What a call in this mode gives, and what it does to variables, which then are as before.

    Args:
        call: a layer, a model or a function like them.
        inputs: a nest of arrays.
        variables: of the model.
        training: the mode.

    Returns:
        Arrays by name: outputs, gradients of floating inputs and trainable variables, variables.
    """
    before = [variable.numpy() for variable in variables]
    inputs = tf.nest.map_structure(tf.constant, inputs)
    sources = {
        f"input {i}": x for i, x in enumerate(tf.nest.flatten(inputs)) if x.dtype.is_floating
    }
    sources |= {variable.path: variable.value for variable in variables if variable.trainable}
    with tf.GradientTape() as tape:
        tape.watch(list(sources.values()))
        outputs = tf.nest.flatten(call(inputs, training=training))
        loss = tf.add_n([tf.reduce_sum(tf.sin(tf.cast(x, tf.float32))) for x in outputs])
    gradients = tape.gradient(loss, sources)
    found = {f"output {i}": output for i, output in enumerate(outputs)}
    found |= {
        f"gradient of {name}": tf.convert_to_tensor(gradient)
        for name, gradient in gradients.items()
        if gradient is not None
    }
    found |= {f"{variable.path} afterwards": variable for variable in variables}
    found = {name: keras.ops.convert_to_numpy(value) for name, value in found.items()}
    for variable, value in zip(variables, before, strict=True):
        variable.assign(value)
    return found


def assert_same(actual, expected, tolerance=0.0):
    """To `tolerance` of the largest magnitude of each array, of a tenth of all at least.

    Less would not do: the gradient of a bias before batch norm is zero, but for rounding
    of terms that may be as large as any.
    """
    largest = {name: np.max(np.abs(value), initial=0.0) for name, value in expected.items()}
    least = max(largest.values()) / 10
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        assert actual[name].dtype == value.dtype, name
        margin = tolerance * max(largest[name], least)
        np.testing.assert_allclose(actual[name], value, rtol=0, atol=margin, err_msg=name)
