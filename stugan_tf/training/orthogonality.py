"""Modified orthogonal regularisation (Brock et al. 2019, eq. 3): it drives filters apart.

R(W) = strength / 2 * |(W W') o (1 - I)|^2 with a row of W per output channel, or per entry of an
embedding. The norms of the rows are free; eq. 1 of the paper would keep them at 1. The factor 1/2
comes from the reference code. Like that code, we add

    strength * 2 * ((W W') o (1 - I)) W

to the gradient once per update, after gradients have been accumulated. The logged loss does not
contain it. The optimizer, its clipping and growth see the sum, as in the paper's code of masks,
which reads the gradients after the regularisation.
"""

import dataclasses
from typing import Any

import gin
import keras
import tensorflow as tf

from stugan_tf.checks import check_above_zero
from stugan_tf.contracts import Trial
from stugan_tf.errors import InputError
from stugan_tf.layers.masked import all_layers


@gin.configurable
@dataclasses.dataclass(frozen=True)
class OrthogonalRegularization:
    """The regularisation of one network.

    Attributes:
        strength: beta of eq. 3; 1e-4 in the paper.
        exclude: names of layers whose weights are left out. The reference code leaves out the
            shared embedding of classes in the generator.
    """

    strength: float = 1e-4
    exclude: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Checks the values."""
        check_above_zero("OrthogonalRegularization.strength", self.strength)
        if isinstance(self.exclude, str):
            raise InputError(
                "OrthogonalRegularization.exclude must be a list of names of layers, got "
                f"{self.exclude!r}. Write ['{self.exclude}']."
            )

    def check(self, model: keras.Model) -> None:
        """Raises InputError if `exclude` names layers that `model` does not have."""
        names = [layer.name for layer in all_layers(model)]
        unknown = sorted(set(self.exclude) - set(names))
        if unknown:
            raise InputError(
                f"OrthogonalRegularization.exclude names {unknown}, but {model.name!r} has no such "
                f"layer. It has: {', '.join(names)}."
            )

    def gradients(self, model: keras.Model) -> list[tf.Tensor | None]:
        """The gradients to add for each trainable variable of `model`; None adds nothing."""
        excluded: set[int] = set()
        embeddings: set[int] = set()
        for layer in all_layers(model):
            if layer.name in self.exclude:
                excluded |= {id(variable) for variable in layer.variables}
            if isinstance(layer, keras.layers.Embedding):
                embeddings.add(id(layer.embeddings))
        return [
            self.strength * orthogonal_gradient(variable.value, id(variable) in embeddings)
            if len(variable.shape) >= 2 and id(variable) not in excluded
            else None
            for variable in model.trainable_variables
        ]


def check_regularization(name: str, regularization: OrthogonalRegularization) -> None:
    """Raises InputError if a subclass overrides `gradients` and returns something else."""
    if type(regularization).gradients is OrthogonalRegularization.gradients:
        return
    model = keras.Sequential([keras.Input((1, 1, 2)), keras.layers.Conv2D(3, 1)])
    trial = Trial(
        f"{name}'s gradients",
        regularization.gradients,
        "`(model) -> gradients`, a list with a tensor or None for each trainable variable",
    )
    gradients, variables = trial.of(model=model), model.trainable_variables
    if not isinstance(gradients, (list, tuple)) or len(gradients) != len(variables):
        raise trial.refusal(f"for {len(variables)} variables it returned {gradients}")
    for index, (gradient, variable) in enumerate(zip(gradients, variables, strict=True)):
        if gradient is not None:
            trial.check_tensor(f"number {index}", gradient, tuple(variable.shape))


def orthogonal_gradient(weight: tf.Tensor, is_embedding: bool = False) -> tf.Tensor:
    """Computes 2 ((W W') o (1 - I)) W in the shape of `weight`.

    Args:
        weight: float [..., channels], or [entries, features] of an embedding.
        is_embedding: whether the rows of W are the first axis of `weight`, not the last.
    """
    columns: Any = tf.reshape(weight, [-1, weight.shape[-1]])  # W'
    if is_embedding:
        columns = tf.transpose(columns)
    gram = tf.matmul(columns, columns, transpose_a=True)
    gradient = 2 * tf.matmul(columns, gram - tf.linalg.diag(tf.linalg.diag_part(gram)))
    return tf.reshape(tf.transpose(gradient) if is_embedding else gradient, weight.shape)
