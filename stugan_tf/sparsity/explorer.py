"""A topology rule applied to a model: what growth sees, and topology updates of all its layers."""

import math

import tensorflow as tf

from stugan_tf.layers.masked import masked_layers
from stugan_tf.sparsity.criteria import Criterion
from stugan_tf.sparsity.topology import Scores


class Explorer:
    """The masks of a network, what changes them, and the state that this needs.

    Attributes:
        layers: the masked layers.
        rule: a `TopologyRule`, or None if the topology stays.
        ever_active: per masked layer, 1 where a weight was active at any time (ITOP).
        growth_gradients: per masked layer, the gradient that growth sees; empty if the topology
            does not change.
    """

    def __init__(self, model, rule, may_miss=False):
        """Observes `model`; without a rule only its masks are watched.

        Args:
            model: a network with masks.
            rule: a `TopologyRule` or None.
            may_miss: there may be no gradient just when growth is to see it, as an update that
                overflowed has none. So those of every step are kept.
        """
        self._may_miss = may_miss
        self.layers = masked_layers(model)
        self.rule = rule
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

    def state(self):
        """The variables that outlive a step."""
        remembered = self.has_momentum or self._may_miss
        return self.ever_active + (self.growth_gradients if remembered else [])

    @property
    def has_momentum(self):
        """Whether growth sees the gradients of all steps, not only of the last."""
        return self.rule is not None and self.rule.gradient_momentum > 0

    def restart(self, masks):
        """Puts the layers under new masks, and counts what was ever active from there."""
        for layer, ever_active, mask in zip(self.layers, self.ever_active, masks, strict=True):
            layer.assign_mask(mask)
            ever_active.assign(mask)

    def norms(self, gradients):
        """The norms of the gradients of all trainable variables, of active weights only.

        Others have a gradient or not, as the layers' execution has it.
        """
        active = list(gradients)
        for layer, index in zip(self.layers, self._gradient_indices, strict=True):
            active[index] *= layer.kernel_mask.value
        return [tf.norm(gradient) for gradient in active]

    def observe(self, gradients, grows=True):
        """Keeps the gradients of a step for growth, or averages them if momentum asks for it.

        Kept in variables, so that a topology update is a small graph of its own beside the
        compiled step instead of a second version of it.

        Args:
            gradients: of all trainable variables of the model, reduced over replicas.
            grows: bool scalar, whether `update` comes next; else only momentum needs them, or
                what may be missed then.
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

        def keep():
            for kept, gradient in pairs:
                kept.assign(gradient)

        tf.cond(tf.convert_to_tensor(grows | self._may_miss), keep, lambda: None)

    @property
    def wants_hessian_gradient(self):
        """Whether a criterion of its topology updates is to be given H g."""
        return self.rule is not None and any(
            criterion is not None and Criterion.of(criterion).gradient == "hessian"
            for criterion in (self.rule.drop_scores, self.rule.grow_scores)
        )

    def density(self):
        """The fraction of ones in all masks together, a Python float."""
        sizes = sum(math.prod(layer.kernel.shape) for layer in self.layers)
        return sum(layer.num_active() for layer in self.layers) / sizes

    def kernel_gradients(self, gradients):
        """The gradients of the masked kernels, out of those of all trainable variables."""
        return [gradients[index] for index in self._gradient_indices]

    def update(self, amount, seed, hessian_gradients=None):
        """One topology update: assigns masks, and zeroes the kernels outside them.

        The gradients observed are those from before the weight update of this step, weights are
        those after it. A weight that was inactive and grows is zero. What is dropped and grown at
        once keeps its value or not, as the rule says.

        Args:
            amount: float64 tensor, what the rule says of this step, such as the fraction of each
                layer's weights to replace.
            seed: int [2], for random scores.
            hessian_gradients: per masked layer H g, if `wants_hessian_gradient`.
        """
        rule = self.rule
        # Tensors, because a `tf.function` captures the variables of a `MirroredStrategy`: traced
        # with the mask of one layer, it would serve that mask to all others of its shape.
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

    def _scores(self, criterion, seed, number, hessian_gradients):
        """The scores of all layers by a criterion, `number` 0 or 1 of the two."""
        gradients = self.growth_gradients
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
