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
    outputs = keras.layers.Conv2D(16, 3, activation="relu")(outputs)
    outputs = keras.layers.GlobalAveragePooling2D()(outputs)
    return keras.Model(inputs, keras.layers.Dense(4, activation="softmax")(outputs))


def test_a_keras_model_is_sparse_in_three_lines_and_its_topology_changes():
    (snippet,) = [text for text in snippets() if "sparsify" in text]
    random = np.random.default_rng(0)
    x, y = random.normal(size=[900, 8, 8, 3]), random.integers(0, 4, [900])
    names = {"model": small_model(), "x": x, "y": y}
    exec(snippet, names)
    model, st = names["model"], names["st"]

    assert abs(st.count_weights(model).sparsity - 0.9) < 0.01
    assert model.history.history["churn"][3] > 0  # The update is in step 100 of 145.
    for mask in st.kernel_masks(model):
        assert np.any(mask.kernel.numpy() != 0)
        assert not np.any(mask.kernel.numpy()[mask.kernel_mask.numpy() == 0])
