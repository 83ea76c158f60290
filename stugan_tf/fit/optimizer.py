"""`SparseOptimizer`: any optimizer of Keras, and a topology rule that changes the masks in `fit`.

The order is that of the GAN loop: weights are updated first, then the topology by the gradients of
the same step. The function that changes it is the same, too (`change_topology`).
"""

import contextlib
import warnings
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from stugan_tf.adapters import optimizer_internals
from stugan_tf.checks import check_positive, check_seed
from stugan_tf.errors import InputError
from stugan_tf.fit.topology import MaskedTopology
from stugan_tf.fit.updates import TopologyUpdates, planned_updates
from stugan_tf.layers.kernel_mask import KernelMask, masks_of
from stugan_tf.randomness import fold
from stugan_tf.sparsity.explorer import wants_hessian_gradient
from stugan_tf.sparsity.rule import TopologyRule, check_slots
from stugan_tf.training.optimizers import check_restarts

# What they do to a weight depends on no other weight.
_WEIGHT_BY_WEIGHT = (
    keras.optimizers.SGD,
    keras.optimizers.RMSprop,
    keras.optimizers.Adagrad,
    keras.optimizers.Adadelta,
    keras.optimizers.Adam,
    keras.optimizers.AdamW,
    keras.optimizers.Adamax,
    keras.optimizers.Nadam,
    keras.optimizers.Ftrl,
    keras.optimizers.Lion,
)

# For each mask the optimizer that changes it.
_changed_by: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()


@keras.saving.register_keras_serializable("stugan_tf")
class SparseOptimizer(keras.optimizers.Optimizer):
    """Updates weights by any optimizer of Keras, and masks by a topology rule.

        model = st.sparsify(model, 0.9)
        rule = st.RigL(update_interval=100)
        model.compile(st.SparseOptimizer(keras.optimizers.AdamW(1e-3), rule), "mse")
        model.fit(x, y, epochs=5, callbacks=[st.TopologyMonitor()])

    All happens inside the compiled train step. The rule is asked for all its updates before the
    first step, so the length of the training must be known: from `total_steps`, or from a
    `TopologyMonitor`. A step is an update of the weights. With `gradient_accumulation_steps` of the
    inner optimizer it takes so many batches. A step that a `LossScaleOptimizer` skips (outside or
    inside) changes no mask and does not count. Growth sees the gradient of the loss before any
    clipping, averaged over the batches of the step and reduced over replicas.

    `rule.slots` says what happens to the slots of the inner optimizer, such as moments, where
    weights are dropped or grown (see `TopologyRule`). Where the inner optimizer averages weights
    (`use_ema`), the averages of new weights start from zero.

    Attributes:
        inner_optimizer: the optimizer of the weights.
        rule: the `TopologyRule`.
        total_steps: the steps of the whole training, or None while they are not known.
        seed: the seed of random scores.

    Args:
        inner: a `keras.optimizers.Optimizer` that was not used before.
        rule: a `TopologyRule`.
        total_steps: the number of weight updates of the whole training, in all calls of `fit`
            together. None: `TopologyMonitor` tells it when `fit` begins.
        seed: the seed of random scores, from 0 to 2**63 - 1.
        name: name of the optimizer.

    Raises:
        InputError: if an argument is impossible. When the optimizer is built or first applied: if
            the model has no masks, if another `SparseOptimizer` changes them, if the length of the
            training is not known, or if the rule cannot be followed.
    """

    def __init__(
        self,
        inner: keras.optimizers.Optimizer,
        rule: TopologyRule,
        total_steps: int | None = None,
        seed: int = 0,
        name: str = "sparse_optimizer",
    ) -> None:
        _check_inner(inner)
        _check_rule(rule, _innermost(inner))
        check_seed("SparseOptimizer.seed", seed)
        if total_steps is not None:
            check_positive("SparseOptimizer.total_steps", total_steps)
        super().__init__(learning_rate=0.0, name=name)
        self.inner_optimizer = inner
        self.rule = rule
        self.total_steps = total_steps
        self.seed = seed
        self._updates: TopologyUpdates | None = None
        self._stored_steps: int | None = None
        self._has_scaled_loss = False
        self._has_masks = False
        # What Keras' own optimizers do to a weight comes before its constraint.
        self._keeps_zeros = all(type(one).__module__.startswith("keras.") for one in _all(inner))
        if total_steps is not None:
            self._updates = planned_updates(rule, total_steps)

    # The length of the training.

    def expect(self, num_epochs: int, steps_per_epoch: int | None) -> None:
        """Tells how long the training goes on from here; `TopologyMonitor` calls it.

        Args:
            num_epochs: epochs to come.
            steps_per_epoch: train steps of an epoch, or None if nobody knows.

        Raises:
            InputError: if the training would be longer than the rule was asked for, or nobody knows
                its length.
        """
        if steps_per_epoch is None:
            if self.total_steps is None:
                raise InputError(
                    "The number of steps in an epoch is not known, because the data do not say how "
                    "many batches they have. Give `steps_per_epoch` to fit, or the steps of the "
                    "whole training to SparseOptimizer(..., total_steps=...)."
                )
            return
        every = _innermost(self).gradient_accumulation_steps or 1
        end = int(self._step()) + num_epochs * steps_per_epoch // every
        if self.total_steps is None:
            if not end:
                raise InputError(
                    f"{num_epochs} epochs of {steps_per_epoch} batches update no weight, because "
                    f"gradients of {every} batches are accumulated. Train longer."
                )
            self.total_steps = end
        # A backup made within an epoch is resumed at the start of this epoch.
        elif end - self.total_steps >= max(steps_per_epoch // every, 1):
            raise InputError(
                f"This training would go on to step {end:,}, but the topology was planned for "
                f"{self.total_steps:,} steps when it began. Give the steps of all calls of fit "
                f"together from the start, SparseOptimizer(..., total_steps={end}), or compile the "
                "model with a new SparseOptimizer, which starts a new plan."
            )
        self._plan()

    def _plan(self) -> TopologyUpdates:
        """The updates of the whole training. Raises InputError if they are not known."""
        if self.total_steps is None:
            raise InputError(
                "SparseOptimizer does not know how many steps the training has. Write "
                "fit(..., callbacks=[st.TopologyMonitor()]), which tells it, or "
                "SparseOptimizer(..., total_steps=...)."
            )
        if self._stored_steps not in (None, self.total_steps):
            raise InputError(
                f"The weights that were loaded come from a training of {self._stored_steps:,} "
                f"steps, but SparseOptimizer was told {self.total_steps:,}. To go on with it, set "
                f"total_steps={self._stored_steps}. To begin a new training with these weights, "
                "compile the model with a new SparseOptimizer after loading them."
            )
        if self._updates is None:
            self._updates = planned_updates(self.rule, self.total_steps)
        return self._updates

    # One step.

    def build(self, variables: Sequence[keras.Variable]) -> None:
        """Builds the inner optimizer, and the variables of the topology.

        Args:
            variables: the trainable variables of a model with masks. Masks of frozen layers stay.

        Raises:
            InputError: if no variable is under a mask, or the slots of the inner optimizer cannot
                be treated as the rule says.
        """
        if self.built:
            return
        masks = masks_of(variables)
        if not masks:
            raise InputError(
                "SparseOptimizer found no mask on the trainable variables of the model. Give the "
                "model masks first, model = st.sparsify(model, 0.9), and leave the masked layers "
                "trainable."
            )
        _check_new(self.inner_optimizer)
        # Keras may build it while it traces a step. XLA wants variables that exist before; a
        # strategy creates its variables in the trace.
        with contextlib.nullcontext() if tf.distribute.has_strategy() else tf.init_scope():
            self._create(masks, variables)
            super().build(variables)

    def _create(self, masks: Sequence[KernelMask], variables: Sequence[keras.Variable]) -> None:
        """Builds the inner optimizer and the topology."""
        innermost = _innermost(self)
        with optimizer_internals.recorded_slots(innermost) as slots:
            self.inner_optimizer.build(variables)
        if self.rule.slots != "keep":
            check_restarts(innermost, slots)
        self._topology = MaskedTopology(self, self.rule, masks, slots)
        self._positions = {id(variable): i for i, variable in enumerate(variables)}
        for mask in masks:
            mask.needs_gradient_of_zeros = _asking(weakref.ref(self))
        if self.rule.slots == "age":
            positions = [self._positions[id(mask.kernel)] for mask in masks]
            optimizer_internals.count_from(
                innermost, dict(zip(positions, self._topology.births, strict=True))
            )

    @tf.autograph.experimental.do_not_convert
    def apply(
        self, grads: Sequence[Any], trainable_variables: Sequence[keras.Variable] | None = None
    ) -> None:
        """Updates the weights, then the masks if the rule is due.

        Args:
            grads: a gradient for each variable, or None.
            trainable_variables: the variables. None means those of `build`.

        Raises:
            InputError: see the class.
        """
        if trainable_variables is not None and not self.built:
            with keras.name_scope(self.name, caller=self):
                self.build(list(trainable_variables))
        updates = self._plan()
        self._take_masks()
        gradients = self._kernel_gradients(grads, trainable_variables)
        before = tf.identity(self._step())
        self.inner_optimizer.apply(grads, trainable_variables)
        if not self._keeps_zeros:
            self._zero_again()
        is_made = self._step() > before  # A loss scale, or accumulation, may have skipped it.
        if self.rule.gradient_momentum:
            self._topology.average(_summed(gradients), is_made)
        if len(updates.steps):
            is_due, _ = updates.at(self._step())
            self._change_if(is_due & is_made, gradients)

    def needs_gradient_of_zeros(self) -> bool | tf.Tensor:
        """Whether the next update needs the gradient of weights outside their masks.

        Layers in sparse execution ask. If not, they leave it zero, which saves time. The growth of
        weights needs it, and so does an optimizer that lets inactive weights influence others.
        """
        rule, innermost = self.rule, _innermost(self)
        grows = rule.grow_scores is not None and not rule.is_static
        if (
            type(innermost) not in _WEIGHT_BY_WEIGHT
            or innermost.clipnorm
            or innermost.global_clipnorm
            or (grows and (rule.slots == "keep" or rule.gradient_momentum))
            or self.total_steps is None
        ):
            return True
        updates = self._plan()
        return updates.at(self._step() + 1)[0] if grows and len(updates.steps) else False

    def _kernel_gradients(
        self, grads: Sequence[Any], variables: Sequence[keras.Variable] | None
    ) -> list[tf.Tensor]:
        """The gradients of the masked kernels on this replica, over all batches of the step."""
        inner, innermost = self.inner_optimizer, _innermost(self)
        scale = innermost.loss_scale_factor
        if isinstance(inner, keras.optimizers.LossScaleOptimizer):
            if not self._has_scaled_loss:
                raise InputError(
                    "The inner LossScaleOptimizer divides gradients by a scale, but the loss was "
                    "not multiplied by it. In a loop of your own call optimizer.scale_loss(loss). "
                    "In a model of mixed_float16, compile adds a LossScaleOptimizer by itself: "
                    "give it SparseOptimizer without one inside."
                )
            scale = tf.convert_to_tensor(inner.dynamic_scale)
        positions: list[int | None] = list(range(len(grads)))
        if variables is not None:
            positions = [self._positions.get(id(variable)) for variable in variables]
            if None in positions:
                raise InputError(
                    "SparseOptimizer was built for other variables than it is applied to. Layers "
                    "were frozen, made trainable or added since. Compile the model again with a "
                    "new SparseOptimizer."
                )
        of_position = dict(zip(positions, grads, strict=True))
        kernels = [mask.kernel for mask in self.masks]
        sums = optimizer_internals.accumulated_gradients(innermost, kernels)
        gradients = []
        for kernel, former in zip(kernels, sums, strict=True):
            gradient = of_position.get(self._positions[id(kernel)])
            gradient = tf.zeros(kernel.shape) if gradient is None else gradient
            gradient = tf.convert_to_tensor(gradient)  # Of embeddings they are IndexedSlices.
            if scale is not None:
                gradient = gradient / scale
            if former is not None:
                gradient = (gradient + former) / innermost.gradient_accumulation_steps
            gradients.append(gradient)
        return gradients

    def _change_if(self, is_due: tf.Tensor, gradients: list[tf.Tensor]) -> None:
        """Changes the topology if `is_due`; call it on each replica."""

        def nothing() -> None:
            pass

        @tf.autograph.experimental.do_not_convert
        def together(strategy: tf.distribute.Strategy, is_due: Any, gradients: Any) -> None:
            def change() -> None:
                pairs = [(gradient, gradient) for gradient in gradients]
                sums = strategy.extended.batch_reduce_to(tf.distribute.ReduceOp.SUM, pairs)
                strategy.extended.call_for_each_replica(self._change, args=(sums,))

            # All replicas have the same answer. Only before they part again may they meet.
            tf.cond(strategy.experimental_local_results(is_due)[0], change, nothing)

        if _num_replicas() > 1 and optimizer_internals.must_merge_replicas():
            context = tf.distribute.get_replica_context()
            context.merge_call(together, args=(is_due, gradients))
        else:
            sums = _summed(gradients)
            tf.cond(is_due, lambda: self._change(sums), nothing)

    @tf.autograph.experimental.do_not_convert
    def _change(self, gradients: Sequence[tf.Tensor]) -> None:
        step = self._step()
        _, amount = self._plan().at(step)
        self._topology.change(gradients, step, amount, fold((self.seed, 0), step))

    def _step(self) -> tf.Tensor:
        """The number of weight updates made, an int64 scalar."""
        return tf.cast(tf.convert_to_tensor(self.iterations), tf.int64)

    def _take_masks(self) -> None:
        """Raises InputError if another SparseOptimizer changes the masks, too."""
        for mask in self.masks:
            other = _changed_by.get(mask, lambda: None)()
            if other is self:
                continue
            if other is not None and (self._has_masks or not other.has_begun):
                raise InputError(
                    f"Two SparseOptimizers change the mask of layer {mask.name!r}. A mask belongs "
                    "to one optimizer: give all variables of the model to one SparseOptimizer, or "
                    "leave shared layers out of the second model (trainable = False)."
                )
            _changed_by[mask] = weakref.ref(self)
        self._has_masks = True

    # What else Keras asks of an optimizer.

    @property
    def has_begun(self) -> bool:
        """Whether a step was made; call it outside of compiled functions or inside."""
        with tf.init_scope():
            return self.built and int(self._step()) > 0

    @property
    def masks(self) -> list[KernelMask]:
        """The masks that the rule changes."""
        return self._topology.masks

    @property
    def ever_active(self) -> list[keras.Variable]:
        """For each mask, 1 where a weight was active at any time (ITOP)."""
        return self._topology.ever_active

    @property
    def variables(self) -> list[keras.Variable]:
        """All variables, with those of the inner optimizer."""
        return super().variables + self.inner_optimizer.variables

    @property
    def iterations(self) -> Any:
        """The number of weight updates made."""
        return self.inner_optimizer.iterations

    @property
    def learning_rate(self) -> Any:
        """The learning rate of the inner optimizer."""
        return self.inner_optimizer.learning_rate

    @learning_rate.setter
    def learning_rate(self, learning_rate: Any) -> None:
        self.inner_optimizer.learning_rate = learning_rate

    @property
    def loss_scale_factor(self) -> float | None:
        """The constant loss scale of the inner optimizer, or None."""
        # Keras asks for it, and sets it, before there is an inner optimizer.
        innermost = _innermost(self)
        return None if innermost is self else innermost.loss_scale_factor

    @loss_scale_factor.setter
    def loss_scale_factor(self, factor: float | None) -> None:
        innermost = _innermost(self)
        if innermost is not self:
            innermost.loss_scale_factor = factor

    def scale_loss(self, loss: tf.Tensor) -> tf.Tensor:
        """Scales the loss as the inner optimizer wants it."""
        self._has_scaled_loss = True
        return self.inner_optimizer.scale_loss(loss)

    def exclude_from_weight_decay(self, var_list: Any = None, var_names: Any = None) -> None:
        """Excludes variables from the weight decay of the inner optimizer."""
        _innermost(self).exclude_from_weight_decay(var_list, var_names)

    def finalize_variable_values(self, var_list: Sequence[keras.Variable]) -> None:
        """Lets the inner optimizer set the last values of the weights."""
        self.inner_optimizer.finalize_variable_values(var_list)
        self._zero_again()

    def _zero_again(self) -> None:
        for mask in self.masks if self.built else ():
            mask.kernel.assign(mask(mask.kernel))

    @property
    def _model_variables_moving_average(self) -> list[keras.Variable]:
        # `keras.callbacks.SwapEMAWeights` looks for the averages in the optimizer within a
        # LossScaleOptimizer. An AttributeError tells it that there are none.
        return _innermost(self)._model_variables_moving_average

    def save_own_variables(self, store: Any) -> None:
        """Saves the state of the topology; Keras saves the inner optimizer by itself."""
        for index, variable in enumerate(super().variables):
            store[str(index)] = variable.numpy()
        store["total_steps"] = np.array(self.total_steps or 0, np.int64)

    def load_own_variables(self, store: Any) -> None:
        """Loads what `save_own_variables` has saved."""
        own = super().variables
        if set(store.keys()) != {"total_steps", *map(str, range(len(own)))}:
            warnings.warn(
                f"The state of {self.name} was not loaded: what was saved comes from another "
                "optimizer, rule or model. The topology goes on from the masks alone.",
                stacklevel=2,
            )
            return
        for index, variable in enumerate(own):
            variable.assign(store[str(index)])
        self._stored_steps = int(np.array(store["total_steps"])) or None
        if self.total_steps is None:
            self.total_steps = self._stored_steps

    def get_config(self) -> dict[str, Any]:
        """The arguments of the constructor, as plain data."""
        return {
            "name": self.name,
            "inner": keras.saving.serialize_keras_object(self.inner_optimizer),
            "rule": keras.saving.serialize_keras_object(self.rule),
            "total_steps": self.total_steps,
            "seed": self.seed,
        }

    @classmethod
    def from_config(
        cls, config: dict[str, Any], custom_objects: dict[str, Any] | None = None
    ) -> "SparseOptimizer":
        """An optimizer with these arguments."""
        objects = {
            name: keras.saving.deserialize_keras_object(config[name], custom_objects=custom_objects)
            for name in ("inner", "rule")
        }
        return cls(**{**config, **objects})


def _innermost(optimizer: Any) -> Any:
    """The optimizer inside all wrappers."""
    while "inner_optimizer" in vars(optimizer):
        optimizer = optimizer.inner_optimizer
    return optimizer


def _all(optimizer: Any) -> Iterator[Any]:
    """An optimizer and those inside it."""
    yield optimizer
    yield from getattr(optimizer, "optimizers", ())  # Of a MultiOptimizer.
    if "inner_optimizer" in vars(optimizer):
        yield from _all(optimizer.inner_optimizer)


def _asking(optimizer: "weakref.ref[SparseOptimizer]") -> Callable[[], bool | tf.Tensor]:
    """Asks an optimizer whether it needs the gradient of zeros, as long as it is there."""

    def needs_gradient_of_zeros() -> bool | tf.Tensor:
        asked = optimizer()
        return True if asked is None else asked.needs_gradient_of_zeros()

    return needs_gradient_of_zeros


def _num_replicas() -> int:
    return tf.distribute.get_strategy().num_replicas_in_sync


def _summed(gradients: list[tf.Tensor]) -> list[tf.Tensor]:
    """Sums over replicas; call it on each replica. The loss of `fit` is divided by their number."""
    if _num_replicas() == 1:
        return gradients
    # A reduction runs on the device of its input, but gradients may have no device yet.
    gradients = list(map(tf.identity, gradients))
    return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, gradients)


def _check_inner(inner: Any) -> None:
    if not isinstance(inner, keras.optimizers.Optimizer):
        raise InputError(
            "SparseOptimizer.inner must be an optimizer of Keras, such as "
            f"keras.optimizers.AdamW(1e-3), got {inner!r}."
        )
    wrapped = inner
    while wrapped is not None:
        if isinstance(wrapped, SparseOptimizer):
            raise InputError(
                "SparseOptimizer.inner is, or has inside, a SparseOptimizer. Wrap an optimizer "
                "once: give it the optimizer of the weights."
            )
        wrapped = vars(wrapped).get("inner_optimizer")
    _check_new(inner)


def _check_new(inner: Any) -> None:
    if inner.built or _innermost(inner).built:
        raise InputError(
            f"SparseOptimizer.inner, the {type(inner).__name__} {inner.name!r}, already belongs to "
            "other variables. Give a new optimizer."
        )


def _check_rule(rule: Any, innermost: keras.optimizers.Optimizer) -> None:
    if not isinstance(rule, TopologyRule):
        raise InputError(
            "SparseOptimizer.rule must be a TopologyRule, such as st.RigL(), got "
            f"{rule!r}. For masks that stay, use the inner optimizer by itself."
        )
    kind = type(rule).__name__
    check_slots(f"{kind}.slots", rule.slots)
    if rule.needs_balance_ratio:
        raise InputError(
            f"{kind} follows the balance of two networks, which only a GAN has. Use another rule, "
            "such as st.RigL(), or train with stugan_tf.Training."
        )
    if not rule.is_static and hasattr(rule, "drop_scores") and wants_hessian_gradient(rule):
        raise InputError(
            f"A criterion of {kind} needs second derivatives (gradient='hessian'), which an "
            "optimizer does not see. Use another criterion, such as magnitude."
        )
    if rule.slots == "age" and type(innermost) not in (
        keras.optimizers.Adam,
        keras.optimizers.AdamW,
    ):
        raise InputError(
            f"{kind}.slots = 'age' counts the bias correction of Adam and AdamW for each weight, "
            f"but the optimizer is {type(innermost).__name__}. Set slots = 'zero'."
        )
