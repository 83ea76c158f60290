"""The compiled updates: lines 4 to 8 of Algorithm 1 on any `tf.distribute` strategy."""

import contextlib
import functools

import tensorflow as tf

from stugan_tf.errors import InputError
from stugan_tf.layers.execution import densely, gradients_of_zeros
from stugan_tf.layers.masked import moving_variables
from stugan_tf.randomness import Purpose, draw_latents, fold
from stugan_tf.sparsity.explorer import Explorer
from stugan_tf.training.augmentation import check_augmentation
from stugan_tf.training.balance import BalanceMeter, balance_ratio
from stugan_tf.training.precision import LossScale

METRICS = {
    "discriminator": ("d_loss", "d_real", "d_fake", "d_gradient_norm"),
    "generator": ("g_loss", "g_gradient_norm"),
}


class Steps:
    """Runs generator steps of Algorithm 1, many per host call.

    Replicas hold equal state throughout: gradients and metrics are averaged over replicas before
    use, and every replica then makes the same local updates.

    Attributes:
        explorers: an `Explorer` of each network by name.
        attempt: variable that counts rollbacks.
        keeps_gradients: whether updates add up gradients in variables.
    """

    def __init__(self, gan, algorithm, strategy, seed, jit_compile, scales_loss=False):
        """Creates the state of the updates; call inside `strategy.scope()`.

        Args:
            gan: a `GAN` of the same scope.
            algorithm: an `Algorithm`.
            strategy: the `tf.distribute.Strategy`.
            seed: an integer, of latents, labels and random growth.
            jit_compile: compile each update with XLA.
            scales_loss: scale losses, see `LossScale`; for networks that compute in float16.
        """
        algorithm.check_replicas(strategy.num_replicas_in_sync)
        self._gan = gan
        self._algorithm = algorithm
        self._strategy = strategy
        self._seed = (seed, 0)
        self.explorers = {
            name: Explorer(network, algorithm.rules[name], may_miss=scales_loss)
            for name, network in gan.networks.items()
        }
        if algorithm.augmentation is not None:
            shape = gan.discriminator.inputs[0].shape[1:]
            check_augmentation("Algorithm.augmentation", algorithm.augmentation, shape)
        for name, regularization in algorithm.regularizations.items():
            if regularization is not None:
                regularization.check(gan.networks[name])
        measured = algorithm.balance_ratio
        self._balance = None if measured is None else BalanceMeter(measured)
        self._create_leftovers()
        # After a rollback the same numbers would lead to the same end.
        self.attempt = tf.Variable(0, dtype=tf.int64, trainable=False)
        self._scales = {name: LossScale() for name in METRICS if scales_loss}
        # Gradients in variables: whether to use them can be asked before that is compiled.
        self.keeps_gradients = algorithm.accumulation_steps > 1 or scales_loss
        self._sums = {
            name: tf.Variable(tf.zeros([len(names) + 1]), trainable=False)
            for name, names in METRICS.items()
        }
        # The first step with a value that is not finite, and the index of that value.
        self._first_bad = {
            name: tf.Variable([-1, -1], dtype=tf.int64, trainable=False) for name in METRICS
        }
        # What micro-batches leave for the update: gradients and metrics.
        self._accumulated = {
            name: [
                tf.Variable(tf.zeros(shape), trainable=False)
                for shape in [
                    *(variable.shape for variable in gan.networks[name].trainable_variables),
                    [len(METRICS[name]) - 1],
                ]
            ]
            for name in METRICS
            if self.keeps_gradients
        }
        compiled = functools.partial(_compile, strategy, jit_compile)
        differentiate = {
            "discriminator": self._discriminator_gradients,
            "generator": self._generator_gradients,
        }

        def of_each_network(function):
            return {
                name: compiled(functools.partial(function, name, differentiate[name]))
                for name in METRICS
            }

        self._update = of_each_network(self._update_at_once)
        self._accumulate = of_each_network(self._accumulate_part)
        self._gather = of_each_network(self._gather_parts)
        self._conclude = of_each_network(self._update_by_parts)
        self._update_averages = compiled(self._update_average)
        self._measure = compiled(self._measure_balance)
        self._explore = {
            name: self._on_replicas(
                compiled(functools.partial(self._update_topology, name, differentiate[name]))
            )
            for name, exploration in algorithm.rules.items()
            if exploration is not None
        }
        self._average = self._on_replicas(self._update_averages)
        self._run = tf.function(self._run_updates)

    def _create_leftovers(self):
        """What the last updates leave for measurements after them; no state of the training."""
        algorithm, num_replicas = self._algorithm, self._strategy.num_replicas_in_sync
        size = algorithm.batch_size // (algorithm.accumulation_steps * num_replicas)
        shape = self._gan.discriminator.inputs[0].shape[1:]
        self._last_batch = None
        if self._balance or self.explorers["discriminator"].wants_hessian_gradient:
            self._last_batch = (
                tf.Variable(tf.zeros([size, *shape]), trainable=False),
                # GPUs hold no variables of int32.
                tf.Variable(tf.zeros([size], tf.int64), trainable=False),
            )
        self._last_fake = tf.Variable(0.0, trainable=False)

    def _on_replicas(self, update):
        return tf.function(lambda *arguments: self._strategy.run(update, arguments))

    def run(self, iterator, step, num_steps):
        """Runs `num_steps` steps after step `step`; only the last of them may explore.

        Args:
            iterator: of the distributed batches, at position `step * discriminator_steps`.
            step: steps done so far.
            num_steps: a positive integer.
        """
        algorithm = self._algorithm
        last = step + num_steps
        begin, end = step * algorithm.discriminator_steps, last * algorithm.discriminator_steps
        explores = [name for name, explore in algorithm.due(last).items() if explore]
        if explores:
            # The topology changes between the generator's update and that of its average.
            middle = end - algorithm.discriminator_steps + algorithm.generator_position
            self._run(iterator, _int64(begin), _int64(middle), tf.constant(True))
            for name in explores:
                amount = self._amount(name, last)
                if amount is not None:
                    self._explore[name](_int64(last), tf.constant(amount, tf.float64))
            self._average(_int64(last))
            begin = middle
        if begin < end:
            self._run(iterator, _int64(begin), _int64(end), tf.constant(False))

    def _amount(self, name, step):
        """How much the topology of a network is to change, by its rule."""
        ratio = self._balance and self._balance.mean(self._local, of_full_window=True)
        state = self._algorithm.training_state(step, self.explorers[name].density(), ratio)
        return self._algorithm.rules[name].amount(state)

    def _run_updates(self, iterator, begin, end, explores):
        """Discriminator updates number `begin` to `end` - 1 and what belongs between them.

        If the last update `explores`, the gradients of all weights are wanted of it, and the
        average waits.
        """
        run, per_step = self._strategy.run, self._algorithm.discriminator_steps
        for update in tf.range(begin, end):
            grows = explores & (update == end - 1)
            self._take("discriminator", iterator, update, grows)
            if update % per_step == self._algorithm.generator_position - 1:
                step = update // per_step + 1
                self._take("generator", None, step, grows)
                if self._balance and step % self._algorithm.balance_ratio.every == 0:
                    run(self._measure, (step,))
                if not grows:
                    run(self._update_averages, (step,))

    def _take(self, name, iterator, step, grows):
        """One update of a network, of one whole batch or of micro-batches one by one."""
        run = self._strategy.run
        if not self.keeps_gradients:
            batch = () if iterator is None else next(iterator)
            run(self._update[name], (*batch, step, grows))
        else:
            for part in tf.range(self._algorithm.accumulation_steps):
                batch = () if iterator is None else next(iterator)
                run(self._accumulate[name], (*batch, step, grows, part))
            fits = run(self._gather[name])
            if self._strategy.experimental_local_results(fits)[0]:
                run(self._conclude[name], (step, grows))

    def _update_at_once(self, name, differentiate, *arguments):
        *_, step, grows = arguments
        gradients, values = self._gathered(*differentiate(*arguments, part=0))
        self._descend(name, gradients, values, step, grows)

    def _accumulate_part(self, name, differentiate, *arguments):
        *arguments, part = arguments
        gradients, values = differentiate(*arguments, part=part)
        for total, value in zip(self._accumulated[name], [*gradients, values], strict=True):
            total.assign(tf.where(part == 0, value, total + value))

    def _gather_parts(self, name, _):
        """Averages what was accumulated; returns whether the update is to be made."""
        accumulated, num_parts = self._accumulated[name], self._algorithm.accumulation_steps
        *gradients, values = [total / num_parts for total in accumulated]
        gradients, values = self._gathered(gradients, values)
        for total, mean in zip(accumulated, [*gradients, values], strict=True):
            total.assign(mean)
        if not self._scales:
            return tf.constant(True)
        return self._scales[name].update(values[0], gradients)

    def _update_by_parts(self, name, _, step, grows):
        *gradients, values = [mean.value() for mean in self._accumulated[name]]
        self._descend(name, gradients, values, step, grows)

    def _discriminator_gradients(self, images, labels, update, grows, part):
        """Line 4: how the discriminator is to change, by one micro-batch.

        Args:
            images: float32 [b, H, W, C], real images of this replica.
            labels: int32 [b].
            update: int64, discriminator updates done so far.
            grows: bool, whether a topology update comes next.
            part: int, number of the micro-batch.

        Returns:
            The gradients of all trainable variables, and the values of `METRICS`.
        """
        gan = self._gan
        if self._last_batch:
            for kept, value in zip(self._last_batch, (images, labels), strict=True):
                kept.assign(tf.cast(value, kept.dtype))
        latents, fake_labels = self._draw(
            self._algorithm.batch_size, Purpose.DISCRIMINATOR_UPDATE, update, part
        )
        fake_images = gan.generate(latents, fake_labels, training=True)
        fake_images = self._altered(fake_images, Purpose.FAKE_AUGMENTATION, update, part)
        images = self._altered(images, Purpose.REAL_AUGMENTATION, update, part)
        with self._gradients_of_zeros("discriminator", grows), tf.GradientTape() as tape:
            real, fake = self._logits(
                (images, labels), (tf.stop_gradient(fake_images), fake_labels)
            )
            loss = self._algorithm.loss.discriminator(real, fake)
            scaled = self._scaled("discriminator", loss)
        values = tf.stack([loss, tf.reduce_mean(real), tf.reduce_mean(fake)])
        return self._gradients("discriminator", tape, scaled), values

    def _logits(self, real, fake):
        """The discriminator's logits [b, 1] of real and of generated (images, labels)."""
        discriminate = self._gan.discriminate
        if not self._algorithm.joint_discrimination:
            return discriminate(*real), discriminate(*fake)
        images, labels = (tf.concat(pair, axis=0) for pair in zip(real, fake, strict=True))
        return tf.split(discriminate(images, labels), 2)

    def _generator_gradients(self, step, grows, part):
        """Line 5: how the generator is to change; `step`, int64, counts from 1."""
        gan, algorithm = self._gan, self._algorithm
        latents, labels = self._draw(
            algorithm.generator_batch_size, Purpose.GENERATOR_UPDATE, step, part
        )
        with self._gradients_of_zeros("generator", grows), tf.GradientTape() as tape:
            images = gan.generate(latents, labels, training=True)
            images = self._altered(images, Purpose.GENERATOR_AUGMENTATION, step, part)
            fake = gan.discriminate(images, labels)
            if self._balance:
                self._last_fake.assign(tf.reduce_mean(fake))
            loss = algorithm.loss.generator(fake)
            scaled = self._scaled("generator", loss)
        return self._gradients("generator", tape, scaled), tf.stack([loss])

    def _gradients_of_zeros(self, name, grows):
        """Asks for the gradient of inactive weights where the optimizer or growth will see it."""
        explorer, optimizer = self.explorers[name], self._gan.optimizers[name]
        clips = optimizer.clipnorm or optimizer.global_clipnorm  # By a norm of all weights.
        if optimizer.moments == "dense" or clips or explorer.has_momentum:
            return gradients_of_zeros(True)
        return gradients_of_zeros(grows if explorer.rule is not None else False)

    def _measure_balance(self, step):
        """Measures the balance ratio, on the last micro-batch of the updates before."""
        gan, algorithm = self._gan, self._algorithm
        part = algorithm.accumulation_steps - 1
        images, labels = self._read_last_batch()
        images = self._altered(images, Purpose.REAL_AUGMENTATION, self._last_update(step), part)
        latents, fake_labels = self._draw(
            algorithm.generator_batch_size, Purpose.GENERATOR_UPDATE, step, part
        )
        with self._undisturbed():
            fakes = gan.generate(latents, fake_labels, training=True)
            fakes = self._altered(fakes, Purpose.GENERATOR_AUGMENTATION, step, part)
            after = tf.reduce_mean(gan.discriminate(fakes, fake_labels))
            real = tf.reduce_mean(gan.discriminate(images, labels))
        means = tf.stack([self._last_fake.value(), after, real])
        (means,) = self._mean_over_replicas([means])
        self._balance.append(balance_ratio(*tf.unstack(means)))

    def _read_last_batch(self):
        images, labels = self._last_batch
        return images.value(), tf.cast(labels.value(), tf.int32)

    def _last_update(self, step):
        """The number of the discriminator update that came before the generator's."""
        algorithm = self._algorithm
        return algorithm.discriminator_steps * (step - 1) + algorithm.generator_position - 1

    @contextlib.contextmanager
    def _undisturbed(self):
        """Passes through the networks inside move no statistics and no singular vectors."""
        moving = [v for model in self._gan.networks.values() for v in moving_variables(model)]
        before = [tf.identity(variable) for variable in moving]
        yield
        for variable, value in zip(moving, before, strict=True):
            variable.assign(value)

    def _update_topology(self, name, differentiate, step, amount):
        """Lines 7 and 8: one topology update of a network."""
        purpose = Purpose[f"{name.upper()}_EXPLORATION"]
        seed = fold(self._seed, self.attempt, purpose, step)
        explorer = self.explorers[name]
        hessian_gradients = None
        if explorer.wants_hessian_gradient:
            batch, count = (), step
            if name == "discriminator":
                batch, count = self._read_last_batch(), self._last_update(step)
            hessian_gradients = self._hessian_gradients(explorer, differentiate, *batch, count)
        explorer.update(amount, seed, hessian_gradients)

    def _hessian_gradients(self, explorer, differentiate, *arguments):
        """H g per masked kernel, on the last micro-batch; g is of active weights alone."""
        masks = [layer.kernel_mask.value for layer in explorer.layers]
        kernels = [layer.kernel.value for layer in explorer.layers]
        part = self._algorithm.accumulation_steps - 1
        with self._undisturbed(), densely(), tf.GradientTape() as tape:
            gradients, _ = differentiate(*arguments, grows=True, part=part)
            gradients = [
                mask * gradient
                for mask, gradient in zip(masks, explorer.kernel_gradients(gradients), strict=True)
            ]
            # The loss is a mean over replicas, and so are g and H; g is constant in H g.
            means = self._mean_over_replicas(list(map(tf.stop_gradient, gradients)))
            flow = tf.add_n(
                [
                    tf.reduce_sum(gradient * tf.stop_gradient(mean))
                    for gradient, mean in zip(gradients, means, strict=True)
                ]
            )
        return self._mean_over_replicas(
            tape.gradient(flow, kernels, unconnected_gradients=tf.UnconnectedGradients.ZERO)
        )

    def _update_average(self, step):
        """Eq. 5: one update of the averaged generator."""
        start, decay = self._algorithm.average_start, self._algorithm.average_decay
        self._gan.averaged.update(tf.where(step < start, 0.0, decay))

    def _scaled(self, name, loss):
        return loss * self._scales[name].factor if self._scales else loss

    def _gradients(self, name, tape, scaled_loss):
        gradients = tape.gradient(
            scaled_loss,
            [variable.value for variable in self._gan.networks[name].trainable_variables],
            unconnected_gradients=tf.UnconnectedGradients.ZERO,
        )
        # Those of embeddings come as IndexedSlices.
        gradients = [tf.convert_to_tensor(gradient) for gradient in gradients]
        if self._scales:
            gradients = [gradient / self._scales[name].factor for gradient in gradients]
        return gradients

    def _gathered(self, gradients, values):
        """Means over replicas; their moving statistics become equal, too."""
        *gradients, values = self._mean_over_replicas([*gradients, values])
        self._share_statistics()
        return gradients, values

    def _descend(self, name, gradients, values, step, grows):
        """Updates a network by gradients, and keeps `values` of METRICS: those of all replicas."""
        network, explorer = self._gan.networks[name], self.explorers[name]
        regularization = self._algorithm.regularizations[name]
        if regularization is not None:
            gradients = [
                gradient if added is None else gradient + added
                for gradient, added in zip(
                    gradients, regularization.gradients(network), strict=True
                )
            ]
        norms = tf.stack(explorer.norms(gradients))
        self._sums[name].assign_add(tf.concat([values, [tf.norm(norms), 1.0]], axis=0))
        self._note_first_bad(self._first_bad[name], tf.concat([values[:1], norms], axis=0), step)
        self._gan.optimizers[name].apply(gradients, network.trainable_variables)
        explorer.observe(gradients, grows)

    def _draw(self, global_batch_size, purpose, step, part):
        """This replica's part of the latents and labels of a micro-batch of a global batch."""
        latents, labels = draw_latents(
            global_batch_size,
            self._gan.latent_dim,
            self._gan.num_classes,
            fold(self._seed, self.attempt, purpose, step),
        )
        return self._own(latents, part), self._own(labels, part)

    def _altered(self, images, purpose, step, part):
        """What the discriminator is shown of this replica's `images` of a micro-batch."""
        algorithm = self._algorithm
        if algorithm.augmentation is None:
            return images
        drawn = algorithm.augmentation.draw(
            images.shape[0] * algorithm.accumulation_steps * self._strategy.num_replicas_in_sync,
            images.shape[1:],
            fold(self._seed, self.attempt, purpose, step),
        )
        return algorithm.augmentation.apply(images, [self._own(d, part) for d in drawn])

    def _own(self, values, part):
        """What of a global batch [B, ...] belongs to this replica in micro-batch `part`."""
        num_replicas = self._strategy.num_replicas_in_sync
        size = values.shape[0] // (self._algorithm.accumulation_steps * num_replicas)
        replica = tf.distribute.get_replica_context().replica_id_in_sync_group
        start = size * (num_replicas * part + replica)
        return tf.slice(values, [start, *[0] * (values.shape.rank - 1)], [size, *values.shape[1:]])

    def _mean_over_replicas(self, tensors):
        if self._strategy.num_replicas_in_sync == 1:
            return tensors
        # A reduction goes where its input is, but gradients may be nowhere yet.
        tensors = [tf.identity(tensor) for tensor in tensors]
        return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.MEAN, tensors)

    def _share_statistics(self):
        """Averages the moving statistics, which each replica took of its own part of the batch.

        Normalisation itself stays local unless the model asks for cross-replica statistics.
        """
        if self._strategy.num_replicas_in_sync == 1:
            return
        statistics = [v for model in self._gan.networks.values() for v in moving_variables(model)]
        if statistics:
            for variable, mean in zip(
                statistics, self._mean_over_replicas(statistics), strict=True
            ):
                variable.assign(mean)

    def _note_first_bad(self, first_bad, values, step):
        bad = ~tf.math.is_finite(values)
        found = tf.stack([tf.cast(step, tf.int64), tf.argmax(tf.cast(bad, tf.int32))])
        is_first = tf.reduce_any(bad) & (first_bad[0] < 0)
        first_bad.assign(tf.where(is_first, found, first_bad))

    def restart(self):
        """Forgets rollbacks and sums of metrics, which are those of another run."""
        self.attempt.assign(0)
        self.pop_metrics()

    def first_bad(self):
        """What was the first value that is not finite.

        Returns:
            None, or (generator step, text naming the value and its layer).
        """
        per_step = self._algorithm.discriminator_steps
        found = []  # (when, in discriminator updates; generator step; text)
        for name, variable in self._first_bad.items():
            step, index = (int(value) for value in self._local(variable))
            if step < 0:
                continue
            if name == "discriminator":
                when, step = step, step // per_step + 1
            else:
                when = (step - 1) * per_step + self._algorithm.generator_position - 0.5
            if index == 0:
                what = f"the {name}'s loss"
            else:
                path = self._gan.networks[name].trainable_variables[index - 1].path
                what = f"the gradient of the {name}'s {path}"
            found.append((when, step, what))
        return min(found)[1:] if found else None

    def pop_metrics(self):
        """Means of the metrics since the last call, and the scales of losses; floats by name."""
        metrics = {}
        for name, variable in self._sums.items():
            *sums, count = self._local(variable)
            for metric, total in zip(METRICS[name], sums, strict=True):
                metrics[metric] = float(total / max(count, 1))
            variable.assign(tf.zeros_like(variable))
        for name, scale in self._scales.items():
            metrics[f"{name[0]}_loss_scale"] = float(self._local(scale.factor))
        ratio = self._balance and self._balance.mean(self._local)
        if ratio is not None:
            metrics["balance_ratio"] = ratio
        return metrics

    def _local(self, variable):
        return self._strategy.experimental_local_results(variable)[0].numpy()

    def state(self):
        """All variables that later steps depend on, by unique name."""
        state = {"attempt": self.attempt}
        for name in METRICS:
            state[f"metrics/{name}"] = self._sums[name]
            state[f"first_bad/{name}"] = self._first_bad[name]
            for index, variable in enumerate(self.explorers[name].state()):
                state[f"exploration/{name}/{index:03d}"] = variable
        for name, scale in self._scales.items():
            for part, variable in scale.state().items():
                state[f"loss_scale/{name}/{part}"] = variable
        for part, variable in (self._balance.state() if self._balance else {}).items():
            state[f"balance/{part}"] = variable
        return state


def _int64(value):
    return tf.constant(value, tf.int64)


def _compile(strategy, jit_compile, update):
    if not jit_compile:
        return tf.autograph.experimental.do_not_convert(update)
    if strategy.num_replicas_in_sync > 1 and all(
        "CPU" in device for device in strategy.extended.worker_devices
    ):
        raise InputError(
            f"train.jit_compile = True does not work on {strategy.num_replicas_in_sync} replicas "
            "on CPUs: TensorFlow cannot reduce over them inside a compiled function. Set it to "
            "'auto', or use one replica."
        )
    return tf.function(update, jit_compile=True, autograph=False)
