"""The state of a training: two networks, their masks, optimizers and the average."""

import inspect

import gin
import keras
import tensorflow as tf

from stugan_tf.checks import check_fraction, check_function, check_natural
from stugan_tf.errors import InputError
from stugan_tf.layers.execution import can_run, warn_unused
from stugan_tf.layers.fusion import fuse
from stugan_tf.layers.masked import masked_layers, set_execution
from stugan_tf.layers.mixing import mixing_classes
from stugan_tf.layers.rematerialization import Rematerialized
from stugan_tf.sparsity.averaged_model import AveragedModel
from stugan_tf.sparsity.averaging import check_average, sema
from stugan_tf.sparsity.sparsify import sparsify
from stugan_tf.training import learning_rates  # noqa: F401 - registers them with gin
from stugan_tf.training.masked_adam import MaskedAdam


@gin.configurable(denylist=["image_shape", "num_classes", "seed"])
class GAN:
    """Generator and discriminator, sparse from the first step (Algorithm 1, lines 1 and 2).

    Must be created inside `strategy.scope()`.

    Attributes:
        generator: latents [B, latent_dim] to images [B, H, W, C] in [-1, 1]; a conditional one
            takes [latents, labels].
        discriminator: images, or [images, labels], to logits [B, 1].
        averaged: `AveragedModel` of the generator.
        generator_optimizer, discriminator_optimizer: built Keras optimizers.
        num_classes: of the data; what labels of generated images are drawn from.
        conditional: whether the networks take labels.
        latent_dim: length of a latent vector.
        rematerializes: whether training keeps little for backward passes.
    """

    rematerializes = False

    def __init__(
        self,
        image_shape,
        num_classes,
        seed=0,
        generator=gin.REQUIRED,
        discriminator=gin.REQUIRED,
        generator_sparsity=gin.REQUIRED,
        discriminator_sparsity=gin.REQUIRED,
        generator_optimizer=MaskedAdam,
        discriminator_optimizer=MaskedAdam,
        average=sema,
        conditional=False,
        initialization_seed=None,
        mask_dense=None,
    ):
        """Builds and sparsifies both networks.

        Args:
            image_shape: (H, W, C) of the data.
            num_classes: of the data.
            seed: draws masks and, unless `initialization_seed` is given, initial weights.
            generator: `image_shape -> keras.Model`; if `conditional` it is called with
                `num_classes=...`, too.
            discriminator: likewise.
            generator_sparsity: s_G, fraction of zeros in [0, 1).
            discriminator_sparsity: s_D, fraction of zeros in [0, 1); None is as s_G.
            generator_optimizer: called without arguments, returns an optimizer.
            discriminator_optimizer: called without arguments, returns an optimizer.
            average: rule of the averaged generator, one of `sparsity.averaging`.
            conditional: whether the networks take labels, and their factories `num_classes`.
            initialization_seed: fixes the initial weights apart from `seed`; the reference runs
                start all seeds from one initialisation.
            mask_dense: whether dense layers go under masks, too, in networks of any factory; None
                is no.
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
        check_function("GAN.generator_optimizer", generator_optimizer)
        check_function("GAN.discriminator_optimizer", discriminator_optimizer)
        check_average("GAN.average", average)
        self.conditional = conditional
        self.num_classes = num_classes
        known = {"num_classes": num_classes} if conditional else {}
        for name, network in {"generator": generator, "discriminator": discriminator}.items():
            self._check_factory(name, network, image_shape, known)
        initialization_seed = seed if initialization_seed is None else initialization_seed
        check_natural("GAN.initialization_seed", initialization_seed)

        def build(network, sparsity, number):
            # Each network has numbers of its own: kernels of one shape must not start alike.
            keras.utils.set_random_seed(2 * initialization_seed + number)
            model = network(image_shape, **known)
            return sparsify(model, sparsity, mask_dense=bool(mask_dense), seed=2 * seed + number)

        self.discriminator = build(discriminator, discriminator_sparsity, 0)
        self.generator = build(generator, generator_sparsity, 1)
        self.averaged = AveragedModel(
            self.generator, build(generator, generator_sparsity, 1), average
        )
        self._fused = {}
        self._rematerialized = {}
        self._mixing = {}
        self._check_shapes(image_shape)
        self.generator_optimizer = self._build(generator_optimizer(), self.generator)
        self.discriminator_optimizer = self._build(discriminator_optimizer(), self.discriminator)

    @staticmethod
    def _build(optimizer, model):
        if not isinstance(optimizer, MaskedAdam):
            raise InputError(
                f"The optimizer must be a MaskedAdam, got {type(optimizer).__name__}: others would "
                "move weights off the zeros of their masks. Subclass MaskedAdam to change it."
            )
        return optimizer.build_for(model)

    def _check_factory(self, name, network, image_shape, known):
        try:
            inspect.signature(network).bind(image_shape, **known)
        except TypeError as error:
            given = " and ".join(["image_shape", *known])
            raise InputError(
                f"GAN.conditional is {self.conditional}, so GAN.{name} is called with {given} "
                f"({error}). A conditional network takes num_classes and makes a model of two "
                "inputs, the second of labels; any other takes image_shape alone."
            ) from None

    def _check_shapes(self, image_shape):
        num_inputs = 1 + self.conditional
        for model in (self.generator, self.discriminator):
            if len(model.inputs) != num_inputs:
                raise InputError(
                    f"GAN.conditional is {self.conditional}, so {model.name!r} must take "
                    f"{num_inputs} input(s), but it takes {len(model.inputs)}."
                )
        if tuple(self.generator.output_shape[1:]) != tuple(image_shape):
            raise InputError(
                f"The generator makes images {self.generator.output_shape[1:]}, the data has "
                f"{tuple(image_shape)}. Both come from `image_shape`, given to its factory."
            )

    @property
    def latent_dim(self):
        """Length of a latent vector."""
        return self.generator.inputs[0].shape[-1]

    @property
    def networks(self):
        """The trained networks by the name that metrics and configuration give them."""
        return {"generator": self.generator, "discriminator": self.discriminator}

    @property
    def optimizers(self):
        """The optimizers of `networks`, by the same names."""
        return {
            "generator": self.generator_optimizer,
            "discriminator": self.discriminator_optimizer,
        }

    def set_execution(self, execution):
        """Sets how masked layers compute, see `layers.masked.set_execution`.

        What is not dense is also fused, see `layers.fusion`. In mixed precision all is dense: the
        sparse kernels know float32 only.
        """
        models = (self.generator, self.discriminator, self.averaged.model)
        dtypes = {layer.layer.compute_dtype for model in models for layer in masked_layers(model)}
        if execution != "dense" and not dtypes <= {"float32"}:
            warn_unused(f"they are for float32, and layers compute in {', '.join(sorted(dtypes))}")
            execution = "dense"
        for model in models:
            set_execution(model, execution)
        self._fused = {} if execution == "dense" else {id(model): fuse(model) for model in models}
        if self.rematerializes:
            self.rematerialize()

    def rematerialize(self):
        """From now on backward passes compute again what they need, see `Rematerialized`.

        Raises:
            InputError: if a network is no functional or sequential model.
        """
        models = list(self.networks.values())
        models += [self._fused[id(model)] for model in models if self._fused]
        self._rematerialized = {id(model): Rematerialized(model) for model in models}
        self.rematerializes = True

    def allow_mixtures(self):
        """Lets `generate` take weights of classes.

        Raises:
            InputError: if the generator cannot, see `layers.mixing.mixing_classes`.
        """
        models = (self.generator, self.averaged.model)
        self._mixing = {id(model): mixing_classes(model) for model in models}

    def _computing(self, model, training):
        """What computes as `set_execution` and `rematerialize` ask for."""
        model = self._fused[id(model)] if self._fused and can_run() else model
        return self._rematerialized.get(id(model), model) if training else model

    def generate(self, latents, labels, training, averaged=False):
        """Images float32 [B, H, W, C] for latents [B, latent_dim] and labels int32 [B].

        After `allow_mixtures` also for weights of classes, float32 [B, num_classes].
        """
        model = self.averaged.model if averaged else self.generator
        if self.conditional and labels.dtype.is_floating:
            model = self._mixing[id(model)]
            # As its labels are: [B], or [B, 1] for one who builds models so.
            labels = tf.reshape(labels, [-1, *model.inputs[1].shape[1:]])
        else:
            model = self._computing(model, training)
        inputs = [latents, labels] if self.conditional else latents
        return tf.cast(model(inputs, training=training), tf.float32)

    def discriminate(self, images, labels):
        """Logits float32 [B, 1] in training mode, which is where spectral norm iterates."""
        discriminator = self._computing(self.discriminator, training=True)
        inputs = [images, labels] if self.conditional else images
        return tf.cast(discriminator(inputs, training=True), tf.float32)
