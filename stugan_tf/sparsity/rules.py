"""Topology rules under the names that the field gives them.

Each is thin over what `Exploration` and `GradualPruning` use: a schedule, two criteria and an
update. Their settings are numbers and words, so they can be saved with a Keras model. For
`SparseOptimizer`, and for `Algorithm.generator_exploration = @RigL()` in a gin file.

SNIP and GraSP prune once before training: `sparsity.at_initialization`, then `Static`.
"""

import dataclasses
import numbers
from collections.abc import Callable, Sequence
from typing import ClassVar

import gin
import keras
import tensorflow as tf

from stugan_tf.checks import check_above_zero, check_fraction, check_positive
from stugan_tf.errors import InputError
from stugan_tf.sparsity import criteria, schedules
from stugan_tf.sparsity.rule import PeriodicRule, TopologyRule, TrainingState, check_slots
from stugan_tf.sparsity.structured import (
    prune_and_regrow_constant_fan_in,
    prune_and_regrow_n_of_m,
)
from stugan_tf.sparsity.topology import Scores, prune_and_regrow_per_layer, prune_per_layer

_Masks = Sequence[tf.Tensor]


@keras.saving.register_keras_serializable("stugan_tf")
@gin.configurable
@dataclasses.dataclass(frozen=True)
class Static(TopologyRule):
    """The masks never change."""

    drop_scores = staticmethod(criteria.magnitude)
    is_static: ClassVar[bool] = True

    def is_due(self, step: int, total_steps: int) -> bool:
        """False."""
        del step, total_steps
        return False

    def next_due(self, step: int, total_steps: int) -> int | None:
        """None."""
        del step, total_steps
        return None

    def amount(self, state: TrainingState) -> None:
        """None."""
        del state

    def update(self, masks: _Masks, scores: Scores, amount: tf.Tensor) -> tuple[_Masks, _Masks]:
        """The masks as they are."""
        del scores, amount
        return masks, masks

    @property
    def when(self) -> str:
        """Never."""
        return "never"


@dataclasses.dataclass(frozen=True)
class _DropAndGrow(PeriodicRule):
    """Drops the smallest weights of each layer, and grows as many.

    The drop fraction falls by a cosine from its first value to `_final`, which it has at `stop`.
    """

    update_interval: int = 100
    drop_fraction: float = 0.3
    slots: str = "keep"

    drop_scores = staticmethod(criteria.magnitude)
    grow_scores = staticmethod(criteria.gradient_magnitude)
    _final: ClassVar[float] = 0.0

    def __post_init__(self) -> None:
        """Checks the values."""
        super().__post_init__()
        name = type(self).__name__
        if callable(self.drop_fraction):
            raise InputError(
                f"{name}.drop_fraction must be a number, the drop fraction at the start, got a "
                "function. Exploration takes any schedule."
            )
        if not isinstance(self.drop_fraction, numbers.Real) or not 0 <= self.drop_fraction <= 1:
            raise InputError(
                f"{name}.drop_fraction must be in [0, 1], got {self.drop_fraction!r}. It is the "
                "fraction of a layer's weights that the first update drops."
            )
        if self.stop is not None and not (isinstance(self.stop, float) and self.stop > 0):
            raise InputError(
                f"{name}.stop must be a fraction of the training in (0, 1], or None for all of it, "
                f"got {self.stop!r}. Exploration.stop can be a step."
            )
        check_fraction(f"{name}.gradient_momentum", self.gradient_momentum)
        check_slots(f"{name}.slots", self.slots)

    def logged_drop_fraction(self, progress: float) -> float:
        """The drop fraction at `progress`, a fraction of the training."""
        part = min(progress / (self.stop or 1.0), 1.0)
        return schedules.cosine_drop_fraction(part, self.drop_fraction, self._final)

    def amount(self, state: TrainingState) -> float:
        """The drop fraction."""
        return self.logged_drop_fraction(state.progress)

    def update(self, masks: _Masks, scores: Scores, amount: tf.Tensor) -> tuple[_Masks, _Masks]:
        """See `prune_and_regrow_per_layer`."""
        return prune_and_regrow_per_layer(masks, scores, amount)


@keras.saving.register_keras_serializable("stugan_tf")
@gin.configurable
@dataclasses.dataclass(frozen=True)
class SET(_DropAndGrow):
    """Sparse evolutionary training (Mocanu et al. 2018): random growth, a constant drop fraction.

    The paper has a drop fraction of 0.3 and updates after each epoch but the last. It drops that
    fraction of the positive and of the negative weights, and draws the values of new ones. Here, as
    in RigL's comparison, the smallest of all are dropped, new ones start at zero, and an update
    comes every 100 steps.

    Attributes:
        update_interval: Delta T, in steps.
        start: the first step at which an update may happen, see `PeriodicRule`.
        stop: updates end before this fraction of the training; None is before the last step.
        drop_fraction: zeta, the fraction of a layer's weights that each update drops.
        slots: what becomes of the optimizer's slots, see `TopologyRule`.

    Raises:
        InputError: if a value is impossible.
    """

    slots: str = "zero"

    grow_scores = staticmethod(criteria.random_scores)

    def logged_drop_fraction(self, progress: float) -> float:
        """The drop fraction, at any time the same."""
        return schedules.constant_drop_fraction(progress, self.drop_fraction)


@keras.saving.register_keras_serializable("stugan_tf")
@gin.configurable
@dataclasses.dataclass(frozen=True)
class RigL(_DropAndGrow):
    """RigL (Evci et al. 2020): grows the weights with the largest gradients.

    The defaults are those of the paper: Delta T = 100, alpha = 0.3, which falls to 0 by a cosine,
    and T_end at 75 % of the training. As in the authors' code, a dropped weight may return at once
    and keeps its value, and slots of new weights are zero.

    Attributes:
        update_interval: Delta T, in steps.
        start: the first step at which an update may happen, see `PeriodicRule`.
        stop: T_end, as a fraction of the training; None is before the last step.
        drop_fraction: alpha, the drop fraction at the start.
        slots: what becomes of the optimizer's slots, see `TopologyRule`.

    Raises:
        InputError: if a value is impossible.
    """

    stop: float | None = 0.75
    slots: str = "zero"


@keras.saving.register_keras_serializable("stugan_tf")
@gin.configurable
@dataclasses.dataclass(frozen=True)
class STU(_DropAndGrow):
    """Sparse unbalanced GAN training (Liu et al. 2022), for the generator.

    As RigL, but the drop fraction falls from 0.5 to 0.005 over the whole training, and Adam's
    moments go on. The defaults are those of `gin/methods/stu.gin` for SNGAN. It belongs with the
    average `sema`.

    Attributes:
        update_interval: Delta T, in generator steps: 1000 for SNGAN, 500 for BigGAN.
        start: the first step at which an update may happen, see `PeriodicRule`.
        stop: updates end before this fraction of the training; None is before the last step.
        drop_fraction: p, the drop fraction at the start.
        slots: what becomes of the optimizer's slots, see `TopologyRule`.

    Raises:
        InputError: if a value is impossible.
    """

    update_interval: int = 1000
    drop_fraction: float = 0.5

    _final: ClassVar[float] = 0.005


@keras.saving.register_keras_serializable("stugan_tf")
@gin.configurable
@dataclasses.dataclass(frozen=True)
class MomentumGrowth(_DropAndGrow):
    """Growth by momentum: by the gradient averaged over the steps.

    From sparse momentum (Dettmers & Zettlemoyer 2019), without its redistribution: there layers
    with a large momentum take weights from the others, here each layer keeps its number. The
    momentum is an average of gradients with a decay of its own. There it is the optimizer's: SGD's
    buffer, or Adam's first moment over the root of the second. The authors' code updates after each
    epoch. There, too, the drop fraction falls from 0.5 to 0.005 by a cosine.

    Attributes:
        update_interval: Delta T, in steps.
        start: the first step at which an update may happen, see `PeriodicRule`.
        stop: updates end before this fraction of the training; None is before the last step.
        drop_fraction: the drop fraction at the start.
        slots: what becomes of the optimizer's slots, see `TopologyRule`.
        gradient_momentum: the decay of the average.

    Raises:
        InputError: if a value is impossible.
    """

    drop_fraction: float = 0.5
    gradient_momentum: float = 0.9

    _final: ClassVar[float] = 0.005


@keras.saving.register_keras_serializable("stugan_tf")
@gin.configurable
@dataclasses.dataclass(frozen=True)
class SRigL(RigL):
    """Structured RigL (Lasby et al. 2023): all neurons of a layer have as many inputs.

    Neurons with too few salient weights lose all, and the others share theirs; see
    `regrow_constant_fan_in`. Start from `sparsify(model, sparsity, draw=constant_fan_in_mask)`. The
    first update makes such masks of any others. The rest is RigL.

    Attributes:
        update_interval: Delta T, in steps.
        start: the first step at which an update may happen, see `PeriodicRule`.
        stop: T_end, as a fraction of the training; None is before the last step.
        drop_fraction: alpha, the drop fraction at the start.
        slots: what becomes of the optimizer's slots, see `TopologyRule`.
        min_salient: gamma_sal, the fraction of a neuron's inputs that must be salient. The authors
            have 0.3 for ResNet-50 on ImageNet and 0.05 for ResNet-18 on CIFAR-10. 0 ablates none.

    Raises:
        InputError: if a value is impossible.
    """

    min_salient: float = 0.3

    def __post_init__(self) -> None:
        """Checks the values."""
        super().__post_init__()
        check_fraction("SRigL.min_salient", self.min_salient, "0 ablates no neuron.")

    def update(self, masks: _Masks, scores: Scores, amount: tf.Tensor) -> tuple[_Masks, _Masks]:
        """See `prune_and_regrow_constant_fan_in`."""
        return prune_and_regrow_constant_fan_in(masks, scores, amount, self.min_salient)


@keras.saving.register_keras_serializable("stugan_tf")
@gin.configurable
@dataclasses.dataclass(frozen=True)
class NM(RigL):
    """N:M masks: of each m inputs in a row, n are active. RigL within these groups.

    Start from `sparsify(model, 0.5, uniform, draw=n_of_m_mask)`, then `Static` keeps the masks, and
    this rule moves them. From a dense model, the first update keeps the weights with the largest
    magnitudes of each group. Ours: the methods of the literature train a dense kernel behind the
    mask, as SR-STE (Zhou et al. 2021) does.

    Attributes:
        update_interval: Delta T, in steps.
        start: the first step at which an update may happen, see `PeriodicRule`.
        stop: updates end before this fraction of the training; None is before the last step.
        drop_fraction: the drop fraction at the start, of all weights of a layer. With 0 weights are
            only dropped where a group has more than n.
        slots: what becomes of the optimizer's slots, see `TopologyRule`.
        n: active weights in a group.
        m: size of a group.

    Raises:
        InputError: if a value is impossible.
    """

    n: int = 2
    m: int = 4

    def __post_init__(self) -> None:
        """Checks the values."""
        super().__post_init__()
        check_positive("NM.n", self.n)
        check_positive("NM.m", self.m)
        if self.n > self.m:
            raise InputError(
                f"NM must have n <= m, got {self.n} of {self.m}. 2 of 4 is n = 2, m = 4."
            )

    def update(self, masks: _Masks, scores: Scores, amount: tf.Tensor) -> tuple[_Masks, _Masks]:
        """See `prune_and_regrow_n_of_m`."""
        return prune_and_regrow_n_of_m(masks, scores, amount, self.n, self.m)


@keras.saving.register_keras_serializable("stugan_tf")
@gin.configurable
@dataclasses.dataclass(frozen=True)
class GMP(PeriodicRule):
    """Gradual magnitude pruning (Zhu & Gupta 2017): from dense, each layer becomes sparser.

    After the update at step t a layer has the sparsity

        s_f + (s_i - s_f) (1 - (t - t_0) / (t_n - t_0))^power,

    t_0 the step of `start` and t_n the last update before `stop`. `GradualPruning` takes any
    schedule of tfmot, and can rank layers together.

    Attributes:
        update_interval: Delta t, in steps: 100 to 1000 in the paper.
        start: t_0, a step or, as a float, a fraction of the training.
        stop: pruning ends before this step or fraction; None is before the last step.
        final_sparsity: s_f.
        initial_sparsity: s_i, 0 in the paper.
        power: 3 in the paper.

    Raises:
        InputError: if a value is impossible.
    """

    update_interval: int = 100
    stop: float | None = 0.75
    final_sparsity: float = 0.95
    initial_sparsity: float = 0.0
    power: float = 3.0

    drop_scores = staticmethod(criteria.magnitude)

    def __post_init__(self) -> None:
        """Checks the values."""
        super().__post_init__()
        check_fraction("GMP.final_sparsity", self.final_sparsity, "Write 0.9 for 90% sparse.")
        check_fraction("GMP.initial_sparsity", self.initial_sparsity)
        check_above_zero("GMP.power", self.power)
        if self.initial_sparsity > self.final_sparsity:
            raise InputError(
                "GMP.initial_sparsity must not be above final_sparsity, got "
                f"{self.initial_sparsity!r} and {self.final_sparsity!r}. Pruned weights do not "
                "return."
            )

    def amount(self, state: TrainingState) -> float:
        """The sparsity to reach."""
        first = self.first_step(state.total_steps)
        last = (self.end_step(state.total_steps) - 1) // self.update_interval
        last *= self.update_interval
        left = (last - state.step) / (last - first) if last > first else 0.0
        return (
            self.final_sparsity + (self.initial_sparsity - self.final_sparsity) * left**self.power
        )

    def description(self, total_steps: int, progress: Callable[[int], float]) -> str:
        """One line: the number of updates, and the sparsity that they reach."""
        updates = super().description(total_steps, progress)
        return f"{updates}, to a sparsity of {self.final_sparsity:.4g} in each layer"

    def update(self, masks: _Masks, scores: Scores, amount: tf.Tensor) -> tuple[_Masks, _Masks]:
        """See `prune_per_layer`."""
        return prune_per_layer(masks, scores, amount)
