"""The settings of Algorithm 1, apart from the networks."""

import dataclasses
from collections.abc import Mapping

import gin

from stugan_tf.checks import check_fraction, check_instance, check_natural, check_positive
from stugan_tf.errors import InputError
from stugan_tf.sparsity import (  # noqa: F401 - registers them with gin
    density_adjustment,
    exploration,
    pruning,
    rules,
)
from stugan_tf.sparsity.rule import TopologyRule, TrainingState, check_rule
from stugan_tf.training.augmentation import Augmentation
from stugan_tf.training.balance import BalanceRatio
from stugan_tf.training.losses import Loss, check_loss, hinge
from stugan_tf.training.orthogonality import OrthogonalRegularization, check_regularization


@gin.configurable
@dataclasses.dataclass(frozen=True)
class Algorithm:
    """The settings of one training. A step is a generator step.

    Attributes:
        total_steps: generator steps of the whole training.
        batch_size: number of real images in one discriminator update, and of generated ones; over
            all replicas.
        generator_batch_size: number of generated images in one generator update; over all
            replicas.
        accumulation_steps: number of micro-batches that each batch is cut into. Their gradients
            are averaged, and memory holds the activations of only one micro-batch. Batch norm sees
            one micro-batch at a time, and spectral norm iterates in each.
        discriminator_steps: n_D, discriminator updates per step.
        generator_position: the generator is updated after this many discriminator updates of a
            step; None means after the last. SNGAN's reference code has 1, BigGAN's has None.
        joint_discrimination: if True, the discriminator sees generated and real images in one call,
            and spectral norm iterates once, as in BigGAN's reference code. If False, it sees them
            in two calls, as in SNGAN's.
        loss: the loss of both networks, one of `training.losses`.
        augmentation: alters the images that the discriminator sees in all updates, such as
            `training.augmentation.diff_augment()`; None leaves them as they are.
        generator_regularization: an `OrthogonalRegularization` of the generator, or None.
        discriminator_regularization: an `OrthogonalRegularization` of the discriminator, or None.
        generator_exploration: how the generator's topology changes, an `Exploration` or another
            `sparsity.rule.TopologyRule`; None keeps it.
        discriminator_exploration: how the discriminator's topology changes; None keeps it.
        balance_ratio: a `training.balance.BalanceRatio` to measure and log, or None. A
            `DensityAdjustment` needs it.
        average_decay: beta of the averaged generator (Eq. 5).
        average_start: before this step the average equals the live generator.

    Raises:
        InputError: if a value is impossible, or a function breaks its contract.
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

    def __post_init__(self) -> None:
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
                        f"{setting}, a {type(rule).__name__}, needs the balance ratio, which "
                        "nothing measures: set Algorithm.balance_ratio = @BalanceRatio()."
                    )
                check_rule(setting, rule, self.total_steps)
        if self.generator_position is None:
            object.__setattr__(self, "generator_position", self.discriminator_steps)
        check_positive("Algorithm.generator_position", self.generator_position)
        if not 1 <= self._position <= self.discriminator_steps:
            raise InputError(
                "Algorithm.generator_position must be between 1 and discriminator_steps = "
                f"{self.discriminator_steps}, got {self.generator_position}."
            )
        check_fraction("Algorithm.average_decay", self.average_decay)
        check_natural("Algorithm.average_start", self.average_start)

    def check_replicas(self, num_replicas: int) -> None:
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

    def idle_rules(self) -> list[str]:
        """A sentence about each topology rule that has no step in the whole training."""
        return [
            f"The {name}'s topology should change {rule.when}, but the training of "
            f"{self.total_steps} steps has no step for it: the masks stay as they are. Lower "
            f"{type(rule).__name__}.update_interval if they should change."
            for name, rule in self.topology_rules.items()
            if rule is not None
            and not rule.is_static
            and rule.next_due(0, self.total_steps) is None
        ]

    @property
    def regularizations(self) -> Mapping[str, OrthogonalRegularization | None]:
        """{network name: its regularisation, or None}."""
        return {
            "generator": self.generator_regularization,
            "discriminator": self.discriminator_regularization,
        }

    @property
    def topology_rules(self) -> Mapping[str, TopologyRule | None]:
        """{network name: its `TopologyRule`, or None}."""
        return {
            "generator": self.generator_exploration,
            "discriminator": self.discriminator_exploration,
        }

    def changes_topology(self, step: int) -> dict[str, bool]:
        """{network name: whether its topology may change in `step`}."""
        return {
            name: rule is not None and rule.is_due(step, self.total_steps)
            for name, rule in self.topology_rules.items()
        }

    def next_topology_update(self, step: int) -> int | None:
        """The first step after `step` that may change a topology, or None."""
        steps = (
            rule.next_due(step, self.total_steps)
            for rule in self.topology_rules.values()
            if rule is not None
        )
        return min((step for step in steps if step is not None), default=None)

    def progress(self, step: int) -> float:
        """The fraction of the training done in `step`, in discriminator updates; in (0, 1]."""
        return (self.last_update(step) + 1) / (self.discriminator_steps * self.total_steps)

    def updates(self, name: str) -> int:
        """The number of updates that the network `name` makes in the whole training."""
        per_step = {"generator": 1, "discriminator": self.discriminator_steps}
        return per_step[name] * self.total_steps

    def last_update(self, step: int) -> int:
        """The last discriminator update before the generator's in `step`, counted from 0."""
        return self.discriminator_steps * (step - 1) + self._position - 1

    @property
    def _position(self) -> int:
        assert self.generator_position is not None  # `__post_init__` replaces None.
        return self.generator_position

    def drop_fraction(self, name: str, step: int) -> float | None:
        """The drop fraction p of the network `name` at `step`, for logs, or None."""
        rule = self.topology_rules[name]
        return None if rule is None else rule.logged_drop_fraction(self.progress(step))

    def training_state(
        self, step: int, density: float, balance_ratio: float | None = None
    ) -> TrainingState:
        """The `TrainingState` after `step`, for the rule of a network with this density."""
        return TrainingState(step, self.total_steps, self.progress(step), density, balance_ratio)


@gin.configurable
def longer(factor: int = gin.REQUIRED) -> Algorithm:
    """The configured `Algorithm` with more steps: ITOP's 5x (Liu et al. 2021).

    Intervals between topology updates stay. Schedules span the longer training.

    Args:
        factor: a positive integer that multiplies `total_steps`.
    """
    check_positive("longer.factor", factor)
    algorithm = Algorithm()
    return dataclasses.replace(algorithm, total_steps=factor * algorithm.total_steps)
