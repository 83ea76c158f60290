"""A small network, and images for it."""

import numpy as np
import tensorflow as tf


class Net(tf.Module):
    """Pools over positions, then two matrices; images of any size in any range."""

    def __init__(self, scale=1.0):
        super().__init__()
        random = np.random.default_rng(0)
        self.kernel = tf.Variable(scale * random.normal(size=[3, 5]), dtype=tf.float32)
        self.logits = tf.Variable(random.normal(size=[5, 4]), dtype=tf.float32)

    @tf.function(input_signature=[tf.TensorSpec([None, None, None, 3], tf.float32, name="images")])
    def __call__(self, images):
        pooled = tf.reduce_mean(images, [1, 2]) @ self.kernel
        return {
            "pool": pooled,
            "pool_3": pooled,
            "logits": pooled @ self.logits,
            "flat": pooled[:, None, None],
            "map": images,
            "broken": pooled / 0.0,
            "one": pooled[:1],
        }


def random_images(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
