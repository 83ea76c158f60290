"""The dense training that methods of several phases begin with."""

import hashlib

import numpy as np

from stugan_tf.methods.phases import Phase

# All phases are built so: what is pruned gets its masks when it begins.
DENSE = {"GAN.generator_sparsity": 0.0, "GAN.discriminator_sparsity": 0.0}


def dense_phase():
    """The first phase; the same for all methods, so that they can share it."""
    return Phase(
        name="dense",
        about="training without zeros",
        begin=lambda training, _: {"initialization": initialization_digest(training.gan)},
        settings=DENSE,
    )


def initialization_digest(gan):
    """A SHA-256 of the weights that both networks of a `GAN` have now."""
    digest = hashlib.sha256()
    for network in gan.networks.values():
        for variable in network.variables:
            digest.update(np.ascontiguousarray(variable.numpy()))
    return digest.hexdigest()
