import keras
import numpy as np
import pytest

from stugan_tf.errors import InputError
from stugan_tf.layers.mixing import mixing_classes

CLASSES = 5


class Halved(keras.layers.Embedding):
    """An embedding that computes something else, as a normalised one does."""

    def call(self, inputs):
        return super().call(inputs) / 2


def network(kind=keras.layers.Embedding, label_shape=()):
    """Two embeddings, of which one is used twice."""
    keras.utils.set_random_seed(0)
    latents, labels = keras.Input([3]), keras.Input(label_shape, dtype="int32")
    flat = keras.layers.Flatten()
    one = flat(kind(CLASSES, 4, embeddings_initializer="normal")(labels))
    two = flat(kind(CLASSES, 4, embeddings_initializer="normal")(labels))
    hidden = keras.layers.Dense(4, activation="tanh")(keras.layers.Multiply()([two, two]))
    merged = keras.layers.Concatenate()([latents, one, hidden])
    return keras.Model([latents, labels], keras.layers.Dense(2)(merged))


def latents(count):
    return np.random.default_rng(1).normal(size=[count, 3]).astype(np.float32)


@pytest.mark.parametrize("kind", [keras.layers.Embedding, Halved])
@pytest.mark.parametrize("label_shape", [(), (1,)])
def test_ones_and_zeros_make_what_labels_make(kind, label_shape):
    model = network(kind, label_shape)
    labels = np.array([0, 4, 2, 2]).reshape(-1, *label_shape)
    weights = np.eye(CLASSES, dtype=np.float32)[labels]
    mixed = mixing_classes(model)([latents(4), weights])
    np.testing.assert_array_equal(mixed, model([latents(4), labels]))


def test_mixtures_are_of_what_embeddings_make():
    model = network()
    weights = np.random.default_rng(2).dirichlet(np.ones(CLASSES), size=4).astype(np.float32)
    one, two = (
        weights @ layer.embeddings.numpy()
        for layer in model.layers
        if isinstance(layer, keras.layers.Embedding)
    )
    hidden, last = (layer for layer in model.layers if isinstance(layer, keras.layers.Dense))
    hidden = np.tanh((two * two) @ hidden.kernel.numpy() + hidden.bias.numpy())
    merged = np.concatenate([latents(4), one, hidden], axis=1)
    expected = merged @ last.kernel.numpy() + last.bias.numpy()
    np.testing.assert_allclose(mixing_classes(model)([latents(4), weights]), expected, atol=1e-6)


def test_weights_are_shared_and_the_model_is_left_as_it_was():
    model = network()
    labels = np.array([1, 3])
    before = model([latents(2), labels]).numpy()
    mixed = mixing_classes(model)
    assert {id(v) for v in mixed.variables} == {id(v) for v in model.variables}
    np.testing.assert_array_equal(model([latents(2), labels]), before)


def one_hot():
    inputs, labels = keras.Input([3]), keras.Input([], dtype="int32")
    classes = keras.layers.CategoryEncoding(CLASSES, "one_hot", name="of_class")(labels)
    outputs = keras.layers.Dense(2)(keras.layers.Concatenate()([inputs, classes]))
    return keras.Model([inputs, labels], outputs, name="mine")


class Subclassed(keras.Model):
    def call(self, inputs):
        return inputs[0]


@pytest.mark.parametrize(
    ("model", "told"),
    [
        (one_hot, "'mine' cannot .* its labels enter CategoryEncoding 'of_class', and only"),
        (lambda: Subclassed(name="mine"), "'mine', a Subclassed, cannot .* functional models"),
    ],
)
def test_other_models_are_told_why_they_cannot(model, told):
    with pytest.raises(InputError, match=told):
        mixing_classes(model())
