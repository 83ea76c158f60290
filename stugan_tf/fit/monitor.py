"""`TopologyMonitor`: what happens to the masks during `fit`, in the logs."""

from typing import Any

import keras
import tensorflow as tf

from stugan_tf.checks import check_bool
from stugan_tf.errors import InputError
from stugan_tf.fit.optimizer import SparseOptimizer
from stugan_tf.layers.paths import unique
from stugan_tf.sparsity.exploration_rate import churn, exploration_rate


class TopologyMonitor(keras.callbacks.Callback):
    """Tells `SparseOptimizer` how long the training is, and logs how the masks change.

    After each epoch the logs have

    - `density`: the fraction of ones in all masks;
    - `density/<layer>`: the same for each mask, if `per_layer`;
    - `churn`: the fraction of the active weights that were not active one epoch before;
    - `exploration_rate`: R_s, the fraction of weights that have been active at any time (ITOP).

    So the history, `CSVLogger` and `TensorBoard` have them, too. Callbacks see what those before
    them have logged: put the monitor first. Unless `verbose=0`, it prints one line about the
    updates to come when `fit` begins.

    Args:
        per_layer: log the density of each mask. The progress bar shows all that is logged.

    Raises:
        InputError: when `fit` begins, if the model was not compiled with a `SparseOptimizer`, or
            the topology cannot be planned for this training.
    """

    def __init__(self, per_layer: bool = True) -> None:
        super().__init__()
        check_bool("TopologyMonitor.per_layer", per_layer)
        self._per_layer = per_layer
        self._optimizer: Any = None
        self._is_planned = False
        self._former: list[tf.Tensor] = []

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Finds the optimizer, and builds it if need be."""
        del logs
        self._optimizer = _sparse_optimizer(self.model.optimizer)
        if not self.model.optimizer.built:
            with self.model.distribute_strategy.scope():
                self.model.optimizer.build(self.model.trainable_variables)
        self._is_planned = False

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Before the first epoch: plans the training, which others may have resumed by now."""
        del logs
        if self._is_planned:
            return
        optimizer = self._optimizer
        optimizer.expect(self.params["epochs"] - epoch, self.params["steps"])
        self._is_planned = True
        self._former = self._masks()
        total = optimizer.total_steps
        if self.params.get("verbose") and not optimizer.rule.is_static:
            described = optimizer.rule.description(total, lambda step: step / total)
            print(f"Topology: {described} (of {total} steps).")

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Adds densities, churn and R_s to the logs."""
        del epoch
        masks = self._masks()
        if logs is not None:
            logs["density"] = _density(_joined(masks))
            if self._per_layer:
                names = unique(mask.name for mask in self._optimizer.masks)
                logs.update(
                    {f"density/{name}": _density(m) for name, m in zip(names, masks, strict=True)}
                )
            _, rate = exploration_rate(list(map(_tensor, self._optimizer.ever_active)))
            logs["churn"] = float(churn(_joined(self._former), _joined(masks)))
            logs["exploration_rate"] = float(rate)
        self._former = masks

    def _masks(self) -> list[tf.Tensor]:
        return [_tensor(mask.kernel_mask) for mask in self._optimizer.masks]


def _sparse_optimizer(optimizer: Any) -> SparseOptimizer:
    """The `SparseOptimizer` of a model, which compile may have wrapped in a loss scale."""
    found = optimizer
    while not isinstance(found, SparseOptimizer):
        if not hasattr(found, "inner_optimizer"):
            raise InputError(
                "TopologyMonitor shows what a SparseOptimizer does, but the model was compiled "
                f"with {type(optimizer).__name__}. Write "
                "model.compile(st.SparseOptimizer(keras.optimizers.AdamW(1e-3), rule), ...)."
            )
        found = found.inner_optimizer
    return found


def _tensor(variable: keras.Variable) -> tf.Tensor:
    """A copy of the value that a variable has now."""
    return tf.identity(tf.convert_to_tensor(variable.value))


def _joined(tensors: list[tf.Tensor]) -> tf.Tensor:
    return tf.concat([tf.reshape(tensor, [-1]) for tensor in tensors], axis=0)


def _density(mask: tf.Tensor) -> float:
    return float(tf.math.count_nonzero(mask) / tf.size(mask, out_type=tf.int64))
