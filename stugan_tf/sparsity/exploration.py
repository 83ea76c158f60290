"""Topology updates of a whole network: when, and how Eq. 3 and Eq. 4 apply to its layers."""

import dataclasses
from collections.abc import Callable

import gin
import tensorflow as tf

from stugan_tf.errors import InputError
from stugan_tf.layers.masked import masked_layers
from stugan_tf.sparsity import criteria, schedules
from stugan_tf.sparsity.topology import prune_and_regrow_per_layer


@gin.configurable
@dataclasses.dataclass(frozen=True)
class Exploration:
    """When and how one network drops and regrows weights.

    Attributes:
        update_interval: Delta T, in generator steps.
        drop_fraction: `progress -> fraction`, one of `sparsity.schedules`.
        drop_scores: `(weight, gradient, seed) -> scores`; the smallest are dropped (Eq. 3).
        grow_scores: `(weight, gradient, seed) -> scores`; the largest are grown (Eq. 4).
        update: `prune_and_regrow_per_layer` keeps the count of every layer,
            `prune_and_regrow_globally` only that of the network.
        gradient_momentum: growth sees an average of the gradient of this decay over the steps;
            0 is the gradient of the last batch.
        start: the first generator step at which an update may happen.
        stop: updates happen before this generator step; None is the end of training. The very
            last step never explores: its new weights would stay untrained.
    """

    update_interval: int = 1000
    drop_fraction: Callable = schedules.cosine_drop_fraction
    drop_scores: Callable = criteria.magnitude
    grow_scores: Callable = criteria.gradient_magnitude
    update: Callable = prune_and_regrow_per_layer
    gradient_momentum: float = 0.0
    start: int = 0
    stop: int | None = None

    def __post_init__(self):
        """Checks the values."""
        if self.update_interval < 1:
            raise InputError(
                f"Exploration.update_interval must be at least 1 generator step, got "
                f"{self.update_interval}. To explore never, set the exploration itself to None."
            )
        if not 0 <= self.gradient_momentum < 1:
            raise InputError(
                f"Exploration.gradient_momentum must be in [0, 1), got {self.gradient_momentum}."
            )
        for progress in (0.0, 0.5, 1.0):
            fraction = self.drop_fraction(progress)
            if not 0 <= fraction <= 1:
                raise InputError(
                    f"Exploration.drop_fraction must stay in [0, 1], but is {fraction} at "
                    f"{progress:.0%} of the training."
                )

    def is_due(self, step, total_steps):
        """Whether an update happens at generator step `step`, counted from 1."""
        stop = total_steps if self.stop is None else min(self.stop, total_steps)
        return step % self.update_interval == 0 and self.start <= step < stop

    def next_due(self, step, total_steps):
        """The first step after `step` at which an update happens, or None."""
        candidate = max(step + 1, self.start, 1)
        candidate = -(-candidate // self.update_interval) * self.update_interval
        return candidate if self.is_due(candidate, total_steps) else None

    def num_updates(self, total_steps):
        """How many updates a training of `total_steps` generator steps makes."""
        stop = total_steps if self.stop is None else min(self.stop, total_steps)
        first = max(self.start, 1)
        return max(0, (stop - 1) // self.update_interval - (first - 1) // self.update_interval)


class Explorer:
    """A network under exploration and the state that exploring needs.

    Attributes:
        ever_active: per masked layer, 1 where a weight was active at any time (ITOP).
        growth_gradients: per masked layer, the averaged gradient; empty without momentum.
    """

    def __init__(self, model, exploration):
        """Observes `model`; with `exploration` None only its masks are watched."""
        self.layers = masked_layers(model)
        self.exploration = exploration
        indices = {id(variable): i for i, variable in enumerate(model.trainable_variables)}
        self._gradient_indices = [indices[id(layer.kernel)] for layer in self.layers]
        self.ever_active = [tf.Variable(layer.kernel_mask.value) for layer in self.layers]
        momentum = exploration.gradient_momentum if exploration else 0.0
        self.growth_gradients = [
            tf.Variable(tf.zeros_like(layer.kernel.value)) for layer in self.layers if momentum
        ]

    def observe(self, gradients):
        """Folds the gradients of one step into the growth gradients, where momentum asks for it.

        Args:
            gradients: of all trainable variables of the model, reduced over replicas.
        """
        if not self.growth_gradients:
            return
        decay = self.exploration.gradient_momentum
        for average, index in zip(self.growth_gradients, self._gradient_indices, strict=True):
            average.assign(decay * average + (1 - decay) * gradients[index])

    def explore(self, gradients, drop_fraction, seed):
        """One topology update: assigns masks, and zeroes the kernels outside them.

        Gradients are those from before the weight update of this step, weights those after it. A
        weight that is dropped and grown at once keeps its value; one that is grown anew is zero.

        Args:
            gradients: of all trainable variables of the model, reduced over replicas.
            drop_fraction: float scalar, the fraction of each layer's weights to replace.
            seed: int [2], for random scores.
        """
        settings = self.exploration
        growth = self.growth_gradients or [gradients[i] for i in self._gradient_indices]
        masks = [layer.kernel_mask.value for layer in self.layers]
        drop_scores, grow_scores = [], []
        for index, (layer, gradient) in enumerate(zip(self.layers, growth, strict=True)):
            weight = layer.kernel.value
            drop_seed, grow_seed = (
                tf.random.experimental.stateless_fold_in(seed, 2 * index + i, alg="philox")
                for i in range(2)
            )
            drop_scores.append(settings.drop_scores(weight, gradient, drop_seed))
            grow_scores.append(settings.grow_scores(weight, gradient, grow_seed))
        updated = settings.update(masks, drop_scores, grow_scores, drop_fraction)
        for layer, ever_active, mask in zip(self.layers, self.ever_active, updated, strict=True):
            layer.assign_mask(mask)
            ever_active.assign(tf.maximum(ever_active, mask))
