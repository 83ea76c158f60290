"""A small classifier of handwritten digits, so that the quickstart has scores without a download.

CARD.md describes it. The architecture is code and only the weights are a file, for a `.keras` file
says more than every version of Keras can read.
"""

import io
import pathlib
import zipfile

import keras
import numpy as np
from keras import layers

from stugan_tf.errors import InputError
from stugan_tf.evaluation.preprocessing import Preprocessing
from stugan_tf.files import write_atomically

WEIGHTS = pathlib.Path(__file__).parent / "classifier.npz"
NUM_CLASSES = 10
NUM_FEATURES = 64
PREPROCESSING = Preprocessing(16, "bilinear_antialias", (-1.0, 1.0))


def build(seed=0):
    """Images [B, 16, 16, 1] in [-1, 1] to `(features [B, 64], logits [B, 10])`."""
    random = keras.random.SeedGenerator(seed)

    def convolution(inputs, width, name):
        outputs = layers.Conv2D(
            width,
            3,
            padding="same",
            use_bias=False,
            kernel_initializer=keras.initializers.HeNormal(random),
            name=name,
        )(inputs)
        outputs = layers.BatchNormalization(momentum=0.9, name=f"{name}_norm")(outputs)
        return layers.ReLU(name=f"{name}_relu")(outputs)

    images = keras.Input((*PREPROCESSING.size, 1), name="images")
    outputs = convolution(images, 24, "conv1")
    outputs = convolution(outputs, 24, "conv2")
    outputs = layers.MaxPooling2D(name="pool1")(outputs)
    outputs = convolution(outputs, 48, "conv3")
    outputs = convolution(outputs, 48, "conv4")
    outputs = layers.MaxPooling2D(name="pool2")(outputs)
    outputs = convolution(outputs, NUM_FEATURES, "conv5")
    features = layers.GlobalAveragePooling2D(name="features")(outputs)
    outputs = layers.Dropout(0.3, seed=seed, name="dropout")(features)
    logits = layers.Dense(
        NUM_CLASSES, kernel_initializer=keras.initializers.GlorotUniform(random), name="logits"
    )(outputs)
    return keras.Model(images, [features, logits], name="digits_classifier")


def compute(model, images):
    """`(features, logits)` of the model of `build`, as when it is used."""
    return model(images, training=False)


def save(model, path):
    """Writes the weights by path to an .npz file, the same bytes for the same weights."""
    file = io.BytesIO()
    np.savez(file, **{weight.path: weight.value.numpy() for weight in model.weights})
    write_atomically(path, file.getvalue())


def load(path=WEIGHTS):
    """The trained model of `build`."""
    model = build()
    try:
        with np.load(path, allow_pickle=False) as arrays:
            for weight in model.weights:
                weight.assign(arrays[weight.path])
    except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise InputError(
            f"{path} does not hold the weights of the digits classifier: {error}. Install the "
            "package again."
        ) from error
    return model


def split(image_size=PREPROCESSING.size[0]):
    """scikit-learn's digits as the classifier was trained: 4 of 5 to train, the rest held out.

    Returns:
        `(images, labels), (held_out_images, held_out_labels)`: uint8 [n, size, size, 1], int32 [n].
    """
    import tensorflow as tf
    from sklearn.model_selection import train_test_split

    from stugan_tf.data.digits import digits

    source = digits(image_size)
    examples = source.records().map(source.load).batch(source.num_images).get_single_element()
    images, labels = (tf.convert_to_tensor(part).numpy() for part in examples)
    parts = train_test_split(
        images, labels.astype(np.int32), test_size=0.2, random_state=0, stratify=labels
    )
    return (parts[0], parts[2]), (parts[1], parts[3])
