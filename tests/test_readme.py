"""The Python of the README does what the README says."""

import pathlib
import re
import textwrap

import keras
import numpy as np

README = (pathlib.Path(__file__).parents[1] / "README.md").read_text()


def snippets():
    """Indented blocks that begin with an import; the others are for a shell."""
    blocks = re.findall(r"(?:(?:^ {4,}.*)?\n)+", README, re.MULTILINE)
    texts = [textwrap.dedent(block).strip() for block in blocks]
    return [text for text in texts if re.match(r"(import|from) \w", text)]


def small_model():
    inputs = keras.Input([8, 8, 3])
    outputs = keras.layers.Conv2D(16, 3, activation="relu")(inputs)
    outputs = keras.layers.Conv2D(16, 3)(outputs)
    return keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(outputs))


def test_without_gin_a_model_is_sparse_and_stays_so():
    (snippet,) = [text for text in snippets() if "sparsify" in text]
    names = {"model": small_model()}
    exec(snippet, names)
    model, st = names["model"], names["st"]

    counts = st.count_weights(model)
    assert abs(counts.sparsity - 0.9) < 0.01
    images = np.random.default_rng(0).normal(size=[4, 8, 8, 3])
    before = [layer.kernel.numpy() for layer in st.kernel_masks(model)]
    model.fit(images, np.ones([4, 16]), verbose=0)
    for layer, kernel in zip(st.kernel_masks(model), before, strict=True):
        assert np.any(layer.kernel.numpy() != kernel)
        assert not np.any(layer.kernel.numpy()[layer.kernel_mask.numpy() == 0])
