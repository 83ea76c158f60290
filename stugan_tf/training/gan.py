"""The state of a training: two networks, their masks, optimizers and the average."""

import inspect
from collections.abc import Callable
from typing import Any

import gin
import keras
import tensorflow as tf

from stugan_tf.adapters.keras_internals import functional
from stugan_tf.checks import check_bool, check_fraction, check_function, check_network_seed
from stugan_tf.errors import InputError
from stugan_tf.layers.added_losses import call_with_losses
from stugan_tf.layers.execution import can_run, warn_unused
from stugan_tf.layers.fusion import fuse
from stugan_tf.layers.kernel_mask import kernel_masks
from stugan_tf.layers.masked import check_zeros, set_execution
from stugan_tf.layers.mixing import mixing_classes
from stugan_tf.layers.rematerialization import Rematerialized
from stugan_tf.signatures import Average, ImageShape
from stugan_tf.sparsity.averaged_model import AveragedModel
from stugan_tf.sparsity.averaging import check_average, sema
from stugan_tf.sparsity.sparsify import count_weights, sparsify
from stugan_tf.training import learning_rates  # noqa: F401 - registers them with gin
from stugan_tf.training.masked_adam import MaskedAdam
from stugan_tf.training.optimizers import PlayerOptimizer


@gin.configurable(denylist=["image_shape", "num_classes", "seed"])
class GAN:
    """Generator and discriminator, sparse from the first step (Algorithm 1, lines 1 and 2).

    Must be created inside `strategy.scope()`.

    What the layers of a network add to a loss (regularizers, `add_loss`) is part of its loss. With
    several replicas or micro-batches, each adds it for its own images, and the mean is taken: a
    mean over images stays as it is, a sum over images becomes that of one part.

    Attributes:
        generator: maps latents [B, latent_dim] to images [B, H, W, C] in [-1, 1]. A conditional
            generator takes [latents, labels].
        discriminator: maps images, or [images, labels], to logits [B, 1], or to maps of logits
            [B, h, w, 1].
        averaged: the `AveragedModel` of the generator.
        generator_optimizer, discriminator_optimizer: built Keras optimizers.
        num_classes: number of classes of the data. Labels of generated images are drawn from them.
        conditional: whether the networks take labels.
        latent_dim: length of a latent vector.
        rematerializes: whether backward passes compute activations again to save memory.
    """

    rematerializes = False

    def __init__(
        self,
        image_shape: ImageShape,
        num_classes: int,
        seed: int = 0,
        generator: Callable[..., keras.Model] = gin.REQUIRED,
        discriminator: Callable[..., keras.Model] = gin.REQUIRED,
        generator_sparsity: float = gin.REQUIRED,
        discriminator_sparsity: float | None = gin.REQUIRED,
        generator_optimizer: Callable[[], MaskedAdam] | None = MaskedAdam,
        discriminator_optimizer: Callable[[], MaskedAdam] | None = MaskedAdam,
        average: Average = sema,
        conditional: bool = False,
        initialization_seed: int | None = None,
        mask_dense: bool | None = None,
    ) -> None:
        """Builds and sparsifies both networks.

        Args:
            image_shape: (H, W, C) of the data.
            num_classes: number of classes of the data.
            seed: draws masks and, unless `initialization_seed` is given, initial weights.
            generator: function `image_shape -> keras.Model`, which makes a new functional or
                sequential model in each call. If `conditional`, it is also called with
                `num_classes=...`.
            discriminator: function of the same signature for the discriminator.
            generator_sparsity: s_G, fraction of zeros in [0, 1).
            discriminator_sparsity: s_D, fraction of zeros in [0, 1); None takes s_G.
            generator_optimizer: called without arguments, returns an optimizer. None for both:
                `set_optimizers` brings them later.
            discriminator_optimizer: called without arguments, returns an optimizer.
            average: rule of the averaged generator, one of `sparsity.averaging`.
            conditional: whether the networks take labels, and their factories `num_classes`.
            initialization_seed: draws the initial weights in place of `seed`. The reference runs
                start all seeds from one initialisation.
            mask_dense: whether dense layers get masks too, in networks of any factory; None means
                no.

        Raises:
            InputError: if an argument is impossible, or a network does not fit the data.
        """
        if discriminator_sparsity is None:
            discriminator_sparsity = generator_sparsity
        if conditional and num_classes < 2:
            raise InputError(
                f"GAN.conditional is True, but the data has {num_classes} class. Choose data with "
                "at least two classes (a folder of images needs one sub-folder for each), or set "
                "GAN.conditional = False."
            )
        advice = "It is the fraction of zeros: write 0.9 for 90% sparse."
        check_fraction("GAN.generator_sparsity", generator_sparsity, advice)
        check_fraction("GAN.discriminator_sparsity", discriminator_sparsity, advice)
        check_function("GAN.generator", generator)
        check_function("GAN.discriminator", discriminator)
        if (generator_optimizer, discriminator_optimizer) != (None, None):
            check_function("GAN.generator_optimizer", generator_optimizer)
            check_function("GAN.discriminator_optimizer", discriminator_optimizer)
        check_average("GAN.average", average)
        self.conditional = conditional
        self.num_classes = num_classes
        known: dict[str, Any] = {"num_classes": num_classes} if conditional else {}
        for name, network in {"generator": generator, "discriminator": discriminator}.items():
            self._check_factory(name, network, image_shape, known)
        initialization_seed = seed if initialization_seed is None else initialization_seed
        check_network_seed("The seed of a GAN", seed)
        check_network_seed("GAN.initialization_seed", initialization_seed)
        if mask_dense is not None:
            check_bool("GAN.mask_dense", mask_dense)
        built: dict[int, str] = {}  # Whose a variable is, by its id.

        def build(name: str, network: Callable[..., keras.Model], number: int) -> keras.Model:
            # Each network draws its own numbers: kernels of one shape must not start equal.
            keras.utils.set_random_seed(2 * initialization_seed + number)
            model = network(image_shape, **known)
            self._check_model(name, model, image_shape)
            _check_new(name, model, built)
            sparsity = {"generator": generator_sparsity, "discriminator": discriminator_sparsity}
            return sparsify(
                model, sparsity[name], mask_dense=bool(mask_dense), seed=2 * seed + number
            )

        self.discriminator = build("discriminator", discriminator, 0)
        self.generator = build("generator", generator, 1)
        self.averaged = AveragedModel(self.generator, build("generator", generator, 1), average)
        self._fused: dict[int, Any] = {}
        self._rematerialized: dict[int, Rematerialized] = {}
        self._mixing: dict[int, Any] = {}
        if generator_optimizer is not None and discriminator_optimizer is not None:
            self.set_optimizers(generator_optimizer(), discriminator_optimizer())

    def set_optimizers(
        self, generator_optimizer: PlayerOptimizer, discriminator_optimizer: PlayerOptimizer
    ) -> None:
        """Replaces the optimizers; call it inside `strategy.scope()`.

        Args:
            generator_optimizer: a new optimizer, which is built here.
            discriminator_optimizer: another one.

        Raises:
            InputError: if one is not a `PlayerOptimizer`, or has been built before.
        """
        self.generator_optimizer = self._build(generator_optimizer, self.generator)
        self.discriminator_optimizer = self._build(discriminator_optimizer, self.discriminator)

    @staticmethod
    def _build(optimizer: PlayerOptimizer, model: keras.Model) -> PlayerOptimizer:
        if not isinstance(optimizer, PlayerOptimizer):
            raise InputError(
                f"The optimizer must be a MaskedAdam, got {type(optimizer).__name__}. Subclass "
                "MaskedAdam to change it."
            )
        if optimizer.built:
            raise InputError(
                "The optimizer has been built for another model. GAN.generator_optimizer and "
                "GAN.discriminator_optimizer must return a new one in each call."
            )
        optimizer.build(model.trainable_variables)
        return optimizer

    def _check_factory(
        self,
        name: str,
        network: Callable[..., keras.Model],
        image_shape: ImageShape,
        known: dict[str, Any],
    ) -> None:
        try:
            inspect.signature(network).bind(image_shape, **known)
        except TypeError as error:
            given = " and ".join(["image_shape", *known])
            raise InputError(
                f"GAN.conditional is {self.conditional}, so GAN.{name} is called with {given} "
                f"({error}). A conditional network takes num_classes and makes a model of two "
                "inputs, the second of labels; any other takes image_shape alone."
            ) from None

    def _check_model(self, name: str, model: keras.Model, image_shape: ImageShape) -> None:
        """Raises InputError unless a network has the inputs and the output that it should have."""
        if not isinstance(model, keras.Model) or functional(model) is None:
            raise InputError(
                f"GAN.{name} must return a functional or sequential model with a keras.Input, got "
                f"a {type(model).__name__}. Make it by `keras.Model(inputs, outputs)`."
            )
        num_inputs = 1 + self.conditional
        if len(model.inputs) != num_inputs:
            raise InputError(
                f"GAN.conditional is {self.conditional}, so {model.name!r} must take "
                f"{num_inputs} input(s), but it takes {len(model.inputs)}."
            )
        if len(model.outputs) != 1:
            raise InputError(
                f"GAN.{name} must return a model of one output, but {model.name!r} has "
                f"{len(model.outputs)}. Return a model of the first that training needs, such as "
                "`keras.Model(model.inputs, model.outputs[0])`."
            )
        taken, made = model.inputs[0].shape[1:], model.outputs[0].shape[1:]
        if name == "generator":
            if len(taken) != 1 or None in taken:
                raise InputError(
                    f"The generator must take latents [B, latent_dim], but {model.name!r} takes "
                    f"{[None, *taken]}. Begin it with `keras.Input([latent_dim])`."
                )
            if tuple(made) != tuple(image_shape):
                raise InputError(
                    f"The generator makes images {made}, the data has {tuple(image_shape)}. Both "
                    "come from `image_shape`, given to its factory."
                )
            return
        pairs = zip(taken, image_shape, strict=False)
        if len(taken) != len(image_shape) or any(one not in (None, size) for one, size in pairs):
            raise InputError(
                f"The discriminator takes images {taken}, the data has {tuple(image_shape)}. Both "
                "come from `image_shape`, given to its factory."
            )
        if not made or made[-1] != 1:
            raise InputError(
                f"The discriminator must make one logit for each image, [B, 1], or maps of logits, "
                f"[B, h, w, 1], but {model.name!r} makes {[None, *made]}. The losses would train "
                "on the mean of all its numbers. End it with one unit, such as "
                "`keras.layers.Dense(1)`."
            )

    @property
    def latent_dim(self) -> int:
        """Length of a latent vector."""
        return self.generator.inputs[0].shape[-1]

    @property
    def networks(self) -> dict[str, keras.Model]:
        """The trained networks by their names in metrics and configuration."""
        return {"generator": self.generator, "discriminator": self.discriminator}

    @property
    def optimizers(self) -> dict[str, PlayerOptimizer]:
        """The optimizers of `networks`, by the same names."""
        return {
            "generator": self.generator_optimizer,
            "discriminator": self.discriminator_optimizer,
        }

    def sparsities(self, name: str) -> dict[str, float]:
        """The present sparsities of the network `name`, by their names in metrics.

        One is that of the weights under masks, one that of all parameters.
        """
        counts = count_weights(self.networks[name])
        return {
            f"{name}_sparsity": counts.sparsity,
            f"{name}_overall_sparsity": counts.overall_sparsity,
        }

    def check_zeros(self) -> None:
        """Raises InputError if a weight of a trained network is outside its mask and not zero."""
        for name, model in self.networks.items():
            try:
                check_zeros(model)
            except InputError as error:
                raise InputError(f"The {name} is not sparse as its masks say. {error}") from error

    def set_execution(self, execution: str) -> None:
        """Sets how masked layers compute, see `layers.masked.set_execution`.

        Unless execution is dense, layers are also fused, see `layers.fusion`. In mixed precision
        execution is always dense, because the sparse kernels support float32 only.
        """
        models = (self.generator, self.discriminator, self.averaged.model)
        dtypes = {mask.layer.compute_dtype for model in models for mask in kernel_masks(model)}
        if execution != "dense" and not dtypes <= {"float32"}:
            warn_unused(f"they are for float32, and layers compute in {', '.join(sorted(dtypes))}")
            execution = "dense"
        for model in models:
            set_execution(model, execution)
        self._fused = {} if execution == "dense" else {id(model): fuse(model) for model in models}
        if self.rematerializes:
            self.rematerialize()

    def rematerialize(self, wanted: bool = True) -> None:
        """From now on backward passes compute activations again, see `Rematerialized`.

        Args:
            wanted: False lets them keep all activations, as they do without this call.
        """
        self.rematerializes = wanted
        models = list(self.networks.values())
        models += [self._fused[id(model)] for model in models if self._fused]
        self._rematerialized = {id(m): Rematerialized(m) for m in models} if wanted else {}

    def allow_mixtures(self) -> None:
        """Lets `generate` take weights of classes in place of labels.

        Raises:
            InputError: if the generator cannot mix classes, see `layers.mixing.mixing_classes`.
        """
        models = (self.generator, self.averaged.model)
        self._mixing = {id(model): mixing_classes(model) for model in models}

    def _computing(self, model: keras.Model, training: bool) -> Any:
        """The variant of a model that `set_execution` and `rematerialize` ask for."""
        model = self._fused[id(model)] if self._fused and can_run() else model
        return self._rematerialized.get(id(model), model) if training else model

    def _call(self, model: Any, inputs: Any, training: bool, added: list | None) -> tf.Tensor:
        """The outputs of a variant of a model, float32; its losses are appended to `added`."""
        if isinstance(model, Rematerialized):
            outputs = model(inputs, training=training, added=added)
        elif added is None:
            outputs = model(inputs, training=training)
        else:
            outputs, losses = call_with_losses(model, inputs, training)
            added += losses
        return tf.cast(outputs, tf.float32)

    def generate(
        self,
        latents: tf.Tensor,
        labels: tf.Tensor,
        training: bool,
        averaged: bool = False,
        added: list[tf.Tensor] | None = None,
    ) -> tf.Tensor:
        """Generates images.

        Args:
            latents: float32 [B, latent_dim].
            labels: int32 [B]. After `allow_mixtures` also weights of classes, float32
                [B, num_classes].
            training: whether the generator computes in training mode.
            averaged: whether to use the averaged generator, not the live one.
            added: a list, to which the losses are appended that layers add in this call.

        Returns:
            Images float32 [B, H, W, C] in [-1, 1].
        """
        model = self.averaged.model if averaged else self.generator
        if self.conditional and labels.dtype.is_floating:
            model = self._mixing[id(model)]
            # The model's labels may have shape [B] or [B, 1].
            labels = tf.reshape(labels, [-1, *model.inputs[1].shape[1:]])
        else:
            model = self._computing(model, training)
        inputs = [latents, labels] if self.conditional else latents
        return self._call(model, inputs, training, added)

    def discriminate(
        self, images: tf.Tensor, labels: tf.Tensor, added: list[tf.Tensor] | None = None
    ) -> tf.Tensor:
        """Logits of images, in training mode, where spectral norm iterates.

        Args:
            images: float32 [B, H, W, C] in [-1, 1].
            labels: int32 [B].
            added: a list, to which the losses are appended that layers add in this call.

        Returns:
            float32 [B, 1], or [B, h, w, 1].
        """
        discriminator = self._computing(self.discriminator, training=True)
        inputs = [images, labels] if self.conditional else images
        return self._call(discriminator, inputs, True, added)


def _check_new(name: str, model: keras.Model, built: dict[int, str]) -> None:
    """Raises InputError if a model has a variable of a model that was built before.

    Args:
        name: of the network.
        model: its model.
        built: {id of a variable: name of the network}, to which those of `model` are added.
    """
    for variable in model.variables:
        former = built.get(id(variable))
        if former is not None:
            raise InputError(
                f"GAN.{name} returned a model that shares {variable.path!r} with the model of the "
                f"{former} that was built before. The generator, its average and the discriminator "
                "need weights of their own, so build all layers in each call of the factory. A "
                "saved model can be loaded in each call, by `keras.models.load_model(path)`."
            )
    built.update({id(variable): name for variable in model.variables})
