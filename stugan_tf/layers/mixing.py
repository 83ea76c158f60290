"""Rewrites a conditional network so that it takes mixtures of classes instead of labels.

Nothing lies between two labels, but much lies between their embeddings. This is how BigGAN walks
from class to class (Brock et al. 2019, figure 8).
"""

from typing import Any

import keras

from stugan_tf.adapters.keras_internals import is_functional, nodes
from stugan_tf.errors import InputError


class MixedEmbedding(keras.layers.Layer):
    """The weighted sum of the rows of an embedding, one row for each class.

    The embedding is called as it is, so that an embedding with a normalised table works too.

    Args:
        embedding: a built `keras.layers.Embedding`; its table is shared.
        **kwargs: arguments of `keras.layers.Layer`.
    """

    def __init__(self, embedding: keras.layers.Embedding, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.embedding = embedding
        self.built = True

    def call(self, weights: Any) -> Any:
        """Maps weights [..., num_classes] to vectors [..., units]."""
        rows = self.embedding(keras.ops.arange(self.embedding.input_dim))
        return keras.ops.matmul(keras.ops.cast(weights, rows.dtype), rows)

    def compute_output_shape(self, input_shape: tuple) -> tuple:
        """The shape of the vectors."""
        return (*input_shape[:-1], self.embedding.output_dim)


def mixing_classes(model: keras.Model) -> keras.Model:
    """Rewrites a model so that its second input is a weight for each class.

    Args:
        model: a functional Keras model of [latents, labels]. Only `Embedding` layers may take the
            labels.

    Returns:
        A functional Keras model of [latents, weights] with the same layers and variables. For
        labels of shape [B, ...] the weights are float32 [B, ..., num_classes]. One-hot weights give
        the output of the model for that label.

    Raises:
        InputError: if something else takes the labels; the message names it.
    """
    if not is_functional(model):
        raise InputError(
            f"{model.name!r}, a {type(model).__name__}, cannot be given mixtures of classes: only "
            "the calls of functional models can be rewritten."
        )
    latents, labels = model.inputs
    consumers = {
        node.operation
        for node in nodes(model)
        if any(tensor is labels for tensor in node.input_tensors)
    }
    others = [layer for layer in consumers if not isinstance(layer, keras.layers.Embedding)]
    if others or not consumers:
        entered = ", ".join(f"{type(layer).__name__} {layer.name!r}" for layer in others)
        raise InputError(
            f"{model.name!r} cannot be given mixtures of classes: its labels enter "
            f"{entered or 'nothing'}, and only what `Embedding` layers make of them can be mixed."
        )
    num_classes = {layer.input_dim for layer in consumers}
    if len(num_classes) > 1:
        raise InputError(
            f"{model.name!r} cannot be given mixtures of classes: its embeddings are of "
            f"{', '.join(map(str, sorted(num_classes)))} classes."
        )
    weights = keras.Input([*labels.shape[1:], *num_classes], name="class_weights")

    def call(layer: keras.layers.Layer, *args: Any, **kwargs: Any) -> Any:
        return (MixedEmbedding(layer) if layer in consumers else layer)(*args, **kwargs)

    return keras.models.clone_model(
        model,
        input_tensors=[keras.Input(batch_shape=latents.shape, dtype=latents.dtype), weights],
        clone_function=lambda layer: layer,
        call_function=call,
    )
