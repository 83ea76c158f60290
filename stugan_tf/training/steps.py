"""The compiled updates: lines 4 to 8 of Algorithm 1 on any `tf.distribute` strategy."""

import functools

import tensorflow as tf

from stugan_tf.errors import InputError
from stugan_tf.layers.execution import gradients_of_zeros
from stugan_tf.layers.masked import moving_variables
from stugan_tf.randomness import Purpose, draw_latents, fold
from stugan_tf.sparsity.exploration import Explorer

METRICS = {
    "discriminator": ("d_loss", "d_real", "d_fake", "d_gradient_norm"),
    "generator": ("g_loss", "g_gradient_norm"),
}


class Steps:
    """Runs generator steps of Algorithm 1, many per host call.

    Replicas hold equal state throughout: gradients and metrics are averaged over replicas before
    use, and every replica then makes the same local updates.
    """

    def __init__(self, gan, algorithm, strategy, seed, jit_compile):
        """Creates the state of the updates; call inside `strategy.scope()`.

        Args:
            gan: a `GAN` of the same scope.
            algorithm: an `Algorithm`.
            strategy: the `tf.distribute.Strategy`.
            seed: an integer, of latents, labels and random growth.
            jit_compile: compile each update with XLA.
        """
        algorithm.check_replicas(strategy.num_replicas_in_sync)
        self._gan = gan
        self._algorithm = algorithm
        self._strategy = strategy
        self._seed = (seed, 0)
        self.explorers = {
            name: Explorer(network, algorithm.explorations[name])
            for name, network in gan.networks.items()
        }
        # After a rollback the same numbers would lead to the same end.
        self.attempt = tf.Variable(0, dtype=tf.int64, trainable=False)
        self._sums = {
            name: tf.Variable(tf.zeros([len(names) + 1]), trainable=False)
            for name, names in METRICS.items()
        }
        # The first step with a value that is not finite, and the index of that value.
        self._first_bad = {
            name: tf.Variable([-1, -1], dtype=tf.int64, trainable=False) for name in METRICS
        }
        compiled = functools.partial(_compile, strategy, jit_compile)
        self._update = {
            "discriminator": compiled(self._update_discriminator),
            "generator": compiled(self._update_generator),
            "average": compiled(self._update_average),
        }
        self._explore = {
            name: self._on_replicas(compiled(functools.partial(self._update_topology, name)))
            for name, exploration in algorithm.explorations.items()
            if exploration is not None
        }
        self._average = self._on_replicas(self._update["average"])
        self._run = tf.function(self._run_updates)

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
        explores = [name for name, explore in algorithm.explores(last).items() if explore]
        if explores:
            # The topology changes between the generator's update and that of its average.
            middle = end - algorithm.discriminator_steps + algorithm.generator_position
            self._run(iterator, _int64(begin), _int64(middle), tf.constant(True))
            for name in explores:
                fraction = tf.constant(algorithm.drop_fraction(name, last), tf.float64)
                self._explore[name](_int64(last), fraction)
            self._average(_int64(last))
            begin = middle
        if begin < end:
            self._run(iterator, _int64(begin), _int64(end), tf.constant(False))

    def _run_updates(self, iterator, begin, end, explores):
        """Discriminator updates number `begin` to `end` - 1 and what belongs between them.

        If the last update `explores`, the gradients of all weights are wanted of it, and the
        average waits.
        """
        run, per_step = self._strategy.run, self._algorithm.discriminator_steps
        for update in tf.range(begin, end):
            images, labels = next(iterator)
            grows = explores & (update == end - 1)
            run(self._update["discriminator"], (images, labels, update, grows))
            if update % per_step == self._algorithm.generator_position - 1:
                step = update // per_step + 1
                run(self._update["generator"], (step, grows))
                if not grows:
                    run(self._update["average"], (step,))

    def _update_discriminator(self, images, labels, update, grows):
        """Line 4: one update of the discriminator.

        Args:
            images: float32 [b, H, W, C], real images of this replica.
            labels: int32 [b].
            update: int64, discriminator updates done so far.
            grows: bool, whether a topology update comes next.
        """
        gan = self._gan
        latents, fake_labels = self._draw(
            self._algorithm.batch_size, Purpose.DISCRIMINATOR_UPDATE, update
        )
        fake_images = gan.generate(latents, fake_labels, training=True)
        with self._gradients_of_zeros("discriminator", grows), tf.GradientTape() as tape:
            real = gan.discriminate(images, labels)
            fake = gan.discriminate(tf.stop_gradient(fake_images), fake_labels)
            loss = self._algorithm.loss.discriminator(real, fake)
        values = [loss, tf.reduce_mean(real), tf.reduce_mean(fake)]
        self._descend("discriminator", tape, values, update, grows)

    def _update_generator(self, step, grows):
        """Line 5: one update of the generator; `step`, int64, counts from 1."""
        gan, algorithm = self._gan, self._algorithm
        latents, labels = self._draw(algorithm.generator_batch_size, Purpose.GENERATOR_UPDATE, step)
        with self._gradients_of_zeros("generator", grows), tf.GradientTape() as tape:
            fake = gan.discriminate(gan.generate(latents, labels, training=True), labels)
            loss = algorithm.loss.generator(fake)
        self._descend("generator", tape, [loss], step, grows)

    def _gradients_of_zeros(self, name, grows):
        """Asks for the gradient of inactive weights where the optimizer or growth will see it."""
        explorer, optimizer = self.explorers[name], self._gan.optimizers[name]
        clips = optimizer.clipnorm or optimizer.global_clipnorm  # By a norm of all weights.
        if optimizer.moments == "dense" or clips or explorer.has_momentum:
            return gradients_of_zeros(True)
        return gradients_of_zeros(grows if explorer.exploration is not None else False)

    def _update_topology(self, name, step, drop_fraction):
        """Lines 7 and 8: one topology update of a network."""
        purpose = Purpose[f"{name.upper()}_EXPLORATION"]
        seed = fold(self._seed, self.attempt, purpose, step)
        self.explorers[name].explore(drop_fraction, seed)

    def _update_average(self, step):
        """Eq. 5: one update of the averaged generator."""
        start, decay = self._algorithm.average_start, self._algorithm.average_decay
        self._gan.averaged.update(tf.where(step < start, 0.0, decay))

    def _descend(self, name, tape, values, step, grows):
        network, explorer = self._gan.networks[name], self.explorers[name]
        variables = network.trainable_variables
        gradients = tape.gradient(
            values[0],
            [variable.value for variable in variables],
            unconnected_gradients=tf.UnconnectedGradients.ZERO,
        )
        # Those of embeddings come as IndexedSlices.
        gradients = [tf.convert_to_tensor(gradient) for gradient in gradients]
        *gradients, values = self._mean_over_replicas([*gradients, tf.stack(values)])
        norms = tf.stack(explorer.norms(gradients))
        self._sums[name].assign_add(tf.concat([values, [tf.norm(norms), 1.0]], axis=0))
        self._note_first_bad(self._first_bad[name], tf.concat([values[:1], norms], axis=0), step)
        self._gan.optimizers[name].apply(gradients, variables)
        explorer.observe(gradients, grows)
        self._share_statistics()

    def _draw(self, global_batch_size, purpose, step):
        """This replica's part of the latents and labels of a global batch."""
        latents, labels = draw_latents(
            global_batch_size,
            self._gan.latent_dim,
            self._gan.num_classes,
            fold(self._seed, self.attempt, purpose, step),
        )
        size = global_batch_size // self._strategy.num_replicas_in_sync
        start = size * tf.distribute.get_replica_context().replica_id_in_sync_group
        latents = tf.slice(latents, [start, 0], [size, self._gan.latent_dim])
        return latents, tf.slice(labels, [start], [size])

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
        """Means of the metrics since the last call, floats by name."""
        metrics = {}
        for name, variable in self._sums.items():
            *sums, count = self._local(variable)
            for metric, total in zip(METRICS[name], sums, strict=True):
                metrics[metric] = float(total / max(count, 1))
            variable.assign(tf.zeros_like(variable))
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
