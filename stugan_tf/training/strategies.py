"""The devices that a run uses."""

import os

import tensorflow as tf

from stugan_tf.errors import InputError

NAMES = ("auto", "one_device", "mirrored", "multi_worker", "tpu")


def create_strategy(name: str) -> tf.distribute.Strategy:
    """Creates a `tf.distribute.Strategy`.

    Args:
        name: one of `NAMES`. `auto` takes all GPUs of this machine, or its CPU. `multi_worker`
            reads TF_CONFIG. `tpu` reads the name of the TPU from TPU_NAME; without it, it takes the
            local TPU.

    Raises:
        InputError: if the name is unknown, or the devices cannot be used.
    """
    if name not in NAMES:
        raise InputError(f"--strategy must be one of {', '.join(NAMES)}, got {name!r}.")
    if name == "multi_worker":  # It must come before anything lists devices.
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


def is_chief(strategy: tf.distribute.Strategy) -> bool:
    """Whether this process writes the workdir."""
    resolver = strategy.cluster_resolver
    if resolver is None or not getattr(resolver, "task_type", None):
        return True
    return resolver.task_type == "chief" or (
        resolver.task_type == "worker"
        and not resolver.cluster_spec().as_dict().get("chief")
        and resolver.task_id == 0
    )


def should_jit(jit_compile: str | bool, strategy: tf.distribute.Strategy) -> bool:
    """Resolves `auto`: XLA on GPUs, the plain graph on CPUs, where it was faster.

    On a TPU the answer is always False: it compiles the whole replica function anyway.

    Raises:
        InputError: unless `jit_compile` is 'auto', True or False.
    """
    if jit_compile not in ("auto", True, False):
        raise InputError(f"train.jit_compile must be 'auto', True or False, got {jit_compile!r}.")
    if isinstance(strategy, tf.distribute.TPUStrategy):
        return False
    if jit_compile == "auto":
        return bool(tf.config.list_logical_devices("GPU"))
    return bool(jit_compile)
