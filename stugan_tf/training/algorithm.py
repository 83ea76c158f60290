"""The settings of Algorithm 1, apart from the networks."""

import dataclasses

import gin

from stugan_tf.checks import check_fraction, check_instance, check_natural, check_positive
from stugan_tf.errors import InputError
from stugan_tf.sparsity import (  # noqa: F401 - registers them with gin
    density_adjustment,
    exploration,
    pruning,
)
from stugan_tf.sparsity.rule import TopologyRule, TrainingState, check_rule
from stugan_tf.training.augmentation import Augmentation
from stugan_tf.training.balance import BalanceRatio
from stugan_tf.training.losses import Loss, check_loss, hinge
from stugan_tf.training.orthogonality import OrthogonalRegularization, check_regularization


@gin.configurable
@dataclasses.dataclass(frozen=True)
class Algorithm:
    """What one training does, step by step. A step is a generator step.

    Attributes:
        total_steps: generator steps of the whole training.
        batch_size: real images, and as many generated, of one discriminator update; global.
        generator_batch_size: generated images of one generator update; global.
        accumulation_steps: into how many micro-batches both batches are cut. Their gradients are
            averaged, so that memory holds the activations of one of them only. Batch norm sees one
            micro-batch at a time, and power iterations of spectral norm happen in each.
        discriminator_steps: n_D, discriminator updates per step.
        generator_position: after how many of them the generator is updated; SNGAN's reference
            code does it after the first, BigGAN's after the last (None).
        joint_discrimination: in its updates the discriminator sees generated and real images in one
            call, so that power iterations of spectral norm happen once, as in BigGAN's reference
            code; else in one call each, as in SNGAN's.
        loss: of both networks, one of `training.losses`.
        augmentation: alters what the discriminator sees in all updates, such as
            `training.augmentation.diff_augment()`; None shows it images as they are.
        generator_regularization: an `OrthogonalRegularization` of the generator; None is none.
        discriminator_regularization: that of the discriminator.
        generator_exploration: how the generator's topology changes, an `Exploration` or another
            `sparsity.rule.TopologyRule`; None keeps it.
        discriminator_exploration: how the discriminator's topology changes; None keeps it.
        balance_ratio: a `training.balance.BalanceRatio` that is measured and logged, and what a
            `DensityAdjustment` goes by; None measures none.
        average_decay: beta of the averaged generator (Eq. 5).
        average_start: before this step the average is the live generator.
    """

    total_steps: int = gin.REQUIRED
    batch_size: int = 64
    generator_batch_size: int = 64
    accumulation_steps: int = 1
    discriminator_steps: int = 1
    generator_position: int | None = None
    joint_discrimination: bool = False
    loss: Loss = dataclasses.field(default_factory=hinge)
    augmentation: Augmentation | None = None
    generator_regularization: OrthogonalRegularization | None = None
    discriminator_regularization: OrthogonalRegularization | None = None
    generator_exploration: TopologyRule | None = None
    discriminator_exploration: TopologyRule | None = None
    balance_ratio: BalanceRatio | None = None
    average_decay: float = 0.999
    average_start: int = 0

    def __post_init__(self):
        """Checks the values."""
        for name in (
            "total_steps",
            "batch_size",
            "generator_batch_size",
            "accumulation_steps",
            "discriminator_steps",
        ):
            check_positive(f"Algorithm.{name}", getattr(self, name))
        self.check_replicas(1)
        check_instance("Algorithm.loss", self.loss, Loss)
        check_loss("Algorithm.loss", self.loss)
        if self.augmentation is not None:
            check_instance("Algorithm.augmentation", self.augmentation, Augmentation)
        for name, regularization in self.regularizations.items():
            if regularization is not None:
                setting = f"Algorithm.{name}_regularization"
                check_instance(setting, regularization, OrthogonalRegularization)
                check_regularization(setting, regularization)
        if self.balance_ratio is not None:
            check_instance("Algorithm.balance_ratio", self.balance_ratio, BalanceRatio)
        for name, rule in self.topology_rules.items():
            if rule is not None:
                setting = f"Algorithm.{name}_exploration"
                check_instance(setting, rule, TopologyRule)
                if rule.needs_balance_ratio and self.balance_ratio is None:
                    raise InputError(
                        f"{setting}, a {type(rule).__name__}, goes by the balance ratio, which "
                        "nothing measures: set Algorithm.balance_ratio = @BalanceRatio()."
                    )
                check_rule(setting, rule, self.total_steps)
        if self.generator_position is None:
            object.__setattr__(self, "generator_position", self.discriminator_steps)
        check_positive("Algorithm.generator_position", self.generator_position)
        if not 1 <= self.generator_position <= self.discriminator_steps:
            raise InputError(
                "Algorithm.generator_position must be between 1 and discriminator_steps = "
                f"{self.discriminator_steps}, got {self.generator_position}."
            )
        check_fraction("Algorithm.average_decay", self.average_decay)
        check_natural("Algorithm.average_start", self.average_start)

    def check_replicas(self, num_replicas):
        """Raises InputError unless both batches divide among micro-batches and replicas."""
        for name in ("batch_size", "generator_batch_size"):
            size, parts = getattr(self, name), self.accumulation_steps
            if size % (parts * num_replicas):
                whom = f"the {num_replicas} replicas"
                if parts > 1:
                    whom = f"Algorithm.accumulation_steps = {parts}"
                    whom += f" times {num_replicas} replicas" if num_replicas > 1 else ""
                raise InputError(
                    f"Algorithm.{name} = {size} is the global batch and must be divisible by "
                    f"{whom}. Choose a multiple of {parts * num_replicas}."
                )

    @property
    def regularizations(self):
        """The regularisation, or None, of each network by name."""
        return {
            "generator": self.generator_regularization,
            "discriminator": self.discriminator_regularization,
        }

    @property
    def topology_rules(self):
        """The `TopologyRule`, or None, of each network by name."""
        return {
            "generator": self.generator_exploration,
            "discriminator": self.discriminator_exploration,
        }

    def changes_topology(self, step):
        """Which networks may change their topology in `step`: {name: bool}."""
        return {
            name: rule is not None and rule.is_due(step, self.total_steps)
            for name, rule in self.topology_rules.items()
        }

    def next_topology_update(self, step):
        """The first step after `step` that may change a topology, or None."""
        steps = (
            rule.next_due(step, self.total_steps)
            for rule in self.topology_rules.values()
            if rule is not None
        )
        return min((step for step in steps if step is not None), default=None)

    def progress(self, step):
        """How far `step` is through the training, counted in discriminator updates, in (0, 1]."""
        return (self.last_update(step) + 1) / (self.discriminator_steps * self.total_steps)

    def last_update(self, step):
        """The number, from 0, of the discriminator update before the generator's in `step`."""
        return self.discriminator_steps * (step - 1) + self.generator_position - 1

    def drop_fraction(self, name, step):
        """The drop fraction p of one network at `step`, for logs; None if there is none."""
        rule = self.topology_rules[name]
        return None if rule is None else rule.logged_drop_fraction(self.progress(step))

    def training_state(self, step, density, balance_ratio=None):
        """The `TrainingState` after `step`, for the rule of a network of that density."""
        return TrainingState(step, self.total_steps, self.progress(step), density, balance_ratio)


@gin.configurable
def longer(factor=gin.REQUIRED):
    """The `Algorithm` as configured, but for a longer training: ITOP's 5x (Liu et al. 2021).

    Intervals between topology updates stay, and schedules span the longer training.

    Args:
        factor: how many times as many steps, a positive integer.
    """
    check_positive("longer.factor", factor)
    algorithm = Algorithm()
    return dataclasses.replace(algorithm, total_steps=factor * algorithm.total_steps)
