"""Small models whose kernels are under masks."""

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from stugan_tf.layers.kernel_mask import mask_of
from stugan_tf.layers.masked import Masked, masked_layers
from stugan_tf.sparsity.topology import top_k_mask


def random_mask(shape, density=1 / 3, seed=0):
    """A float32 mask with exactly round(density * size) ones."""
    scores = tf.constant(np.random.default_rng(seed).random(shape), tf.float32)
    return top_k_mask(scores, round(density * scores.shape.num_elements()))


def masked_kernel(shape, density=1 / 3, seed=0):
    """The `KernelMask` of one dense layer with drawn weights, biases left out."""
    layer = Masked(layers.Dense(shape[1], use_bias=False))
    layer.build([None, shape[0]])
    layer.kernel.assign(np.random.default_rng(seed + 1).normal(size=shape))
    layer.assign_mask(random_mask(shape, density, seed))
    return mask_of(layer.kernel)


def masked_classifier(seed=0):
    """[b, 6] -> [b, 3], two masked layers of 48 and 24 weights, a third of them active."""
    keras.utils.set_random_seed(seed)
    model = keras.Sequential(
        [
            keras.Input((6,)),
            Masked(layers.Dense(8, activation="tanh", name="hidden")),
            Masked(layers.Dense(3, name="logits")),
        ]
    )
    for index, layer in enumerate(masked_layers(model)):
        layer.assign_mask(random_mask(tuple(layer.kernel.shape), seed=10 * seed + index))
    return model


def regression_data(num=32):
    """Inputs [num, 6] and targets [num, 3], float32."""
    random = np.random.default_rng(0)
    inputs = random.normal(size=[num, 6]).astype(np.float32)
    return inputs, random.normal(size=[num, 3]).astype(np.float32)
