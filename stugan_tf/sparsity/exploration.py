"""Topology updates of a whole network: when, and how Eq. 3 and Eq. 4 apply to its layers."""

import dataclasses
from collections.abc import Callable

import gin
import tensorflow as tf

from stugan_tf.checks import check_fraction, check_function, check_natural
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
        if not isinstance(self.update_interval, int) or self.update_interval < 1:
            raise InputError(
                f"Exploration.update_interval must be at least 1 generator step, got "
                f"{self.update_interval!r}. To explore never, set the exploration itself to None."
            )
        check_fraction("Exploration.gradient_momentum", self.gradient_momentum)
        check_natural("Exploration.start", self.start)
        if self.stop is not None:
            check_natural("Exploration.stop", self.stop)
        for name in ("drop_fraction", "drop_scores", "grow_scores", "update"):
            check_function(f"Exploration.{name}", getattr(self, name))
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
        layers: the masked layers.
        ever_active: per masked layer, 1 where a weight was active at any time (ITOP).
        growth_gradients: per masked layer, the gradient that growth sees; empty if the topology
            does not change.
    """

    def __init__(self, model, exploration, may_miss=False):
        """Observes `model`; with `exploration` None only its masks are watched.

        Args:
            model: a network with masks.
            exploration: an `Exploration` or None.
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

    def explore(self, drop_fraction, seed):
        """One topology update: assigns masks, and zeroes the kernels outside them.

        The gradients observed are those from before the weight update of this step, weights are
        those after it. A weight that is dropped and grown at once keeps its value; one that is
        grown anew is zero.

        Args:
            drop_fraction: float scalar, the fraction of each layer's weights to replace.
            seed: int [2], for random scores.
        """
        settings = self.exploration
        # Tensors, because a `tf.function` captures the variables of a `MirroredStrategy`: traced
        # with the mask of one layer, it would serve that mask to all others of its shape.
        masks = [tf.convert_to_tensor(layer.kernel_mask.value) for layer in self.layers]
        drop_scores, grow_scores = [], []
        for index, (layer, gradient) in enumerate(
            zip(self.layers, self.growth_gradients, strict=True)
        ):
            weight, gradient = layer.kernel.value, gradient.value()
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
