"""A topology rule applied to a model: gradients for growth, and topology updates of all layers.

`change_topology` is one update. The GAN loop calls it through `Explorer`, and Keras' `fit` through
`SparseOptimizer`.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from stugan_tf.layers.kernel_mask import KernelMask, kernel_masks
from stugan_tf.layers.masked import check_not_frozen
from stugan_tf.signatures import Seed
from stugan_tf.sparsity.criteria import Criterion
from stugan_tf.sparsity.rule import TopologyRule
from stugan_tf.sparsity.topology import Scores


class TopologyChange(NamedTuple):
    """What a topology update did to one kernel. All tensors have the shape of the kernel."""

    former: tf.Tensor  # The mask before, float32.
    mask: tf.Tensor  # The mask after, float32.
    kept: tf.Tensor  # Ones where the weight kept its value, float32.

    def restarts(self) -> tf.Tensor:
        """Where a weight was dropped, was grown, or starts again from zero; a bool tensor."""
        return (self.former != self.mask) | ((self.mask > 0) & (self.kept == 0))


def wants_hessian_gradient(rule: TopologyRule) -> bool:
    """Whether a criterion of a rule needs H g."""
    return any(
        criterion is not None and Criterion.of(criterion).gradient == "hessian"
        for criterion in (rule.drop_scores, rule.grow_scores)
    )


def change_topology(
    rule: TopologyRule,
    masks: Sequence[KernelMask],
    gradients: Sequence[tf.Tensor | tf.Variable],
    amount: tf.Tensor,
    seed: Seed,
    hessian_gradients: Sequence[tf.Tensor] | None = None,
) -> list[TopologyChange]:
    """Makes one topology update: assigns masks, and zeroes the kernels outside them.

    An inactive weight that grows is zero. The rule says whether a weight that is dropped and grown
    at once keeps its value.

    Args:
        rule: a `TopologyRule`.
        masks: L masks, each with its kernel.
        gradients: L gradients for the criteria, in the shapes of the kernels.
        amount: float64 tensor, the amount of the rule in this step.
        seed: int [2], for random scores.
        hessian_gradients: H g for each kernel, if `wants_hessian_gradient`.

    Returns:
        L changes.
    """
    any_rule: Any = rule

    def scores(criterion: Any, number: int) -> list[tf.Tensor]:
        given: Any = gradients
        if Criterion.of(criterion).gradient == "hessian":
            given = hessian_gradients
        return [
            criterion(
                tf.cast(mask.kernel.value, tf.float32),
                tf.cast(tf.convert_to_tensor(gradient), tf.float32),
                tf.random.experimental.stateless_fold_in(seed, 2 * index + number, alg="philox"),
            )
            for index, (mask, gradient) in enumerate(zip(masks, given, strict=True))
        ]

    # Tensors, because a `tf.function` captures the variables of a `MirroredStrategy`: traced with
    # the mask of one layer, it would use this mask for all layers of the same shape.
    former = [tf.convert_to_tensor(mask.kernel_mask.value) for mask in masks]
    drop = scores(rule.drop_scores, 0)
    grow = None if rule.grow_scores is None else scores(rule.grow_scores, 1)
    updated, kept = any_rule.update(former, Scores(drop, grow), amount)
    changes = list(map(TopologyChange, former, updated, kept))
    for mask, change in zip(masks, changes, strict=True):
        if change.kept is not change.mask:
            mask.kernel.assign(mask.kernel * tf.cast(change.kept, mask.kernel.dtype))
        mask.assign_mask(change.mask)
    return changes


class Explorer:
    """The masks of a network, the rule that changes them, and the state that this needs.

    Attributes:
        masks: the masks of the kernels.
        rule: a `TopologyRule`, or None if the topology stays.
        ever_active: for each masked layer, 1 where a weight was active at any time (ITOP).
        growth_gradients: for each masked layer, the gradient that growth sees; empty if the
            topology does not change.
    """

    def __init__(
        self, model: keras.Model, rule: TopologyRule | None, may_miss: bool = False
    ) -> None:
        """Observes `model`; without a rule it only watches the masks.

        Args:
            model: a network with masks.
            rule: a `TopologyRule` or None.
            may_miss: the step of a topology update may have no gradient, because its update
                overflowed. So the gradients of every step are kept.

        Raises:
            InputError: if a masked layer is frozen.
        """
        self._may_miss = may_miss
        self.masks = kernel_masks(model)
        self.rule = rule
        check_not_frozen(model)
        indices = {id(variable): i for i, variable in enumerate(model.trainable_variables)}
        self._gradient_indices = [indices[id(layer.kernel)] for layer in self.masks]
        self.ever_active = [
            tf.Variable(layer.kernel_mask.value, trainable=False) for layer in self.masks
        ]
        self.growth_gradients = [
            tf.Variable(tf.zeros_like(layer.kernel.value), trainable=False)
            for layer in self.masks
            if rule is not None
        ]

    def state(self) -> list[tf.Variable]:
        """The variables that outlive a step."""
        remembered = self.has_momentum or self._may_miss
        return self.ever_active + (self.growth_gradients if remembered else [])

    @property
    def has_momentum(self) -> bool:
        """Whether growth sees the gradients of all steps, not only of the last one."""
        return self.rule is not None and self.rule.gradient_momentum > 0

    def restart(self, masks: Sequence[tf.Tensor]) -> None:
        """Replaces the masks of all layers, and starts `ever_active` from them."""
        for layer, ever_active, mask in zip(self.masks, self.ever_active, masks, strict=True):
            layer.assign_mask(mask)
            ever_active.assign(mask)

    def norms(self, gradients: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        """The norm of the gradient of each trainable variable, over active weights only.

        Whether inactive weights have a gradient depends on the execution of the layers.
        """
        active = list(gradients)
        for layer, index in zip(self.masks, self._gradient_indices, strict=True):
            active[index] *= layer.kernel_mask.value
        return [tf.norm(gradient) for gradient in active]

    def observe(self, gradients: Sequence[tf.Tensor], grows: tf.Tensor | bool = True) -> None:
        """Keeps the gradients of a step for growth, or averages them with momentum.

        Variables keep them. So a topology update is a small graph of its own, and the step need not
        be compiled twice.

        Args:
            gradients: gradients of all trainable variables of the model, reduced over replicas.
            grows: bool scalar, whether `update` comes next. If not, the gradients are kept only for
                momentum or if they may be missing later (`may_miss`).
        """
        if self.rule is None:
            return
        pairs = [
            (kept, gradients[index])
            for kept, index in zip(self.growth_gradients, self._gradient_indices, strict=True)
        ]
        if self.has_momentum:
            decay = self.rule.gradient_momentum
            for kept, gradient in pairs:
                kept.assign(decay * kept + (1 - decay) * gradient)
            return

        def keep() -> None:
            for kept, gradient in pairs:
                kept.assign(gradient)

        tf.cond(tf.convert_to_tensor(grows | self._may_miss), keep, lambda: None)

    @property
    def wants_hessian_gradient(self) -> bool:
        """Whether a criterion of the rule needs H g."""
        return self.rule is not None and wants_hessian_gradient(self.rule)

    def density(self) -> float:
        """The fraction of ones in all masks together, a Python float."""
        sizes = sum(math.prod(layer.kernel.shape) for layer in self.masks)
        return sum(layer.num_active() for layer in self.masks) / sizes

    def kernel_gradients(self, gradients: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        """The gradients of the masked kernels, taken from those of all trainable variables."""
        return [gradients[index] for index in self._gradient_indices]

    def update(
        self, amount: tf.Tensor, seed: Seed, hessian_gradients: Sequence[tf.Tensor] | None = None
    ) -> list[TopologyChange]:
        """Makes one topology update, see `change_topology`.

        The observed gradients come from before the weight update of this step, the weights from
        after it.

        Args:
            amount: float64 tensor, the amount of the rule in this step, such as the fraction of
                each layer's weights to replace.
            seed: int [2], for random scores.
            hessian_gradients: H g for each masked layer, if `wants_hessian_gradient`.

        Returns:
            The change of each masked layer.
        """
        rule: Any = self.rule
        changes = change_topology(
            rule, self.masks, self.growth_gradients, amount, seed, hessian_gradients
        )
        for ever_active, change in zip(self.ever_active, changes, strict=True):
            ever_active.assign(tf.maximum(ever_active, change.mask))
        return changes
