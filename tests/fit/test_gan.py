"""`SparseGAN`: the steps of a run behind Keras' `fit`, its callbacks and its files."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from stugan_tf.data import arrays, digits
from stugan_tf.errors import FailedRun, InputError
from stugan_tf.files import read_json_lines
from stugan_tf.fit.callbacks import SampleGrid, Score
from stugan_tf.fit.gan import SparseGAN
from stugan_tf.runs.loop import Training
from stugan_tf.sparsity.exploration import Exploration
from stugan_tf.training.algorithm import Algorithm
from stugan_tf.training.gan import GAN
from stugan_tf.training.losses import Loss, non_saturating
from stugan_tf.training.masked_adam import MaskedAdam
from tests.helpers.smallest_networks import smallest_discriminator, smallest_generator

NETWORKS = {
    "generator": functools.partial(smallest_generator, width=4, latent_dim=4),
    "discriminator": functools.partial(smallest_discriminator, width=4),
}
SPARSITIES = {"generator_sparsity": 0.5, "discriminator_sparsity": 0.3}
ADAM = functools.partial(MaskedAdam, 1e-2, beta_1=0.5)
SETTINGS = {
    "generator_exploration": Exploration(update_interval=2),
    "discriminator_exploration": Exploration(update_interval=3),
    "average_decay": 0.5,
}
BATCH_SIZE, EPOCHS, PER_EPOCH = 4, 2, 2

pytestmark = pytest.mark.usefixtures("tracing")


def made(**settings):
    gan = SparseGAN(**NETWORKS, **SPARSITIES, image_shape=(8, 8, 1), seed=3)
    gan.compile(ADAM(), ADAM(), non_saturating(), **{**SETTINGS, **settings})
    return gan


def fitted(gan, data=None, **settings):
    settings = {
        "batch_size": BATCH_SIZE,
        "epochs": EPOCHS,
        "steps_per_epoch": PER_EPOCH,
        "verbose": 0,
        **settings,
    }
    return gan.fit(digits() if data is None else data, **settings).history


def run(path, **settings):
    """The same training as a run."""
    training = Training(
        digits(),
        tf.distribute.OneDeviceStrategy("CPU:0"),
        functools.partial(
            GAN,
            **NETWORKS,
            **SPARSITIES,
            generator_optimizer=ADAM,
            discriminator_optimizer=ADAM,
        ),
        functools.partial(
            Algorithm,
            total_steps=EPOCHS * PER_EPOCH,
            batch_size=BATCH_SIZE,
            generator_batch_size=BATCH_SIZE,
            loss=non_saturating(),
            **{**SETTINGS, **settings},
        ),
        seed=3,
        log_every=PER_EPOCH,
        trackers=[],
    )
    training.run(path, "")
    return training


def everything(gan):
    """All values that a training ends with, by name."""
    values = {}
    for name, network in {**gan.networks, "average": gan.averaged.model}.items():
        values |= {f"{name}/{i}": v.numpy() for i, v in enumerate(network.variables)}
    for name, optimizer in gan.optimizers.items():
        values |= {f"{name} optimizer/{i}": v.numpy() for i, v in enumerate(optimizer.variables)}
    return values | {f"seen/{i}": v.numpy() for i, v in enumerate(gan.averaged.seen)}


def assert_same(actual, expected):
    actual, expected = everything(actual), everything(expected)
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(actual[name], value, err_msg=name)


@pytest.fixture(scope="module")
def whole(tracing, tmp_path_factory):
    """A GAN after an uninterrupted `fit`, its history, and the folder of its sample grids."""
    gan, folder = made(), tmp_path_factory.mktemp("samples") / "new"
    scores = iter([{"fid": 3.0, "protocol": {}}, {"fid": 2.0, "protocol": {}}])
    callbacks = [Score(lambda scored: next(scores)), SampleGrid(folder, every=2)]
    return gan, fitted(gan, callbacks=callbacks), folder


def test_fit_ends_with_the_weights_and_the_logs_of_a_run(whole, tmp_path):
    gan, history, _ = whole
    assert_same(gan.gan, run(tmp_path).gan)
    lines = read_json_lines(tmp_path / "metrics.jsonl")
    assert len(lines) == EPOCHS
    for epoch, line in enumerate(lines):
        logged = {name: value for name, value in line.items() if name not in ("step", "time")}
        numbers = {name: values[epoch] for name, values in history.items() if name != "fid"}
        assert numbers == pytest.approx(logged)


@pytest.mark.ci
def test_so_it_does_with_several_discriminator_updates_and_steps_at_once(tmp_path):
    settings = {"discriminator_steps": 2, "generator_position": 1, "accumulation_steps": 2}
    gan = made(**settings, steps_per_execution=3)
    fitted(gan)
    assert_same(gan.gan, run(tmp_path, **settings).gan)


def test_the_callbacks_of_fit_score_and_draw(whole):
    _, history, folder = whole
    assert history["fid"] == [3.0, 2.0]
    assert [path.name for path in folder.iterdir()] == ["epoch_0002.png"]
    assert np.asarray(Image.open(folder / "epoch_0002.png")).shape == (2 + 8 * 66, 2 + 8 * 66)


class StopError(Exception):
    """What ends a `fit` in the middle."""


class StopAt(keras.callbacks.Callback):
    def __init__(self, step):
        super().__init__()
        self._step = step

    def on_train_batch_end(self, batch, logs=None):
        if self.model.step == self._step:
            raise StopError


def test_a_fit_that_goes_on_ends_like_one_that_was_never_stopped(whole, tmp_path):
    def backup():
        return keras.callbacks.BackupAndRestore(tmp_path / "backup", save_freq=1)

    with pytest.raises(StopError):
        fitted(made(), callbacks=[backup(), StopAt(3)])  # In the second epoch.
    gan = made()
    history = fitted(gan, callbacks=[backup()])
    expected, expected_history, _ = whole
    assert gan.step == EPOCHS * PER_EPOCH
    assert_same(gan.gan, expected.gan)
    assert history == {k: values[1:] for k, values in expected_history.items() if k != "fid"}


@pytest.mark.ci
def test_a_later_fit_goes_on_where_the_first_ended(whole, tmp_path):
    path = tmp_path / "gan.weights.h5"
    first = made(total_steps=EPOCHS * PER_EPOCH)
    fitted(first, epochs=1)
    first.save_weights(path)
    loaded = made(total_steps=EPOCHS * PER_EPOCH)
    loaded.load_weights(path)
    for gan in (first, loaded):
        fitted(gan, epochs=EPOCHS, initial_epoch=1)
        assert_same(gan.gan, whole[0].gan)


def test_a_keras_file_holds_the_networks_and_once_compiled_the_training(whole, tmp_path):
    gan, path = whole[0], tmp_path / "gan.keras"
    gan.save(path)
    loaded = keras.models.load_model(path)
    np.testing.assert_array_equal(loaded.generate(3, seed=1), gan.generate(3, seed=1))
    loaded.compile(ADAM(), ADAM(), non_saturating(), **SETTINGS)
    loaded.load_weights(path)
    fitted(loaded, initial_epoch=EPOCHS)  # No step is left.
    assert loaded.step == gan.step
    assert_same(loaded.gan, gan.gan)


def test_images_do_not_depend_on_their_number(whole):
    gan = whole[0]
    images = gan.generate(5, seed=1)
    assert images.shape == (5, 8, 8, 1)
    assert images.dtype == np.uint8
    np.testing.assert_array_equal(gan.generate(3, seed=1), images[:3])
    assert np.any(gan.generate(5, seed=2) != images)
    latents = np.random.default_rng(0).normal(size=[2, 4]).astype(np.float32)
    np.testing.assert_array_equal(gan(latents), gan.average(latents))


@pytest.mark.ci
def test_models_of_plain_keras_are_trained_with_labels_by_a_loss_of_keras():
    latents, labels = keras.Input([4]), keras.Input([], dtype="int32")
    outputs = keras.layers.Concatenate()([latents, keras.layers.Embedding(10, 4)(labels)])
    outputs = keras.layers.Reshape([8, 8, 1])(keras.layers.Dense(64)(outputs))
    outputs = keras.layers.Conv2D(1, 3, padding="same", activation="tanh")(outputs)
    generator = keras.Model([latents, labels], outputs)
    images, labels = keras.Input([8, 8, 1]), keras.Input([], dtype="int32")
    outputs = keras.layers.Conv2D(8, 3, strides=2, activation="relu")(images)
    outputs = keras.layers.GlobalAveragePooling2D()(outputs)
    outputs = keras.layers.Concatenate()([outputs, keras.layers.Embedding(10, 8)(labels)])
    discriminator = keras.Model([images, labels], keras.layers.Dense(1)(outputs))
    before = [weight.numpy() for weight in generator.weights]
    gan = SparseGAN(generator, discriminator, 0.5, num_classes=10)
    gan.compile(loss=keras.losses.BinaryCrossentropy(from_logits=True))
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, [8, 8, 8, 1], dtype=np.uint8)
    gan.fit(pixels, np.arange(8), batch_size=4, verbose=0)
    assert gan.step == 2  # Two batches are one epoch.
    # The user's own model is the one that is trained.
    assert all(np.any(w != old) for w, old in zip(generator.weights, before, strict=True))
    gan.gan.check_zeros()
    assert gan.gan.sparsities("generator")["generator_sparsity"] == pytest.approx(0.5, abs=0.1)
    images = gan.generate(4, labels=[7, 7, 3, 7])
    np.testing.assert_array_equal(images[:2], gan.generate(2, labels=7))


@pytest.mark.ci
def test_two_devices_train_as_one(mirrored, whole):
    with mirrored.scope():
        gan = made()
    fitted(gan)
    for name, value in everything(whole[0].gan).items():
        np.testing.assert_allclose(
            everything(gan.gan)[name], value, rtol=1e-3, atol=1e-3, err_msg=name
        )


@pytest.fixture(scope="module")
def unfit(tracing):
    """A compiled GAN, of which no step is made."""
    return made()


def dataset(*parts):
    return tf.data.Dataset.from_tensor_slices(parts if len(parts) > 1 else parts[0])


PIXELS = np.linspace(-1, 1, 8 * 64, dtype=np.float32).reshape(8, 8, 8, 1)


@pytest.mark.parametrize(
    ("data", "settings", "told"),
    [
        (None, {}, "`fit` cannot read a NoneType. Give `fit` a Source such as st.digits"),
        (digits(16), {}, r"images \(16, 16, 1\), but the networks are for images \(8, 8, 1\)"),
        (PIXELS[..., 0], {}, r"\[N, H, W, C\], got the shape \(8, 8, 8\).*images\[..., None\]"),
        (PIXELS * 127.5 + 127.5, {}, r"in \[-1, 1\], got \[0, 255\].*images / 127.5 - 1"),
        (PIXELS / 2 + 0.5, {}, r"look like \[0, 1\].*2 \* images - 1"),
        (PIXELS.astype(np.int32), {}, r"uint8, or float in \[-1, 1\], got int32"),
        (dataset(PIXELS), {}, r"single images \(8, 8, 1\).*dataset.batch\(64\)"),
        (dataset(PIXELS).batch(4), {"batch_size": 8}, "batch_size = 8 is for arrays and sources"),
        (dataset(PIXELS[..., 0]).batch(4), {}, r"single images|images of float32 \(None, 8, 8\)"),
        (dataset(PIXELS / 2 + 0.5).batch(4), {}, r"look like \[0, 1\]"),
        (dataset(PIXELS).take(0).batch(4), {}, "The data set is empty"),
        (dataset(PIXELS, PIXELS, PIXELS).batch(4), {}, "The data set yields .*Give `fit` a Source"),
        (digits(), {"y": [1, 2]}, "`y` is for labels of an array"),
        (digits(), {"batch_size": 0}, "batch_size must be a positive integer, got 0"),
        (digits(), {"batch_size": 6}, "batch_size = 6 is the global batch.*accumulation_steps = 4"),
        (digits(), {"epochs": 0}, "epochs must be a positive integer"),
        (
            digits(),
            {"steps_per_epoch": 1, "batch_size": 4, "epochs": 2},
            "topology should change every 2 steps, but the training of 2 steps has no step for it",
        ),
        (
            dataset(PIXELS).batch(4).repeat(),
            {},
            "Nobody knows how many images the data set has. Set steps_per_epoch",
        ),
    ],
)
def test_data_that_does_not_fit_is_refused_before_step_1(unfit, data, settings, told):
    gan = unfit
    if "accumulation" in told:
        gan = made(accumulation_steps=4)
    with pytest.raises(InputError, match=told):
        gan.fit(data, verbose=0, **settings)
    assert gan.step == 0


def test_labels_that_are_missing_or_unknown_are_refused():
    def conditional_generator(image_shape, num_classes):
        latents, labels = keras.Input([4]), keras.Input([], dtype="int32")
        outputs = keras.layers.Add()([latents, keras.layers.Embedding(num_classes, 4)(labels)])
        outputs = keras.layers.Reshape(image_shape)(keras.layers.Dense(64)(outputs))
        return keras.Model([latents, labels], keras.layers.Conv2D(1, 3, padding="same")(outputs))

    def conditional_discriminator(image_shape, num_classes):
        images, labels = keras.Input(image_shape), keras.Input([], dtype="int32")
        outputs = keras.layers.Flatten()(keras.layers.Conv2D(1, 3)(images))
        embedded = keras.layers.Embedding(num_classes, 4)(labels)
        outputs = keras.layers.Concatenate()([outputs, embedded])
        return keras.Model([images, labels], keras.layers.Dense(1)(outputs))

    gan = SparseGAN(
        conditional_generator,
        conditional_discriminator,
        0.5,
        image_shape=(8, 8, 1),
        num_classes=3,
    )
    gan.compile()
    with pytest.raises(InputError, match=r"num_classes is 3, so the networks take labels, but the"):
        gan.fit(PIXELS)
    with pytest.raises(InputError, match=r"but the data has none"):
        gan.fit(dataset(PIXELS).batch(4))
    with pytest.raises(InputError, match=r"but the data has none"):
        gan.fit(arrays(PIXELS))
    with pytest.raises(InputError, match=r"10 classes, but SparseGAN.num_classes is 3"):
        gan.fit(digits())
    with pytest.raises(InputError, match=r"labels of int64 \(None, 3\).*one-hot"):
        gan.fit(dataset(PIXELS, np.eye(3, dtype=np.int64)[np.zeros(8, int)]).batch(4))
    with pytest.raises(InputError, match=r"labels must be below 3, got 3"):
        gan.generate(2, labels=3)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"loss": "hinge"}, r"loss must be one of st.hinge\(\).*got 'hinge'"),
        ({"loss": keras.losses.BinaryCrossentropy()}, "takes probabilities.*from_logits=True"),
        ({"generator_optimizer": keras.optimizers.Adam()}, "must be a MaskedAdam.*st.MaskedAdam"),
        (dict.fromkeys(["generator_optimizer", "discriminator_optimizer"], ADAM()), "one object"),
        ({"batch_size": 4}, "batch_size is an argument of `fit`"),
        ({"metrics": ["accuracy"]}, "has no argument 'metrics'"),
        ({"average_deacy": 0.9}, "no argument 'average_deacy'. Did you mean 'average_decay'"),
        ({"execution": "fast"}, "execution"),
    ],
)
def test_a_compilation_that_cannot_work_is_refused(unfit, arguments, told):
    with pytest.raises(InputError, match=told):
        unfit.compile(**arguments)


def test_what_a_fit_needs_is_asked_for():
    with pytest.raises(InputError, match=r"needs image_shape = \(H, W, C\)"):
        SparseGAN(**NETWORKS, **SPARSITIES)
    gan = SparseGAN(**NETWORKS, **SPARSITIES, image_shape=(8, 8, 1))
    with pytest.raises(InputError, match=r"not compiled. Call `gan.compile\("):
        gan.fit(digits())
    with pytest.raises(InputError, match="SampleGrid is for a SparseGAN, got a Sequential"):
        SampleGrid("samples").set_model(keras.Sequential())
    gan.compile(total_steps=3)
    with pytest.raises(InputError, match="would end at step 4, after total_steps = 3"):
        gan.fit(digits(), epochs=2, steps_per_epoch=2, verbose=0)


def test_a_training_that_is_not_finite_ends_in_words():
    def loss(real, fake):
        return tf.reduce_mean(fake - real) * (float("nan") if len(real) == 3 else 1.0)

    gan = made()
    gan.compile(loss=Loss(loss, lambda fake: -tf.reduce_mean(fake)))
    with pytest.raises(
        FailedRun, match=r"At step 1, the discriminator's loss was not finite. Load"
    ):
        fitted(gan, epochs=1, steps_per_epoch=1, batch_size=3)
