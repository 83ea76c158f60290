"""Which devices a run uses."""

import os

import tensorflow as tf

from stugan_tf.errors import InputError

NAMES = ("auto", "one_device", "mirrored", "multi_worker", "tpu")


def create_strategy(name):
    """The `tf.distribute.Strategy` of one of `NAMES`.

    `auto` takes all GPUs of this machine, or its CPU. `multi_worker` reads TF_CONFIG, `tpu` the
    name of the TPU from TPU_NAME (none means the local one).
    """
    if name not in NAMES:
        raise InputError(f"--strategy must be one of {', '.join(NAMES)}, got {name!r}.")
    if name == "multi_worker":  # Before anything asks for devices, which ends the setting-up.
        if "TF_CONFIG" not in os.environ:
            raise InputError(
                "--strategy=multi_worker needs the environment variable TF_CONFIG, which lists "
                "the workers and says which of them this process is."
            )
        return tf.distribute.MultiWorkerMirroredStrategy()
    if name == "tpu":
        try:
            resolver = tf.distribute.cluster_resolver.TPUClusterResolver(
                os.environ.get("TPU_NAME", "local")
            )
            tf.config.experimental_connect_to_cluster(resolver)
            tf.tpu.experimental.initialize_tpu_system(resolver)
        except (ValueError, tf.errors.OpError) as error:
            raise InputError(
                f"No TPU can be reached: {str(error).splitlines()[0]} Set TPU_NAME, or choose "
                "another --strategy."
            ) from error
        return tf.distribute.TPUStrategy(resolver)
    gpus = tf.config.list_logical_devices("GPU")
    if name == "mirrored" or (name == "auto" and len(gpus) > 1):
        devices = gpus or tf.config.list_logical_devices("CPU")
        return tf.distribute.MirroredStrategy([device.name for device in devices])
    return tf.distribute.OneDeviceStrategy("GPU:0" if gpus else "CPU:0")


def is_chief(strategy):
    """Whether this process is the one that writes the workdir."""
    resolver = strategy.cluster_resolver
    if resolver is None or not getattr(resolver, "task_type", None):
        return True
    return resolver.task_type == "chief" or (
        resolver.task_type == "worker"
        and not resolver.cluster_spec().as_dict().get("chief")
        and resolver.task_id == 0
    )


def should_jit(jit_compile, strategy):
    """Resolves `auto`: XLA on accelerators, the classic graph on CPUs, where it was faster.

    A TPU compiles the whole replica function anyway.
    """
    if jit_compile not in ("auto", True, False):
        raise InputError(f"train.jit_compile must be 'auto', True or False, got {jit_compile!r}.")
    if isinstance(strategy, tf.distribute.TPUStrategy):
        return False
    if jit_compile == "auto":
        return bool(tf.config.list_logical_devices("GPU"))
    return jit_compile
