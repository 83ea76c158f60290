"""A player of the game: a network with its optimizer, its topology and its counters."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeAlias

import keras
import tensorflow as tf

from stugan_tf.errors import InputError
from stugan_tf.layers.execution import gradients_of_zeros
from stugan_tf.layers.moving import moving_variables, undisturbed
from stugan_tf.layers.paths import names_of
from stugan_tf.signatures import Seed
from stugan_tf.sparsity.exploration_rate import exploration_rate
from stugan_tf.sparsity.explorer import Explorer
from stugan_tf.sparsity.hessian import hessian_gradients
from stugan_tf.sparsity.rule import TopologyRule, TrainingState
from stugan_tf.training.optimizers import PlayerOptimizer
from stugan_tf.training.orthogonality import OrthogonalRegularization
from stugan_tf.training.precision import LossScale
from stugan_tf.training.replicas import Replicas

# () -> (loss, other scalars to log), called under the tape.
LossFunction: TypeAlias = Callable[[], tuple[tf.Tensor, list[tf.Tensor]]]


class Player:
    """A network with its optimizer, its topology, and the state of its updates.

    Generator and discriminator are both players. They differ only in the arguments that they get.

    An objective is `(*batch, count, part) -> loss`. It draws and generates everything that is
    constant to the gradient, and returns `loss`, a function that is called under the tape. `loss`
    returns the loss and a list of other scalars to log.

    Attributes:
        name: name of the network, in messages and in the names of its variables.
        model: a Keras model.
        optimizer: a `PlayerOptimizer` that was built for the model.
        rule: the `TopologyRule`, or None if the topology stays.
        explorer: the `Explorer` of the model.
        keeps_gradients: whether updates accumulate gradients in variables.
    """

    def __init__(
        self,
        name: str,
        model: keras.Model,
        optimizer: PlayerOptimizer,
        objective: Callable[..., LossFunction],
        logged: tuple[str, ...],
        game: Sequence[keras.Model],
        replicas: Replicas,
        rule: TopologyRule | None = None,
        regularization: OrthogonalRegularization | None = None,
        num_parts: int = 1,
        scales_loss: bool = False,
    ) -> None:
        """Creates the state; call it inside `strategy.scope()`.

        Args:
            name: name of the network, such as 'generator'.
            model: a Keras model.
            optimizer: a `PlayerOptimizer` that was built for the model.
            objective: the objective, see above.
            logged: names of the scalars that the objective returns, such as ('g_loss',). Other
                metrics of the player begin with the same letter.
            game: the models of both players; an update runs both.
            replicas: `Replicas`.
            rule: a `TopologyRule` or None.
            regularization: an `OrthogonalRegularization` or None.
            num_parts: number of micro-batches of an update.
            scales_loss: scale the loss, see `LossScale`; for networks that compute in float16.

        Raises:
            InputError: if the regularisation does not fit the model, or the rule the optimizer.
        """
        if rule is not None and rule.slots == "age" and optimizer.moments != "active":
            raise InputError(
                f"{type(rule).__name__}.slots = 'age' of the {name} needs an optimizer that counts "
                "the age of each weight. Set MaskedAdam.moments = 'active', or slots = 'zero'."
            )
        if rule is not None and rule.slots != "keep":
            optimizer.check_restarts()
        self.name = name
        self.model = model
        self.optimizer = optimizer
        self.rule = rule
        self.explorer = Explorer(model, rule, may_miss=scales_loss)
        self._objective = objective
        self._game = game
        self._replicas = replicas
        self._regularization = regularization
        if regularization is not None:
            regularization.check(model)
        self._num_parts = num_parts
        self._scale = LossScale() if scales_loss else None
        self._letter = logged[0][0]
        self._logged = (*logged, f"{self._letter}_gradient_norm")
        self._sums = tf.Variable(tf.zeros([len(self._logged) + 1]), trainable=False)
        # The number of the first update with a value that is not finite, and this value's index.
        self._first_bad = tf.Variable([-1, -1], dtype=tf.int64, trainable=False)
        # A scaled loss needs them: whether to make an update is decided outside the compiled one.
        self.keeps_gradients = num_parts > 1 or scales_loss
        # The number of the update that was begun last: its first batch was read.
        self._begun = tf.Variable(-1, dtype=tf.int64, trainable=False)
        # What micro-batches leave for the update: gradients and the values to log.
        self._accumulated = [
            tf.Variable(tf.zeros(shape), trainable=False)
            for shape in [*(v.shape for v in model.trainable_variables), [len(logged)]]
            if self.keeps_gradients
        ]
        self._update_at_once = replicas.compiled(self._descend_at_once)
        self._accumulate = replicas.compiled(self._add_part)
        self._gather = replicas.compiled(self._average_parts)
        self._conclude = replicas.compiled(self._descend_by_parts)

    def update(self, iterator: Iterator[Any] | None, count: tf.Tensor, grows: tf.Tensor) -> None:
        """Makes one update in a graph, on a whole batch or on micro-batches one by one.

        Args:
            iterator: yields batches; None if the objective takes no batch.
            count: int64 scalar, the number of the update.
            grows: bool scalar, whether a topology update comes next.
        """
        if not self.keeps_gradients:
            batch = () if iterator is None else next(iterator)
            with _after(batch):
                self._update_at_once(*batch, count, grows)
        else:
            for part in tf.range(self._num_parts):
                batch = () if iterator is None else next(iterator)
                with _after(batch):
                    self._accumulate(*batch, count, grows, part)
            if self._replicas.first(self._gather()):
                self._conclude(count, grows)

    def update_topology(
        self,
        amount: tf.Tensor,
        seed: Seed,
        objective: Callable[[], LossFunction],
    ) -> None:
        """Lines 7 and 8: drops and grows weights by the rule; call it on each replica.

        Args:
            amount: what `rule.amount` returned, as a float64 tensor.
            seed: int [2], for random scores.
            objective: function without arguments that returns `loss`, like the objective of the
                last micro-batch. H g is computed from its loss.
        """
        products = None
        if self.explorer.wants_hessian_gradient:
            products = self._hessian_gradients(objective)
        changes = self.explorer.update(amount, seed, products)
        if self.rule is not None and self.rule.slots != "keep":
            for layer, change in zip(self.explorer.masks, changes, strict=True):
                self.optimizer.restart(layer.kernel, change.restarts())

    def is_due(self, step: int, total_steps: int) -> bool:
        """Whether the topology may change at a generator step, counted from 1."""
        return self.rule is not None and self.rule.is_due(step, total_steps)

    def amount(self, state: TrainingState) -> float | Sequence[float] | None:
        """How much to change the topology at a `TrainingState`; None leaves it as it is."""
        return None if self.rule is None else self.rule.amount(state)

    def _descend_at_once(self, *arguments: Any) -> None:
        *batch, count, grows = arguments
        self._begun.assign(count)
        loss = self._objective(*batch, count, part=0)
        gradients, logged = self._gathered(*self._differentiate(loss, grows))
        self._descend(gradients, logged, count, grows)

    def _add_part(self, *arguments: Any) -> None:
        *batch, count, grows, part = arguments
        self._begun.assign(count)
        loss = self._objective(*batch, count, part=part)
        gradients, logged = self._differentiate(loss, grows)
        for total, value in zip(self._accumulated, [*gradients, logged], strict=True):
            total.assign(tf.where(part == 0, value, total + value))

    def _average_parts(self) -> tf.Tensor:
        """Averages what was accumulated; returns whether to make the update, a bool scalar."""
        *gradients, logged = [total / self._num_parts for total in self._accumulated]
        gradients, logged = self._gathered(gradients, logged)
        for total, mean in zip(self._accumulated, [*gradients, logged], strict=True):
            total.assign(mean)
        return tf.constant(True) if not self._scale else self._scale.update(logged[0], gradients)

    def _descend_by_parts(self, count: tf.Tensor, grows: tf.Tensor) -> None:
        *gradients, logged = [mean.value() for mean in self._accumulated]
        self._descend(gradients, logged, count, grows)

    def _differentiate(
        self, loss: LossFunction, grows: tf.Tensor | bool
    ) -> tuple[list[tf.Tensor], tf.Tensor]:
        """Gradients of all trainable variables, and the values to log, for one micro-batch."""
        with gradients_of_zeros(self._wants_zeros(grows)), tf.GradientTape() as tape:
            value, others = loss()
            scaled = self._scale.scaled(value) if self._scale else value
        gradients = tape.gradient(
            scaled,
            [variable.value for variable in self.model.trainable_variables],
            unconnected_gradients=tf.UnconnectedGradients.ZERO,
        )
        # Gradients of embeddings come as IndexedSlices.
        gradients = [tf.convert_to_tensor(gradient) for gradient in gradients]
        if self._scale:
            gradients = self._scale.unscaled(gradients)
        return gradients, tf.stack([value, *others])

    def _wants_zeros(self, grows: tf.Tensor | bool) -> tf.Tensor | bool:
        """Whether the optimizer or growth will see the gradient of inactive weights."""
        # Clipping uses the norm over all weights.
        clips = self.optimizer.clipnorm or self.optimizer.global_clipnorm
        if self.optimizer.moments == "dense" or clips or self.explorer.has_momentum:
            return True
        return grows if self.rule is not None else False

    def _gathered(
        self, gradients: Sequence[tf.Tensor], logged: tf.Tensor
    ) -> tuple[list[tf.Tensor], tf.Tensor]:
        """Means over replicas. Their moving statistics become equal, too."""
        *gradients, logged = self._replicas.mean([*gradients, logged])
        self._replicas.share(moving_variables(*self._game))
        return gradients, logged

    def _descend(
        self, gradients: list[tf.Tensor], logged: tf.Tensor, count: tf.Tensor, grows: tf.Tensor
    ) -> None:
        """Applies gradients and adds up the logged values, both averaged over replicas."""
        if self._regularization is not None:
            gradients = [
                gradient if added is None else gradient + added
                for gradient, added in zip(
                    gradients, self._regularization.gradients(self.model), strict=True
                )
            ]
        norms = tf.stack(self.explorer.norms(gradients))
        self._sums.assign_add(tf.concat([logged, [tf.norm(norms), 1.0]], axis=0))
        self._note_first_bad(tf.concat([logged[:1], norms], axis=0), count)
        self.optimizer.apply(gradients, self.model.trainable_variables)
        self.explorer.observe(gradients, grows)

    def _note_first_bad(self, values: tf.Tensor, count: tf.Tensor) -> None:
        bad = ~tf.math.is_finite(values)
        found = tf.stack([tf.cast(count, tf.int64), tf.argmax(tf.cast(bad, tf.int32))])
        is_first = tf.reduce_any(bad) & (self._first_bad[0] < 0)
        self._first_bad.assign(tf.where(is_first, found, self._first_bad))

    def _hessian_gradients(self, objective: Callable[[], LossFunction]) -> Sequence[tf.Tensor]:
        """H g for each masked kernel; g is the gradient of the active weights only."""
        masks = [layer.kernel_mask.value for layer in self.explorer.masks]
        kernels = [layer.kernel.value for layer in self.explorer.masks]

        def gradients() -> list[tf.Tensor]:
            found, _ = self._differentiate(objective(), grows=True)
            return self.explorer.kernel_gradients(found)

        with undisturbed(*self._game):
            return hessian_gradients(gradients, kernels, masks, self._replicas.mean)

    def first_bad(self) -> tuple[int, str] | None:
        """The first value that was not finite.

        Returns:
            None, or (number of the update, text that names the value and its variable).
        """
        count, index = (int(value) for value in self._replicas.first(self._first_bad).numpy())
        if count < 0:
            return None
        if index == 0:
            return count, f"the {self.name}'s loss"
        path = self.model.trainable_variables[index - 1].path
        return count, f"the gradient of the {self.name}'s {path}"

    @property
    def begun(self) -> int:
        """The number of the update that was begun last, after its first batch was read."""
        return int(self._replicas.first(self._begun).numpy())

    @begun.setter
    def begun(self, count: int) -> None:
        self._begun.assign(count)

    def restart_metrics(self) -> None:
        """Lets the means of `metrics` begin again."""
        self._sums.assign(tf.zeros_like(self._sums))

    def metrics(self) -> dict[str, float]:
        """Means of the logged values since `restart_metrics`, by name.

        Also the learning rate of the last update, and the loss scale if there is one.
        """
        *sums, count = self._replicas.first(self._sums).numpy()
        metrics = {
            name: float(total / max(count, 1))
            for name, total in zip(self._logged, sums, strict=True)
        }
        updates = int(self._replicas.first(self.optimizer.iterations.value).numpy())
        metrics[f"{self._letter}_learning_rate"] = self.optimizer.rate_at(max(updates - 1, 0))
        if self._scale:
            scale = self._replicas.first(self._scale.factor).numpy()
            metrics[f"{self._letter}_loss_scale"] = float(scale)
        return metrics

    def exploration_rate(self) -> float:
        """R_s: the fraction of the masked weights that have been active at any time."""
        return float(exploration_rate(self.explorer.ever_active)[1])

    def state(self) -> dict[str, tf.Variable]:
        """All variables that later updates depend on, by unique name."""
        names = names_of(self.model)
        by_variable = {id(v): n for n, v in zip(names, self.model.variables, strict=True)}
        kernels = [by_variable[id(layer.kernel)] for layer in self.explorer.masks]
        state = dict(zip(names, self.model.variables, strict=True))
        state = {f"{self.name}/{name}": variable.value for name, variable in state.items()}
        for name, variable in self.optimizer.state(self.model).items():
            state[f"{self.name}_optimizer/{name}"] = variable
        kinds = ("ever_active", "growth_gradient")
        for index, variable in enumerate(self.explorer.state()):
            kind, kernel = divmod(index, len(kernels))
            state[f"topology/{self.name}/{kinds[kind]}/{kernels[kernel]}"] = variable
        state[f"metrics/{self.name}"] = self._sums
        state[f"first_bad/{self.name}"] = self._first_bad
        for part, variable in (self._scale.state() if self._scale else {}).items():
            state[f"loss_scale/{self.name}/{part}"] = variable
        return state


def _after(batch: Sequence[Any]) -> contextlib.AbstractContextManager[None]:
    """Lets nothing run before the batch is read: if it cannot be read, no variable has changed."""
    return tf.control_dependencies(tf.nest.flatten(batch, expand_composites=True))
