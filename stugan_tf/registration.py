"""Modules that are imported late: they register their classes with Keras and with gin.

Keras can load our layers and optimizers in a process that has only imported `stugan_tf`.
`import stugan_tf` imports neither Keras nor our layers. So it leaves a note for Keras: as soon as
Keras is there, each class that it may find in a saved model is registered by its name alone, and
imported when it is first needed.
"""

import contextlib
import importlib
import importlib.abc
import importlib.machinery
import sys
from importlib.machinery import ModuleSpec
from typing import Any

# {class that Keras may find in a saved model: its module}.
SAVED = {
    "ConditionalBatchNormalization": "stugan_tf.layers.conditional",
    "DensityAdjustment": "stugan_tf.sparsity.density_adjustment",
    "Exploration": "stugan_tf.sparsity.exploration",
    "GMP": "stugan_tf.sparsity.rules",
    "GradualPruning": "stugan_tf.sparsity.pruning",
    "LearnedScale": "stugan_tf.layers.conditional",
    "Masked": "stugan_tf.layers.masked",
    "MaskedAdam": "stugan_tf.training.masked_adam",
    "MomentumGrowth": "stugan_tf.sparsity.rules",
    "NM": "stugan_tf.sparsity.rules",
    "Orthogonal": "stugan_tf.layers.initializers",
    "RigL": "stugan_tf.sparsity.rules",
    "SET": "stugan_tf.sparsity.rules",
    "SRigL": "stugan_tf.sparsity.rules",
    "STU": "stugan_tf.sparsity.rules",
    "SparseGAN": "stugan_tf.fit.gan",
    "SparseLayer": "stugan_tf.layers.in_place",
    "SparseOptimizer": "stugan_tf.fit.optimizer",
    "SpectralConv2D": "stugan_tf.layers.spectral",
    "SpectralDense": "stugan_tf.layers.spectral",
    "SpectralEmbedding": "stugan_tf.layers.spectral",
    "Static": "stugan_tf.sparsity.rules",
    "SumPooling2D": "stugan_tf.layers.pooling",
}


def register_with_keras() -> None:
    """Registers the classes now, or as soon as Keras is imported."""
    if "keras" in sys.modules:
        _register()
    else:
        sys.meta_path.insert(0, _AfterKeras())


def gin_unlocked() -> contextlib.AbstractContextManager[Any]:
    """A context in which modules may register with gin although a parsed file has locked it."""
    gin = sys.modules.get("gin")  # What is not imported is not locked.
    return gin.unlock_config() if gin else contextlib.nullcontext()


def imported(module: str, name: str) -> Any:
    """What a module or a package of ours calls `name`; it may be imported only now."""
    with gin_unlocked():
        found = importlib.import_module(module)
        if not hasattr(found, name):
            importlib.import_module(f"{module}.{name}")
        return getattr(found, name)


def _register() -> None:
    registered = importlib.import_module("keras").saving.get_custom_objects()
    for name, module in SAVED.items():
        # Where its module is imported already, the class has registered itself.
        registered.setdefault(f"stugan_tf>{name}", _later(name, module))


def _later(name: str, module: str) -> type:
    """A class that stands for another one until Keras makes an object of it."""

    def from_config(config: dict) -> Any:
        return imported(module, name).from_config(config)

    return type(name, (), {"from_config": staticmethod(from_config)})


class _AfterKeras(importlib.abc.MetaPathFinder):
    """Calls `_register` when Keras has been imported."""

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if fullname != "keras":
            return None
        # TensorFlow asks where Keras is before it imports it, so this may be called again.
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def exec_module(module: Any) -> None:
                sys.meta_path.remove(self)
                execute(module)
                _register()

            spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec
