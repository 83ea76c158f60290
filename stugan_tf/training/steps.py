"""Algorithm 1, lines 3 to 8, as compiled updates on any `tf.distribute` strategy."""

import dataclasses
import functools
import time
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import tensorflow as tf

from stugan_tf.arithmetic import tensor_float_32
from stugan_tf.errors import InputError
from stugan_tf.layers.moving import undisturbed
from stugan_tf.randomness import Purpose
from stugan_tf.training.algorithm import Algorithm
from stugan_tf.training.balance import BalanceMeter, balance_ratio
from stugan_tf.training.gan import GAN
from stugan_tf.training.noise import Noise
from stugan_tf.training.player import LossFunction, Player
from stugan_tf.training.replicas import Replicas


class Steps:
    """Runs generator steps of Algorithm 1, many per host call.

    Attributes:
        generator: the `Player` of the generator.
        discriminator: the `Player` of the discriminator.
        players: both by name, in the order in which their topology changes.
        attempt: variable that counts rollbacks.
        keeps_gradients: whether updates accumulate gradients in variables.
        num_traces: how often something was compiled so far.
        topology_seconds: time spent on lines 7 and 8 so far.
    """

    def __init__(
        self,
        gan: GAN,
        algorithm: Algorithm,
        strategy: tf.distribute.Strategy,
        seed: int,
        jit_compile: bool,
        scales_loss: bool = False,
    ) -> None:
        """Creates the state of the updates; call it inside `strategy.scope()`.

        Args:
            gan: a `GAN` of the same scope.
            algorithm: an `Algorithm`.
            strategy: the `tf.distribute.Strategy`.
            seed: an integer, for latents, labels and random growth.
            jit_compile: compile each update with XLA.
            scales_loss: scale losses, see `LossScale`; for networks that compute in float16.

        Raises:
            InputError: if the batches do not divide among the replicas, or a setting does not fit
                the networks.
        """
        if not hasattr(gan, "generator_optimizer"):
            raise InputError(
                "The networks have no optimizers: set GAN.generator_optimizer and "
                "GAN.discriminator_optimizer, such as to @MaskedAdam."
            )
        algorithm.check_replicas(strategy.num_replicas_in_sync)
        self.num_traces = 0
        self.topology_seconds = 0.0
        self._gan = gan
        self._algorithm = algorithm
        self._game = (gan.generator, gan.discriminator)
        self._replicas = replicas = Replicas(strategy, jit_compile)
        self._noise = Noise(seed, gan, algorithm, replicas)
        shared: dict[str, Any] = {
            "game": self._game,
            "replicas": replicas,
            "num_parts": algorithm.accumulation_steps,
            "scales_loss": scales_loss,
        }
        self.generator = Player(
            "generator",
            gan.generator,
            gan.generator_optimizer,
            self._generator_objective,
            logged=("g_loss",),
            rule=algorithm.generator_exploration,
            regularization=algorithm.generator_regularization,
            **shared,
        )
        self.discriminator = Player(
            "discriminator",
            gan.discriminator,
            gan.discriminator_optimizer,
            self._discriminator_objective,
            logged=("d_loss", "d_real", "d_fake"),
            rule=algorithm.discriminator_exploration,
            regularization=algorithm.discriminator_regularization,
            **shared,
        )
        self.players = {player.name: player for player in (self.generator, self.discriminator)}
        self.attempt = self._noise.attempt
        self.keeps_gradients = self.generator.keeps_gradients
        self._measured: Any = algorithm.balance_ratio
        self._balance: Any = None if self._measured is None else BalanceMeter(self._measured)
        self._last_batch: Any = None
        if self._balance or self.discriminator.explorer.wants_hessian_gradient:
            size = algorithm.batch_size // (algorithm.accumulation_steps * replicas.num)
            self._last_batch = _LastBatch(size, gan.discriminator.inputs[0].shape[1:])
        self._updates = replicas.calling(self._run_updates)
        self._update_average = replicas.compiled(self._move_average)
        self._measure_balance = replicas.compiled(self._compare_balance)
        self._topology_updates = {
            self.generator: replicas.from_host(self._change_generator),
            self.discriminator: replicas.from_host(self._change_discriminator),
        }
        self._update_average_from_host = replicas.from_host(self._move_average)

    # Algorithm 1.

    def run(self, iterator: Iterator[Any], step: int, num_steps: int) -> None:
        """Runs `num_steps` steps after step `step`; only the last may change a topology.

        Args:
            iterator: yields the distributed batches, from number `step * discriminator_steps` on.
            step: steps done so far.
            num_steps: a positive integer.
        """
        algorithm = self._algorithm
        last = step + num_steps
        begin, end = (done * algorithm.discriminator_steps for done in (step, last))
        self.discriminator.begun = begin - 1
        changing = [p for p in self.players.values() if p.is_due(last, algorithm.total_steps)]
        if changing:  # line 6
            seen = algorithm.last_update(last)  # The update whose gradients growth sees.
            middle = seen + 1
            if begin < seen:
                self._updates(iterator, _int64(begin), _int64(seen), tf.constant(False))
            # Growth ranks gradients that may differ by less than TF32's error. XLA takes the choice
            # when it compiles, so `Replicas` compiles these updates apart from the others.
            with tensor_float_32(False):
                self._updates(iterator, _int64(seen), _int64(middle), tf.constant(True))
                began = self._time()
                for player in changing:
                    amount = self._amount(player, last)
                    if amount is not None:
                        update_topology = self._topology_updates[player]
                        update_topology(_int64(last), tf.constant(amount, tf.float64))  # lines 7, 8
                self.topology_seconds += self._time() - began
            self._update_average_from_host(_int64(last))  # Eq. 5
            begin = middle
        if begin < end:
            self._updates(iterator, _int64(begin), _int64(end), tf.constant(False))

    def _run_updates(
        self, iterator: Iterator[Any], begin: tf.Tensor, end: tf.Tensor, changes: tf.Tensor
    ) -> None:
        """Runs discriminator updates `begin` to `end` - 1, and the generator updates among them.

        If `changes`, a topology update follows the last update. Then that update computes the
        gradients of all weights for growth, and its average waits for the topology update.
        """
        self.num_traces += 1  # Python code runs when a graph is made.
        algorithm = self._algorithm
        for update in tf.range(begin, end):  # line 3
            grows = changes & (update == end - 1)
            self.discriminator.update(iterator, update, grows)  # line 4
            if update % algorithm.discriminator_steps == algorithm.last_update(1):
                step = update // algorithm.discriminator_steps + 1
                self.generator.update(None, step, grows)  # line 5
                if self._balance and step % self._measured.every == 0:
                    self._measure_balance(step)
                if not grows:
                    self._update_average(step)  # Eq. 5

    def _discriminator_objective(
        self, images: tf.Tensor, labels: tf.Tensor, update: tf.Tensor, part: Any
    ) -> LossFunction:
        """Line 4: the discriminator's loss on one micro-batch of this replica.

        Args:
            images: float32 [b, H, W, C], real images.
            labels: int32 [b].
            update: int64, discriminator updates done so far.
            part: int, the number of the micro-batch.

        Returns:
            A function that returns the loss and the mean logits of real and generated images.
        """
        noise, algorithm = self._noise, self._algorithm
        if self._last_batch:
            self._last_batch.assign(images, labels)
        latents, fake_labels = noise.latents(
            algorithm.batch_size, Purpose.DISCRIMINATOR_UPDATE, update, part
        )
        fakes = self._gan.generate(latents, fake_labels, training=True)
        fakes = noise.augmented(fakes, Purpose.FAKE_AUGMENTATION, update, part)
        images = noise.augmented(images, Purpose.REAL_AUGMENTATION, update, part)

        def loss() -> tuple[tf.Tensor, list[tf.Tensor]]:
            added: list[tf.Tensor] = []
            fake_batch = (tf.stop_gradient(fakes), fake_labels)
            real, fake = self._logits((images, labels), fake_batch, added)
            value = algorithm.loss.discriminator(real, fake)
            value += _own_loss(self._gan.discriminator, added)
            return value, [tf.reduce_mean(real), tf.reduce_mean(fake)]

        return loss

    def _generator_objective(self, step: tf.Tensor, part: Any) -> LossFunction:
        """Line 5: the generator's loss on one micro-batch; `step`, int64, counts from 1."""
        noise, algorithm = self._noise, self._algorithm
        latents, labels = noise.latents(
            algorithm.generator_batch_size, Purpose.GENERATOR_UPDATE, step, part
        )

        def loss() -> tuple[tf.Tensor, list[tf.Tensor]]:
            added: list[tf.Tensor] = []
            fakes = self._gan.generate(latents, labels, training=True, added=added)
            fakes = noise.augmented(fakes, Purpose.GENERATOR_AUGMENTATION, step, part)
            fake = self._gan.discriminate(fakes, labels)
            if self._balance:
                self._balance.before.assign(tf.reduce_mean(fake))
            return algorithm.loss.generator(fake) + _own_loss(self._gan.generator, added), []

        return loss

    def _change_generator(self, step: tf.Tensor, amount: tf.Tensor) -> None:
        """Lines 7 and 8 for the generator."""
        self.num_traces += 1
        self.generator.update_topology(
            amount,
            self._noise.seed(Purpose.GENERATOR_TOPOLOGY, step),
            lambda: self._generator_objective(step, self._algorithm.accumulation_steps - 1),
        )

    def _change_discriminator(self, step: tf.Tensor, amount: tf.Tensor) -> None:
        """Lines 7 and 8 for the discriminator."""
        self.num_traces += 1

        def objective() -> LossFunction:
            images, labels = self._last_batch.read()
            update, part = self._algorithm.last_update(step), self._algorithm.accumulation_steps - 1
            return self._discriminator_objective(images, labels, update, part)

        self.discriminator.update_topology(
            amount, self._noise.seed(Purpose.DISCRIMINATOR_TOPOLOGY, step), objective
        )

    def _move_average(self, step: tf.Tensor) -> None:
        """Eq. 5: one update of the averaged generator."""
        self.num_traces += 1
        start, decay = self._algorithm.average_start, self._algorithm.average_decay
        self._gan.averaged.update(tf.where(step < start, 0.0, decay))

    # Parts of the algorithm.

    def _logits(
        self,
        real: tuple[tf.Tensor, tf.Tensor],
        fake: tuple[tf.Tensor, tf.Tensor],
        added: list[tf.Tensor],
    ) -> Sequence[tf.Tensor]:
        """The discriminator's logits [b, 1] of real and of generated (images, labels).

        The losses that its layers add in these calls are appended to `added`.
        """
        discriminate = functools.partial(self._gan.discriminate, added=added)
        if not self._algorithm.joint_discrimination:
            return discriminate(*real), discriminate(*fake)
        images, labels = (tf.concat(pair, axis=0) for pair in zip(real, fake, strict=True))
        return tf.split(discriminate(images, labels), 2)

    def _amount(self, player: Player, step: int) -> float | Sequence[float] | None:
        """How much the rule of a player changes its topology after `step`."""
        ratio = self._balance and self._balance.mean(self._read, of_full_window=True)
        state = self._algorithm.training_state(step, player.explorer.density(), ratio)
        return player.amount(state)

    def _compare_balance(self, step: tf.Tensor) -> None:
        """Measures the balance ratio on the last micro-batches of both networks."""
        gan, noise, algorithm = self._gan, self._noise, self._algorithm
        part = algorithm.accumulation_steps - 1
        images, labels = self._last_batch.read()
        update = algorithm.last_update(step)
        images = noise.augmented(images, Purpose.REAL_AUGMENTATION, update, part)
        latents, fake_labels = noise.latents(
            algorithm.generator_batch_size, Purpose.GENERATOR_UPDATE, step, part
        )
        with undisturbed(*self._game):
            fakes = gan.generate(latents, fake_labels, training=True)
            fakes = noise.augmented(fakes, Purpose.GENERATOR_AUGMENTATION, step, part)
            after = tf.reduce_mean(gan.discriminate(fakes, fake_labels))
            real = tf.reduce_mean(gan.discriminate(images, labels))
        means = tf.stack([self._balance.before.value(), after, real])
        (means,) = self._replicas.mean([means])
        self._balance.append(balance_ratio(*tf.unstack(means)))

    def _read(self, variable: tf.Variable) -> Any:
        return self._replicas.first(variable).numpy()

    # Questions of the host.

    def _time(self) -> float:
        """The time in seconds at which a device has done all that it was asked to do."""
        self.first_bad()  # To read a number, the host waits for the device.
        return time.monotonic()

    def restart(self) -> None:
        """Forgets rollbacks and sums of metrics, which belong to another run."""
        self.attempt.assign(0)
        self.restart_metrics()

    def lengthen(self, total_steps: int) -> None:
        """Gives the training another length, which only topology rules are told.

        Args:
            total_steps: as in `Algorithm`.
        """
        self._algorithm = dataclasses.replace(self._algorithm, total_steps=total_steps)

    def num_done(self) -> int | None:
        """The number of whole steps done, after `run` was ended by a batch that cannot be read.

        In a graph an update begins when its batch has been read and the update before is over.

        Returns:
            The number; None if the last step was begun and not ended.
        """
        done, begun = divmod(self.discriminator.begun + 1, self._algorithm.discriminator_steps)
        return None if begun else done

    def first_bad(self) -> tuple[int, str] | None:
        """The first value that was not finite.

        Returns:
            None, or (generator step, text naming the value and its layer).
        """
        algorithm = self._algorithm
        found: list[tuple[float, int, str]] = []  # (time in discriminator updates, step, text)
        bad = self.discriminator.first_bad()
        if bad is not None:
            update, what = bad
            found.append((update, update // algorithm.discriminator_steps + 1, what))
        bad = self.generator.first_bad()
        if bad is not None:
            step, what = bad
            found.append((algorithm.last_update(step) + 0.5, step, what))
        return min(found)[1:] if found else None

    def pop_metrics(self) -> dict[str, float]:
        """The `metrics`, whose means then begin again."""
        metrics = self.metrics()
        self.restart_metrics()
        return metrics

    def metrics(self) -> dict[str, float]:
        """Means of the metrics since `restart_metrics`, and the loss scales, by name."""
        metrics = self.discriminator.metrics() | self.generator.metrics()
        ratio = self._balance and self._balance.mean(self._read)
        return metrics if ratio is None else {**metrics, "balance_ratio": ratio}

    def restart_metrics(self) -> None:
        """Lets the means of `metrics` begin again."""
        for player in self.players.values():
            player.restart_metrics()

    def state(self) -> dict[str, tf.Variable]:
        """All variables that later steps depend on, by unique name."""
        state = {"attempt": self.attempt}
        for player in self.players.values():
            state |= player.state()
        state |= self._gan.averaged.state()
        if self._balance:
            state |= {f"balance/{name}": v for name, v in self._balance.state().items()}
        return state


class _LastBatch:
    """The last micro-batch of real images, for measurements after an update."""

    def __init__(self, size: int, image_shape: Sequence[int]) -> None:
        self._images = tf.Variable(tf.zeros([size, *image_shape]), trainable=False)
        # GPUs do not support variables of int32.
        self._labels = tf.Variable(tf.zeros([size], tf.int64), trainable=False)

    def assign(self, images: tf.Tensor, labels: tf.Tensor) -> None:
        self._images.assign(images)
        self._labels.assign(tf.cast(labels, tf.int64))

    def read(self) -> tuple[tf.Tensor, tf.Tensor]:
        return self._images.value(), tf.cast(self._labels.value(), tf.int32)


def _own_loss(model: keras.Model, added: Sequence[tf.Tensor]) -> tf.Tensor | float:
    """The sum of what a network itself adds to its loss.

    Each replica adds it for its own part of a micro-batch, and gradients are averaged over replicas
    and micro-batches. So a mean over images counts as in one batch on one device. A sum over images
    is divided by the number of parts. Keras divides activity regularizers by the number of images.

    Args:
        model: the network, whose variables may have regularizers.
        added: what its layers added in their calls: activity regularizers and `add_loss`.
    """
    losses = [*added]
    for variable in model.trainable_variables:
        if variable.regularizer is not None:
            losses.append(variable.regularizer(variable))
    return sum(tf.reduce_sum(tf.cast(loss, tf.float32)) for loss in losses) if losses else 0.0


def _int64(value: int) -> tf.Tensor:
    return tf.constant(value, tf.int64)
