"""A topology rule applied to a model: gradients for growth, and topology updates of all layers."""

import math
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from stugan_tf.layers.masked import check_not_frozen, masked_layers
from stugan_tf.signatures import Seed
from stugan_tf.sparsity.criteria import Criterion
from stugan_tf.sparsity.rule import TopologyRule
from stugan_tf.sparsity.topology import Scores


class Explorer:
    """The masks of a network, the rule that changes them, and the state that this needs.

    Attributes:
        layers: the masked layers.
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
        self.layers = masked_layers(model)
        self.rule = rule
        check_not_frozen(model)
        indices = {id(variable): i for i, variable in enumerate(model.trainable_variables)}
        self._gradient_indices = [indices[id(layer.kernel)] for layer in self.layers]
        self.ever_active = [
            tf.Variable(layer.kernel_mask.value, trainable=False) for layer in self.layers
        ]
        self.growth_gradients = [
            tf.Variable(tf.zeros_like(layer.kernel.value), trainable=False)
            for layer in self.layers
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
        for layer, ever_active, mask in zip(self.layers, self.ever_active, masks, strict=True):
            layer.assign_mask(mask)
            ever_active.assign(mask)

    def norms(self, gradients: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        """The norm of the gradient of each trainable variable, over active weights only.

        Whether inactive weights have a gradient depends on the execution of the layers.
        """
        active = list(gradients)
        for layer, index in zip(self.layers, self._gradient_indices, strict=True):
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
        return self.rule is not None and any(
            criterion is not None and Criterion.of(criterion).gradient == "hessian"
            for criterion in (self.rule.drop_scores, self.rule.grow_scores)
        )

    def density(self) -> float:
        """The fraction of ones in all masks together, a Python float."""
        sizes = sum(math.prod(layer.kernel.shape) for layer in self.layers)
        return sum(layer.num_active() for layer in self.layers) / sizes

    def kernel_gradients(self, gradients: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        """The gradients of the masked kernels, taken from those of all trainable variables."""
        return [gradients[index] for index in self._gradient_indices]

    def update(
        self, amount: tf.Tensor, seed: Seed, hessian_gradients: Sequence[tf.Tensor] | None = None
    ) -> None:
        """Makes one topology update: assigns masks, and zeroes the kernels outside them.

        The observed gradients come from before the weight update of this step, the weights from
        after it. An inactive weight that grows is zero. The rule says whether a weight that is
        dropped and grown at once keeps its value.

        Args:
            amount: float64 tensor, the amount of the rule in this step, such as the fraction of
                each layer's weights to replace.
            seed: int [2], for random scores.
            hessian_gradients: H g for each masked layer, if `wants_hessian_gradient`.
        """
        rule: Any = self.rule
        # Tensors, because a `tf.function` captures the variables of a `MirroredStrategy`: traced
        # with the mask of one layer, it would use this mask for all layers of the same shape.
        masks = [tf.convert_to_tensor(layer.kernel_mask.value) for layer in self.layers]
        drop = self._scores(rule.drop_scores, seed, 0, hessian_gradients)
        grow = None
        if rule.grow_scores is not None:
            grow = self._scores(rule.grow_scores, seed, 1, hessian_gradients)
        updated, kept = rule.update(masks, Scores(drop, grow), amount)
        for layer, ever_active, mask, keeps in zip(
            self.layers, self.ever_active, updated, kept, strict=True
        ):
            if keeps is not mask:
                layer.kernel.assign(layer.kernel * keeps)
            layer.assign_mask(mask)
            ever_active.assign(tf.maximum(ever_active, mask))

    def _scores(
        self,
        criterion: Any,
        seed: Seed,
        number: int,
        hessian_gradients: Sequence[tf.Tensor] | None,
    ) -> list[tf.Tensor]:
        """The scores of all layers by a criterion; `number` is 0 for drop and 1 for grow scores."""
        gradients: Any = self.growth_gradients
        if Criterion.of(criterion).gradient == "hessian":
            gradients = hessian_gradients
        return [
            criterion(
                layer.kernel.value,
                tf.convert_to_tensor(gradient),
                tf.random.experimental.stateless_fold_in(seed, 2 * index + number, alg="philox"),
            )
            for index, (layer, gradient) in enumerate(zip(self.layers, gradients, strict=True))
        ]
