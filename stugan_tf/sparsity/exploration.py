"""Topology updates of a whole network: when, and how Eq. 3 and Eq. 4 apply to its layers."""

import dataclasses
import math
from collections.abc import Callable

import gin
import tensorflow as tf

from stugan_tf.checks import check_fraction, check_function
from stugan_tf.layers.masked import masked_layers
from stugan_tf.sparsity import criteria, schedules
from stugan_tf.sparsity.rule import PeriodicRule, check_drop_fraction
from stugan_tf.sparsity.topology import prune_and_regrow_per_layer


@gin.configurable
@dataclasses.dataclass(frozen=True)
class Exploration(PeriodicRule):
    """When and how one network drops and regrows weights.

    Attributes:
        update_interval: Delta T, in generator steps.
        start: the first generator step at which an update may happen.
        stop: updates happen before this generator step; None is the end of training. The very
            last step never explores: its new weights would stay untrained.
        drop_fraction: `progress -> fraction`, one of `sparsity.schedules`.
        drop_scores: `(weight, gradient, seed) -> scores`; the smallest are dropped (Eq. 3).
        grow_scores: `(weight, gradient, seed) -> scores`; the largest are grown (Eq. 4).
        update: `prune_and_regrow_per_layer` keeps the count of every layer,
            `prune_and_regrow_globally` only that of the network.
        gradient_momentum: criteria see an average of the gradient of this decay over the steps;
            0 is the gradient of the last batch.
    """

    drop_fraction: Callable = schedules.cosine_drop_fraction
    drop_scores: Callable = criteria.magnitude
    grow_scores: Callable = criteria.gradient_magnitude
    update: Callable = prune_and_regrow_per_layer
    gradient_momentum: float = 0.0

    def __post_init__(self):
        """Checks the values."""
        super().__post_init__()
        check_fraction("Exploration.gradient_momentum", self.gradient_momentum)
        for name in ("drop_fraction", "drop_scores", "grow_scores", "update"):
            check_function(f"Exploration.{name}", getattr(self, name))
        check_drop_fraction("Exploration.drop_fraction", self.drop_fraction)

    def amount(self, moment):
        """The drop fraction p."""
        return self.drop_fraction(moment.progress)

    def new_masks(self, masks, drop_scores, grow_scores, amount):
        """Drops and regrows."""
        return self.update(masks, drop_scores, grow_scores, amount)

    def description(self, total_steps, progress):
        """The number of updates, and the drop fraction from the first to the end."""
        first = self.next_due(0, total_steps)
        return (
            f"{self.num_updates(total_steps)} topology updates, {self.when}; drop fraction "
            f"{self.drop_fraction(progress(first)):.4g} at step {first}, "
            f"{self.drop_fraction(progress(total_steps)):.4g} at the end"
        )


class Explorer:
    """A network whose topology changes, and the state that this needs.

    Attributes:
        layers: the masked layers.
        exploration: a `TopologyRule`, such as an `Exploration`, or None.
        ever_active: per masked layer, 1 where a weight was active at any time (ITOP).
        growth_gradients: per masked layer, the gradient that growth sees; empty if the topology
            does not change.
    """

    def __init__(self, model, exploration, may_miss=False):
        """Observes `model`; with `exploration` None only its masks are watched.

        Args:
            model: a network with masks.
            exploration: a `TopologyRule` or None.
            may_miss: there may be no gradient just when growth is to see it, as an update that
                overflowed has none. So those of every step are kept.
        """
        self._may_miss = may_miss
        self.layers = masked_layers(model)
        self.exploration = exploration
        indices = {id(variable): i for i, variable in enumerate(model.trainable_variables)}
        self._gradient_indices = [indices[id(layer.kernel)] for layer in self.layers]
        self.ever_active = [
            tf.Variable(layer.kernel_mask.value, trainable=False) for layer in self.layers
        ]
        self.growth_gradients = [
            tf.Variable(tf.zeros_like(layer.kernel.value), trainable=False)
            for layer in self.layers
            if exploration is not None
        ]

    def state(self):
        """The variables that outlive a step."""
        remembered = self.has_momentum or self._may_miss
        return self.ever_active + (self.growth_gradients if remembered else [])

    @property
    def has_momentum(self):
        """Whether growth sees the gradients of all steps, not only of the last."""
        return self.exploration is not None and self.exploration.gradient_momentum > 0

    def restart(self, masks):
        """Puts the layers under masks from which exploration counts anew."""
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
            grows: bool scalar, whether `explore` comes next; else only momentum needs them, or
                what may be missed then.
        """
        if self.exploration is None:
            return
        pairs = [
            (kept, gradients[index])
            for kept, index in zip(self.growth_gradients, self._gradient_indices, strict=True)
        ]
        if self.has_momentum:
            decay = self.exploration.gradient_momentum
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
        rule = self.exploration
        return rule is not None and any(
            map(criteria.wants_hessian_gradient, (rule.drop_scores, rule.grow_scores))
        )

    def density(self):
        """The fraction of ones in all masks together, a Python float."""
        sizes = sum(math.prod(layer.kernel.shape) for layer in self.layers)
        return sum(layer.num_active() for layer in self.layers) / sizes

    def kernel_gradients(self, gradients):
        """Of the gradients of all trainable variables those of the masked kernels."""
        return [gradients[index] for index in self._gradient_indices]

    def explore(self, amount, seed, hessian_gradients=None):
        """One topology update: assigns masks, and zeroes the kernels outside them.

        The gradients observed are those from before the weight update of this step, weights are
        those after it. A weight that is dropped and grown at once keeps its value; one that is
        grown anew is zero.

        Args:
            amount: float tensor, what the rule says of this moment, such as the fraction of each
                layer's weights to replace.
            seed: int [2], for random scores.
            hessian_gradients: per masked layer H g, if `wants_hessian_gradient`.
        """
        rule = self.exploration
        # Tensors, because a `tf.function` captures the variables of a `MirroredStrategy`: traced
        # with the mask of one layer, it would serve that mask to all others of its shape.
        masks = [tf.convert_to_tensor(layer.kernel_mask.value) for layer in self.layers]
        drop_scores = self._scores(rule.drop_scores, seed, 0, hessian_gradients)
        grow_scores = None
        if rule.grow_scores is not None:
            grow_scores = self._scores(rule.grow_scores, seed, 1, hessian_gradients)
        updated = rule.new_masks(masks, drop_scores, grow_scores, amount)
        for layer, ever_active, mask in zip(self.layers, self.ever_active, updated, strict=True):
            layer.assign_mask(mask)
            ever_active.assign(tf.maximum(ever_active, mask))

    def _scores(self, criterion, seed, number, hessian_gradients):
        """The scores of all layers by a criterion, `number` 0 or 1 of the two."""
        gradients = self.growth_gradients
        if criteria.wants_hessian_gradient(criterion):
            gradients = hessian_gradients
        return [
            criterion(
                layer.kernel.value,
                tf.convert_to_tensor(gradient),
                tf.random.experimental.stateless_fold_in(seed, 2 * index + number, alg="philox"),
            )
            for index, (layer, gradient) in enumerate(zip(self.layers, gradients, strict=True))
        ]
