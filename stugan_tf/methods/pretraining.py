"""The dense training that methods of several phases begin with."""

from stugan_tf.methods.phases import Phase

# All phases are built dense; a pruned phase gets its masks when it begins.
DENSE = {"GAN.generator_sparsity": 0.0, "GAN.discriminator_sparsity": 0.0}


def dense_phase() -> Phase:
    """The first phase. It is the same for all methods, so they can share it."""
    return Phase(
        name="dense",
        about="training without zeros",
        begin=lambda training, parent: {},
        settings=DENSE,
    )
