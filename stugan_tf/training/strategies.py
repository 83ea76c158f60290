"""The devices that a run uses."""

import os

import tensorflow as tf
from absl import logging

from stugan_tf.adapters.tensorflow_internals import has_several_workers
from stugan_tf.choices import STRATEGIES
from stugan_tf.errors import InputError
from stugan_tf.training.cluster import VARIABLE, announced, check_port, read_cluster


def create_strategy(name: str) -> tf.distribute.Strategy:
    """Creates a `tf.distribute.Strategy`.

    Args:
        name: one of `STRATEGIES`. `auto` takes all GPUs of this machine, or its CPU. `multi_worker`
            reads TF_CONFIG and waits until all workers are there. `tpu` reads the name of the TPU
            from TPU_NAME; without it, it takes the local TPU.

    Raises:
        InputError: if the name is unknown, or the devices cannot be used.
    """
    if name not in STRATEGIES:
        raise InputError(f"--strategy must be one of {', '.join(STRATEGIES)}, got {name!r}.")
    if name == "multi_worker":  # It must come before anything lists devices.
        return _multi_worker()
    _warn_of_other_workers(name)
    if name == "tpu":
        try:
            resolver = tf.distribute.cluster_resolver.TPUClusterResolver(
                os.environ.get("TPU_NAME", "local")
            )
            tf.config.experimental_connect_to_cluster(resolver)
            tf.tpu.experimental.initialize_tpu_system(resolver)
        except (ValueError, tf.errors.OpError) as error:
            raise InputError(
                f"No TPU can be reached: {_first_line(error)} Set TPU_NAME, or choose "
                "another --strategy."
            ) from error
        return tf.distribute.TPUStrategy(resolver)
    gpus = tf.config.list_logical_devices("GPU")
    if name == "mirrored" or (name == "auto" and len(gpus) > 1):
        devices = gpus or tf.config.list_logical_devices("CPU")
        return tf.distribute.MirroredStrategy([device.name for device in devices])
    return tf.distribute.OneDeviceStrategy("GPU:0" if gpus else "CPU:0")


def _warn_of_other_workers(name: str) -> None:
    """Says so if the environment speaks of several workers, which this strategy does not use."""
    try:
        cluster = read_cluster(os.environ.get(VARIABLE))
    except InputError:
        return
    if cluster.others:
        logging.warning(
            "%s lists %d workers, but --strategy=%s works in each process alone. To train them "
            "together, set --strategy=multi_worker.",
            VARIABLE,
            len(cluster.addresses),
            name,
        )


def _multi_worker() -> tf.distribute.Strategy:
    cluster = read_cluster(os.environ.get(VARIABLE))
    check_port(cluster)
    try:
        with announced(cluster):
            return tf.distribute.MultiWorkerMirroredStrategy()
    except (ValueError, tf.errors.OpError) as error:
        raise InputError(
            f"The workers of {VARIABLE} could not start together: {_first_line(error)} "
            f"This process is {cluster.own} of {', '.join(cluster.addresses)}. Start all of them, "
            "each with the same addresses and its own index."
        ) from error


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0] or type(error).__name__


def is_chief(strategy: tf.distribute.Strategy) -> bool:
    """Whether this process writes the workdir."""
    if not has_several_workers(strategy):
        return True
    resolver = strategy.cluster_resolver
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
