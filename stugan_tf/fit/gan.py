"""Sparse GANs as a Keras model: `compile`, `fit`, callbacks and files of Keras' own."""

import contextlib
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from stugan_tf.adapters.keras_internals import all_layers
from stugan_tf.checks import (
    check_above_zero,
    check_bool,
    check_natural,
    check_positive,
    check_seed,
)
from stugan_tf.choices import WEIGHTS
from stugan_tf.contracts import eagerly
from stugan_tf.data.source import UNREADABLE
from stugan_tf.errors import FailedRun, InputError
from stugan_tf.evaluation.sampling import Sampler
from stugan_tf.fit.feed import Feed, feed_of
from stugan_tf.fit.settings import (
    Settings,
    adversarial_loss,
    check_settings,
)
from stugan_tf.layers.execution import check_execution
from stugan_tf.randomness import Purpose, fold
from stugan_tf.signatures import Average, ImageShape
from stugan_tf.sparsity import averaging
from stugan_tf.training.algorithm import Algorithm
from stugan_tf.training.gan import GAN
from stugan_tf.training.losses import Loss
from stugan_tf.training.masked_adam import MaskedAdam
from stugan_tf.training.optimizers import player_optimizer
from stugan_tf.training.steps import Steps
from stugan_tf.training.strategies import should_jit

BLOCK = 64  # Images that `generate` computes at once, as `python -m stugan_tf.sample` does.
# What the progress bar shows of the logs, besides what callbacks add. History has all of it.
SHOWN = ("d_loss", "g_loss", "generator_sparsity", "discriminator_sparsity")
# Averages that a .keras file can name.
_AVERAGES: dict[str, Average] = {
    name: getattr(averaging, name) for name in ("sema", "literal_sema", "masked_ema", "ema")
}


@keras.saving.register_keras_serializable("stugan_tf")
class SparseGAN(keras.Model):
    """A GAN whose networks are sparse from the first step, trained by `fit`.

        gan = st.SparseGAN(generator, discriminator, generator_sparsity=0.9)
        gan.compile(st.MaskedAdam(2e-4), st.MaskedAdam(2e-4), st.hinge(),
                    generator_exploration=st.Exploration(update_interval=100))
        gan.fit(images, batch_size=64, epochs=10, callbacks=[st.SampleGrid("samples")])
        images = gan.generate(16)

    The steps are those of `python -m stugan_tf.train`: with the same networks, settings, seed and
    `Source`, `fit` ends with the same weights, bit for bit.

    To train on several devices, create networks, optimizers and GAN inside `strategy.scope()`.

    Attributes:
        generator: the live generator, with masks.
        discriminator: the discriminator, with masks.
        average: the averaged generator, which makes the best images. Calls of the model and
            `predict` use it.
        gan: the `training.gan.GAN` that is trained; evaluators take it.
        seed: of masks, weights, data order and noise.
        strategy: the `tf.distribute.Strategy` in whose scope it was created, for evaluators.
        image_shape: (H, W, C).
        step: generator steps done.
    """

    def __init__(
        self,
        generator: keras.Model | Callable[..., keras.Model],
        discriminator: keras.Model | Callable[..., keras.Model],
        generator_sparsity: float,
        discriminator_sparsity: float | None = None,
        *,
        image_shape: ImageShape | None = None,
        num_classes: int | None = None,
        seed: int = 0,
        average: Average = averaging.sema,
        initialization_seed: int | None = None,
        mask_dense: bool | None = None,
        name: str = "sparse_gan",
    ) -> None:
        """Builds the networks and makes them sparse.

        Args:
            generator: a functional or sequential model from latents [B, latent_dim], or from
                latents and labels, to images [B, H, W, C] in [-1, 1]. Or a function
                `image_shape -> keras.Model` such as `st.sngan_generator`. The function of a
                conditional generator is also called with `num_classes=...`.
            discriminator: a model or function of the same kind, from images, or images and labels,
                to logits [B, 1].
            generator_sparsity: s_G, fraction of zeros in [0, 1).
            discriminator_sparsity: s_D, fraction of zeros in [0, 1); None takes s_G.
            image_shape: (H, W, C); needed if `generator` is a function.
            num_classes: number of classes of a conditional GAN, whose networks take labels. None
                means that they take none.
            seed: draws masks, weights of networks that are given as functions, data order, and
                noise.
            average: rule of the averaged generator, one of `sparsity.averaging`.
            initialization_seed: as in `GAN`.
            mask_dense: as in `GAN`.
            name: name of the model.

        Raises:
            InputError: if an argument is impossible, or the networks do not fit together.
        """
        super().__init__(name=name)
        if num_classes is not None:
            check_positive("SparseGAN.num_classes", num_classes)
        if image_shape is None:
            if not isinstance(generator, keras.Model):
                raise InputError(
                    "SparseGAN needs image_shape = (H, W, C), because its generator is a function "
                    "that is called with it."
                )
            image_shape = _image_shape_of(generator)
        self.image_shape = image_shape = _checked_shape(image_shape)
        self.seed = seed
        self.strategy = tf.distribute.get_strategy()
        with self.strategy.scope():
            self.gan = GAN(
                image_shape,
                num_classes or 1,
                seed=seed,
                generator=_factory(generator),
                discriminator=_factory(discriminator),
                generator_sparsity=generator_sparsity,
                discriminator_sparsity=discriminator_sparsity,
                generator_optimizer=None,
                discriminator_optimizer=None,
                average=average,
                conditional=num_classes is not None,
                initialization_seed=initialization_seed,
                mask_dense=mask_dense,
            )
        self.generator = self.gan.generator
        self.discriminator = self.gan.discriminator
        self.average = self.gan.averaged.model
        self._made = {  # What a copy is made with; the networks are added when it is asked for.
            "generator_sparsity": generator_sparsity,
            "discriminator_sparsity": discriminator_sparsity,
            "image_shape": list(image_shape),
            "num_classes": num_classes,
            "seed": seed,
            "initialization_seed": initialization_seed,
            "mask_dense": mask_dense,
            "name": name,
        }
        self._average_rule = average
        self.step = 0
        self._begin = 0  # The step at which the present `fit` counts epoch 0.
        self._steps: Steps | None = None
        self._sizes: tuple[int, int] | None = None  # The batch sizes of `_steps`.
        self._loaded: dict[str, np.ndarray] = {}  # State for `_steps`, before these are made.
        self._samplers: dict[Any, Sampler] = {}
        self.built = True

    @property
    def latent_dim(self) -> int:
        """Length of a latent vector."""
        return self.gan.latent_dim

    @property
    def num_classes(self) -> int | None:
        """Number of classes of a conditional GAN, else None."""
        return self.gan.num_classes if self.gan.conditional else None

    def compile(
        self,
        generator_optimizer: keras.optimizers.Optimizer | None = None,
        discriminator_optimizer: keras.optimizers.Optimizer | None = None,
        loss: Loss | keras.losses.Loss | None = None,
        *,
        steps_per_execution: int = 1,
        jit_compile: bool | str = "auto",
        run_eagerly: bool = False,
        auto_scale_loss: bool = True,
        execution: str = "dense",
        rematerialize: bool = False,
        total_steps: int | None = None,
        **settings: Any,
    ) -> None:
        """Says how the networks are trained.

        Args:
            generator_optimizer: a `MaskedAdam`, or any optimizer of Keras. A copy of it is used,
                `gan.generator_optimizer`. None means a `MaskedAdam` with the paper's values.
            discriminator_optimizer: as for the generator.
            loss: one of `training.losses`, such as `st.hinge()`, the default; or a Keras loss of
                labels and logits, such as `keras.losses.BinaryCrossentropy(from_logits=True)`, see
                `losses.of_labels`.
            steps_per_execution: steps between two calls of callbacks. More are faster.
            jit_compile: True, False or 'auto', which compiles with XLA on accelerators.
            run_eagerly: run each step line by line in Python, for debugging. The numbers are those
                of compiled steps up to rounding.
            auto_scale_loss: scale the losses of networks that compute in float16, as Keras does:
                their gradients are too small without it.
            execution: 'dense', 'sparse' or 'auto': how masked layers compute on a CPU, see
                `layers.masked.set_execution`.
            rematerialize: whether backward passes compute activations again, which saves memory and
                costs up to one more forward pass, see `layers.rematerialization`.
            total_steps: steps of the whole training, for the schedules of topology rules. None
                means to the end of the present `fit`. Needed if the training will go on in a later
                `fit`.
            **settings: other attributes of `Algorithm`, such as `generator_exploration`,
                `discriminator_steps`, `augmentation`, `average_decay` and `generator_batch_size`,
                which is the batch size of `fit` unless it is given.

        Raises:
            InputError: if a setting is unknown or impossible.
        """
        check_settings(settings)
        check_positive("steps_per_execution", steps_per_execution)
        for name, value in (
            ("run_eagerly", run_eagerly),
            ("auto_scale_loss", auto_scale_loss),
            ("rematerialize", rematerialize),
        ):
            check_bool(name, value)
        if run_eagerly and jit_compile is True:
            raise InputError(
                "run_eagerly = True runs steps line by line, so XLA cannot compile them. Leave out "
                "run_eagerly or jit_compile."
            )
        check_execution("execution", execution)
        if total_steps is not None:
            check_positive("total_steps", total_steps)
        self.gan.rematerialize(rematerialize)
        self._uses_jit = not run_eagerly and should_jit(jit_compile, self.strategy)
        self._scales_loss = auto_scale_loss and _computes_in_float16(self.gan)
        self._settings = Settings({**settings, "loss": adversarial_loss(loss)}, total_steps)
        with self.strategy.scope():
            self.gan.set_optimizers(
                *(
                    player_optimizer(name, MaskedAdam() if optimizer is None else optimizer)
                    for name, optimizer in (
                        ("generator_optimizer", generator_optimizer),
                        ("discriminator_optimizer", discriminator_optimizer),
                    )
                )
            )
        self.generator_optimizer = self.gan.generator_optimizer
        self.discriminator_optimizer = self.gan.discriminator_optimizer
        super().compile(
            optimizer=None,
            steps_per_execution=steps_per_execution,
            jit_compile=False,
            run_eagerly=run_eagerly,
        )
        self.gan.set_execution(execution)
        self._samplers.clear()
        self._steps, self._loaded = None, {}
        self._trained = self._ids_of_trained()

    def fit(
        self,
        x: Any = None,
        y: Any = None,
        batch_size: int | None = None,
        epochs: int = 1,
        verbose: int | str = "auto",
        callbacks: Any = None,
        initial_epoch: int = 0,
        steps_per_epoch: int | None = None,
    ) -> keras.callbacks.History:
        """Trains the GAN. A step is one generator update with its discriminator updates.

        The logs are means over the epoch: `d_loss`, `g_loss` and what else the training measures,
        and at its end the sparsities of both networks and R_s of those that explore.

        Args:
            x: a `Source` such as `st.digits()`; an array of images [N, H, W, C], uint8 or float in
                [-1, 1]; or a `tf.data.Dataset` of batches `images` or `(images, labels)`. A data
                set is repeated and cut into full batches. If it is shuffled, give the shuffle a
                seed: a training that goes on reads it again from its beginning.
            y: labels of an array, integers [N], for a conditional GAN.
            batch_size: real images in one discriminator update, over all devices; 64 by default.
                A data set has its own.
            epochs: the number of the last epoch; epochs before `initial_epoch` are over.
            verbose: 0 is silent, 1 shows a progress bar, 2 a line for each epoch.
            callbacks: a list of `keras.callbacks.Callback`s.
            initial_epoch: the epoch to begin with, counted from 0.
            steps_per_epoch: steps in an epoch. By default an epoch takes about as many real images
                as there are.

        Returns:
            A `keras.callbacks.History`.

        Raises:
            InputError: if the data or a setting does not fit, before the first step.
            FailedRun: if a loss or a gradient was not finite.
        """
        if not self.compiled:
            raise InputError(
                "The GAN is not compiled. Call "
                "`gan.compile(generator_optimizer, discriminator_optimizer, loss)` first."
            )
        if self._ids_of_trained() != self._trained:
            raise InputError(
                "Layers of the networks were frozen or made trainable since `compile`. Set them "
                "back, or compile the GAN again."
            )
        check_positive("epochs", epochs)
        check_natural("initial_epoch", initial_epoch)
        for name, number in (("batch_size", batch_size), ("steps_per_epoch", steps_per_epoch)):
            if number is not None:
                check_positive(name, number)
        feed = feed_of(x, y, batch_size, self.image_shape, self.num_classes)
        per_epoch = steps_per_epoch or self._steps_per_epoch(feed)
        self._begin = self.step - initial_epoch * per_epoch
        begin = self._begin
        algorithm = self._prepare(feed, begin + epochs * per_epoch)
        if not isinstance(callbacks, keras.callbacks.CallbackList):
            bar = [_ProgressBar()] if verbose != 0 else []
            callbacks = keras.callbacks.CallbackList(
                [*keras.tree.flatten(callbacks or []), *bar],
                add_history=True,
                model=self,
                verbose=verbose,
                epochs=epochs,
                steps=per_epoch,
            )
        self.stop_training = False
        callbacks.on_train_begin()
        last = self._begin + epochs * per_epoch
        if self._begin != begin:  # A callback has loaded the state of another fit.
            algorithm = self._prepare(feed, last)
        if last > algorithm.total_steps:
            raise InputError(
                f"This fit would end at step {last}, after total_steps = {algorithm.total_steps} "
                "of `compile`. Train fewer epochs, or compile with a larger total_steps."
            )
        logs = self._run_epochs(feed, algorithm, callbacks, epochs, per_epoch)
        callbacks.on_train_end(logs)
        return self.history

    def _run_epochs(
        self,
        feed: Feed,
        algorithm: Algorithm,
        callbacks: keras.callbacks.CallbackList,
        epochs: int,
        per_epoch: int,
    ) -> dict[str, float] | None:
        """Runs the steps that are left of the epochs; returns the logs of the last."""
        assert self._steps is not None
        logs = None
        batches = iter(feed.batches(algorithm, self.strategy, self.seed, self.step))
        for epoch in range((self.step - self._begin) // per_epoch, epochs):
            begin = self._begin + epoch * per_epoch
            callbacks.on_epoch_begin(epoch)
            if self.step == begin:  # Else the epoch was cut off in between.
                self._steps.restart_metrics()
            self._sparsities = self._measured_sparsities()
            while self.step < begin + per_epoch and not self.stop_training:
                callbacks.on_train_batch_begin(self.step - begin)
                stop = min(self.step + self.steps_per_execution, begin + per_epoch)
                with feed.reading():
                    self._run_steps(batches, algorithm, stop)
                logs = {**self._steps.metrics(), **self._sparsities}
                callbacks.on_train_batch_end(self.step - begin - 1, logs)
            logs = {**(logs or {}), **self._exploration_rates()}
            callbacks.on_epoch_end(epoch, logs)
            if self.stop_training:
                break
        return logs

    def _run_steps(self, batches: Any, algorithm: Algorithm, stop: int) -> None:
        """Runs the steps up to `stop`, and the topology updates among them."""
        assert self._steps is not None
        while self.step < stop:
            due = algorithm.next_topology_update(self.step)
            end = stop if due is None else min(stop, due)
            with eagerly() if self.run_eagerly else contextlib.nullcontext():
                try:
                    self._steps.run(batches, self.step, end - self.step)
                except UNREADABLE:
                    self.step = self._steps.num_done() or self.step
                    raise
            self.step = end
            if end == due:
                self._sparsities = self._measured_sparsities()
        found = self._steps.first_bad()
        if found is not None:
            step, what = found
            raise FailedRun(
                f"At step {step}, {what} was not finite. Load the weights that were saved last, "
                "and go on with lower learning rates."
            )

    def _ids_of_trained(self) -> tuple[int, ...]:
        """Identifies the variables that are trained."""
        networks = self.gan.networks.values()
        return tuple(id(v) for model in networks for v in model.trainable_variables)

    def _measured_sparsities(self) -> dict[str, float]:
        return {k: v for name in self.gan.networks for k, v in self.gan.sparsities(name).items()}

    def _exploration_rates(self) -> dict[str, float]:
        """R_s of the networks whose topology changes."""
        assert self._steps is not None
        return {
            f"{name}_exploration_rate": player.exploration_rate()
            for name, player in self._steps.players.items()
            if player.rule is not None
        }

    def _steps_per_epoch(self, feed: Feed) -> int:
        if feed.num_images is None:
            raise InputError(
                "Nobody knows how many images the data set has. Set steps_per_epoch, or tell the "
                "number of batches by `tf.data.experimental.assert_cardinality`."
            )
        algorithm = self._settings.algorithm(feed.batch_size, 1)
        per_step = algorithm.batch_size * algorithm.discriminator_steps
        return max(1, feed.num_images // per_step)

    def _prepare(self, feed: Feed, last: int) -> Algorithm:
        """Makes the steps of a training that ends at step `last`; returns the `Algorithm`."""
        algorithm = self._settings.algorithm(feed.batch_size, last)
        for sentence in algorithm.idle_rules():
            warnings.warn(sentence, stacklevel=2)
        sizes = algorithm.batch_size, algorithm.generator_batch_size
        if self._steps is None or sizes != self._sizes:
            self._loaded = self._own_state()
            with self.strategy.scope():
                self._steps = Steps(
                    self.gan,
                    algorithm,
                    self.strategy,
                    self.seed,
                    self._uses_jit,
                    scales_loss=self._scales_loss,
                )
            self._sizes = sizes
            if self._loaded:
                self._assign(self._loaded)
                self._loaded = {}
        else:
            self._steps.lengthen(algorithm.total_steps)
        return algorithm

    def train_step(self, data: Any) -> None:
        """Refuses steps on single batches: a step of a GAN takes several, in their order."""
        del data
        raise InputError("A SparseGAN is trained by `fit`, which knows which batch comes next.")

    def test_step(self, data: Any) -> None:
        """Refuses to score by a loss, which says little about a GAN."""
        del data
        raise InputError("A SparseGAN is scored by the callback st.Score, or by an st.Evaluator.")

    def call(self, inputs: Any, training: bool = False) -> tf.Tensor:
        """Images of the averaged generator.

        Args:
            inputs: latents float32 [B, latent_dim], or [latents, labels].
            training: has no effect; the averaged generator is not trained.

        Returns:
            float32 [B, H, W, C] in [-1, 1].
        """
        del training
        return self.average(inputs, training=False)

    def generate(
        self,
        n: int,
        seed: int = 0,
        labels: int | Sequence[int] | None = None,
        truncation: float | None = None,
        weights: str = "averaged",
    ) -> np.ndarray:
        """Draws images. Image number i does not depend on `n`.

        Args:
            n: number of images.
            seed: seed of the latents, and of labels that are drawn.
            labels: for a conditional GAN, the class to draw, or a list of classes that are taken in
                turn. None draws random labels.
            truncation: absolute value at which latents are truncated, e.g. 0.7.
            weights: 'averaged' or 'live'.

        Returns:
            uint8 [n, H, W, C].

        Raises:
            InputError: if an argument is wrong.
        """
        check_positive("n", n)
        check_seed("seed", seed)
        if truncation is not None:
            check_above_zero("truncation", truncation)
        if weights not in WEIGHTS:
            raise InputError(f"weights must be one of {', '.join(WEIGHTS)}, got {weights!r}.")
        classes = [] if labels is None else np.atleast_1d(labels).tolist()
        if labels is not None and self.num_classes is None:
            raise InputError("labels are for a conditional GAN, and this one takes none.")
        known = all(type(one) is int and 0 <= one < (self.num_classes or 0) for one in classes)
        if labels is not None and not (classes and known):
            raise InputError(
                f"labels must be a class below {self.num_classes}, or a list of some, "
                f"got {labels!r}. None draws random ones."
            )
        key = weights, truncation
        if key not in self._samplers:  # Each is compiled at first use.
            self._samplers[key] = Sampler(
                self.gan,
                self.strategy,
                BLOCK,
                averaged=weights == "averaged",
                truncation=truncation,
            )
        return self._samplers[key].numbered(n, fold((seed, 0), Purpose.SAMPLES), classes)

    # Files. Keras saves the networks and the optimizers itself.

    def save_own_variables(self, store: Any) -> None:
        """Saves the step, and the state of the training besides networks and optimizers."""
        if not self.compiled:
            return
        store["step"] = np.array([self.step, self._begin])
        for name, value in self._own_state().items():
            store[name] = value

    def load_own_variables(self, store: Any) -> None:
        """Loads what `save_own_variables` saved.

        Before `compile` only the networks are loaded, and training begins at step 0.

        Raises:
            InputError: if the file is of a GAN that was compiled in another way.
        """
        names = list(store.keys())
        if not self.compiled or not names:
            return
        state = {name: np.asarray(store[name]) for name in names if name != "step"}
        if self._steps is not None:
            self._assign(state)
        else:
            self._loaded = state
        self.step, self._begin = map(int, np.asarray(store["step"]))

    def _own_variables(self) -> dict[str, tf.Variable]:
        """The variables of the steps besides networks and optimizers, by names for a file."""
        assert self._steps is not None
        saved = {
            id(variable.value)
            for part in (self.generator, self.discriminator, self.average)
            for variable in part.variables
        }
        for optimizer in self.gan.optimizers.values():
            saved |= {id(variable.value) for variable in optimizer.variables}
        return {
            name.replace("/", "|"): variable
            for name, variable in self._steps.state().items()
            if id(variable) not in saved
        }

    def _own_state(self) -> dict[str, np.ndarray]:
        """The values of `_own_variables`, or those that they will get."""
        if self._steps is None:
            return self._loaded
        return {name: variable.numpy() for name, variable in self._own_variables().items()}

    def _assign(self, state: Mapping[str, np.ndarray]) -> None:
        """Assigns `_own_variables`; raises InputError unless `state` is of the same names."""
        variables = self._own_variables()
        different = sorted(variables.keys() ^ state.keys())
        if different:
            raise InputError(
                f"The weights are of a GAN that was compiled in another way: {len(different)} "
                f"values of its training differ, such as {different[0]!r}. Compile with the same "
                "settings, and load them again."
            )
        for name, variable in variables.items():
            variable.assign(state[name])

    def get_config(self) -> dict[str, Any]:
        """The arguments of the constructor, with the networks as they are built.

        Raises:
            InputError: if the rule of the average is a function of your own.
        """
        known = {id(rule): name for name, rule in _AVERAGES.items()}
        if id(self._average_rule) not in known:
            raise InputError(
                f"A .keras file can name the averages {', '.join(_AVERAGES)}, but this one is "
                "another. Save the weights alone, by `save_weights('gan.weights.h5')`."
            )
        return {
            **self._made,
            "average": known[id(self._average_rule)],
            "generator": keras.saving.serialize_keras_object(self.generator),
            "discriminator": keras.saving.serialize_keras_object(self.discriminator),
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> "SparseGAN":
        """A GAN of the same networks, with other weights and masks."""
        networks = {
            name: keras.saving.deserialize_keras_object(config[name], custom_objects=custom_objects)
            for name in ("generator", "discriminator")
        }
        shape = tuple(config["image_shape"])
        average = _AVERAGES[config["average"]]
        return cls(**{**config, **networks, "image_shape": shape, "average": average})

    def get_compile_config(self) -> None:
        """None: losses and rules are functions. A loaded model is compiled again."""
        return None


class _ProgressBar(keras.callbacks.ProgbarLogger):
    """Shows the numbers in `SHOWN`, and what callbacks added at the end of an epoch."""

    def on_train_batch_end(self, batch: int, logs: Mapping[str, float] | None = None) -> None:
        self._measured = set(logs or {}) - set(SHOWN)
        super().on_train_batch_end(batch, {k: v for k, v in (logs or {}).items() if k in SHOWN})

    def on_epoch_end(self, epoch: int, logs: Mapping[str, float] | None = None) -> None:
        measured: set[str] = getattr(self, "_measured", set())
        logs = {name: value for name, value in (logs or {}).items() if name not in measured}
        super().on_epoch_end(epoch, logs)


def _factory(network: Any) -> Any:
    """A function that makes the model, then copies of it. Other functions stay as they are."""
    if not isinstance(network, keras.Model):
        return network
    made: list[keras.Model] = []

    def make(image_shape: ImageShape, num_classes: int | None = None) -> keras.Model:
        del image_shape, num_classes  # The model has been built for them.
        made.append(keras.models.clone_model(network) if made else network)
        return made[-1]

    return make


def _checked_shape(image_shape: Any) -> ImageShape:
    """(H, W, C) as it was given; raises InputError unless it can be the shape of images."""
    shape = tuple(image_shape) if isinstance(image_shape, Sequence) else ()
    if len(shape) != 3 or not all(type(size) is int and size > 0 for size in shape):
        raise InputError(
            "SparseGAN.image_shape must be (H, W, C), three positive integers such as (32, 32, 3), "
            f"got {image_shape!r}."
        )
    return shape


def _image_shape_of(generator: keras.Model) -> ImageShape:
    """The shape of the images that a model makes."""
    shape = tuple(getattr(generator, "output_shape", ()) or ())[1:]
    if len(shape) != 3 or None in shape:
        raise InputError(
            f"The generator {generator.name!r} makes {[None, *shape]}, not images [B, H, W, C] of "
            "a fixed size. Let it end in a layer that makes images."
        )
    height, width, channels = shape
    return height, width, channels


def _computes_in_float16(gan: GAN) -> bool:
    """Whether layers compute in float16, whose gradients need a loss scale."""
    layers = [layer for model in gan.networks.values() for layer in all_layers(model)]
    return any(layer.compute_dtype == "float16" for layer in layers)
