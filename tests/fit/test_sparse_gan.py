"""`SparseGAN`: the steps of a run behind Keras' `fit`, its callbacks and its files."""

import re

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from stugan_tf.data import Source, arrays, digits
from stugan_tf.errors import FailedRun, InputError
from stugan_tf.files import read_json_lines
from stugan_tf.fit.callbacks import SampleGrid, Score
from stugan_tf.fit.gan import SparseGAN
from stugan_tf.runs.events import is_of_machine
from stugan_tf.sparsity.rules import RigL
from stugan_tf.training.losses import Loss, non_saturating
from tests.helpers import tracing
from tests.helpers.fitting import (
    ADAM,
    EPOCHS,
    NETWORKS,
    PER_EPOCH,
    SETTINGS,
    SPARSITIES,
    assert_same,
    fitted,
    made,
    run,
)
from tests.helpers.params import first_by_default


@pytest.fixture(scope="module", autouse=True)
def _untraced():
    """Steps are run line by line; test_compiled_fit.py has them as compiled functions."""
    with tracing.untraced():
        yield


@pytest.fixture(scope="module")
def whole(_untraced, tmp_path_factory):
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
        logged = {n: v for n, v in line.items() if n != "step" and not is_of_machine(n)}
        numbers = {name: values[epoch] for name, values in history.items() if name != "fid"}
        assert numbers == pytest.approx(logged)


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


@pytest.mark.ci
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


class Failing(Source):
    """Images that tell their number, of which one cannot be loaded."""

    name, image_shape, num_classes, num_images, cache_gib = "failing", (8, 8, 1), 1, 40, 0.0
    failing = -1

    def load(self, record):
        tf.debugging.assert_none_equal(record, tf.constant(self.failing, tf.int64))
        return tf.cast(tf.fill([8, 8, 1], record), tf.uint8), tf.constant(0)


@pytest.mark.ci
def test_a_fit_whose_image_cannot_be_read_is_after_the_step_before():
    gan, source = made(steps_per_execution=4, discriminator_steps=2), Failing()
    images, _ = next(iter(source.batches(24, seed=gan.seed)))
    source.failing = int(np.rint((images[21, 0, 0, 0] + 1) * 127.5))  # In the third step.
    with pytest.raises(InputError, match=rf"Image number {source.failing} of failing"):
        fitted(gan, source, steps_per_epoch=4, epochs=1)
    assert gan.step == 2
    assert int(gan.gan.discriminator_optimizer.iterations) == 4


def test_layers_that_were_frozen_since_compile_are_told():
    gan = made(generator_exploration=None)
    gan.generator.trainable = False
    with pytest.raises(InputError, match="were frozen or made trainable since `compile`"):
        fitted(gan)


def test_images_do_not_depend_on_their_number(whole):
    gan = whole[0]
    images = gan.generate(5, seed=1)
    assert images.shape == (5, 8, 8, 1)
    assert images.dtype == np.uint8
    np.testing.assert_array_equal(gan.generate(3, seed=1), images[:3])
    assert np.any(gan.generate(5, seed=2) != images)
    latents = np.random.default_rng(0).normal(size=[2, 4]).astype(np.float32)
    np.testing.assert_array_equal(gan(latents), gan.average(latents))


@pytest.fixture(scope="module")
def unfit(_untraced):
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
        (PIXELS * np.nan, {}, "Images must be finite"),
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
    for labels in (3, -1, True, 1.0, "1", [[1], [2]], []):
        with pytest.raises(InputError, match=rf"class below 3, .*got {re.escape(repr(labels))}"):
            gan.generate(2, labels=labels)
    assert gan.generate(2, labels=np.array([2, 0])).shape == (2, 8, 8, 1)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"loss": "hinge"}, r"loss must be one of st.hinge\(\).*got 'hinge'"),
        ({"loss": keras.losses.BinaryCrossentropy()}, "takes probabilities.*from_logits=True"),
        ({"generator_optimizer": "adam"}, "generator_optimizer must be an optimizer such as"),
        (
            {"generator_optimizer": keras.optimizers.Adam(use_ema=True)},
            "Adam.use_ema is not supported.*average of the generator is GAN.average",
        ),
        (
            {
                "discriminator_optimizer": keras.optimizers.LossScaleOptimizer(
                    keras.optimizers.Adam()
                )
            },
            "discriminator_optimizer is a LossScaleOptimizer around another.*the inner one",
        ),
        ({"batch_size": 4}, "batch_size is an argument of `fit`"),
        ({"metrics": ["accuracy"]}, "has no argument 'metrics'"),
        ({"average_deacy": 0.9}, "no argument 'average_deacy'. Did you mean 'average_decay'"),
        ({"execution": "fast"}, "execution"),
        ({"rematerialize": "yes"}, "rematerialize must be True or False, got 'yes'"),
        ({"run_eagerly": 1}, "run_eagerly must be True or False, got 1"),
        ({"run_eagerly": True, "jit_compile": True}, "so XLA cannot compile them. Leave out"),
        ({"auto_scale_loss": None}, "auto_scale_loss must be True or False"),
        ({"steps_per_execution": 0}, "steps_per_execution"),
        ({"jit_compile": "yes"}, "jit_compile must be 'auto', True or False, got 'yes'"),
    ],
)
def test_a_compilation_that_cannot_work_is_refused(unfit, arguments, told):
    with pytest.raises(InputError, match=told):
        unfit.compile(**arguments)


def test_slots_that_cannot_start_again_are_refused_before_step_1():
    gan = made(generator_exploration=RigL(2))
    gan.compile(keras.optimizers.Adafactor(1e-3), generator_exploration=RigL(2))
    with pytest.raises(InputError, match=r"Adafactor keeps state of the shape .*slots = 'keep'"):
        fitted(gan)
    assert gan.step == 0


def test_activations_are_computed_again_until_it_is_compiled_in_another_way():
    gan = made(rematerialize=True)
    assert gan.gan.rematerializes
    gan.compile()
    assert not gan.gan.rematerializes


@pytest.mark.parametrize("scales", first_by_default(True, False))
def test_losses_in_float16_are_scaled_unless_it_is_forbidden(scales):
    half = keras.Sequential(
        [
            keras.Input([4]),
            keras.layers.Dense(64, dtype="mixed_float16"),
            keras.layers.Reshape([8, 8, 1], dtype="float32"),
        ]
    )
    gan = SparseGAN(half, NETWORKS["discriminator"], 0.5, mask_dense=True)
    gan.compile(auto_scale_loss=scales)
    history = fitted(gan, epochs=1, steps_per_epoch=1)
    assert any("scale" in name for name in history) == scales


def test_what_a_fit_needs_is_asked_for():
    with pytest.raises(InputError, match=r"needs image_shape = \(H, W, C\)"):
        SparseGAN(**NETWORKS, **SPARSITIES)
    for shape in ((8, 8), (8.0, 8, 1), (8, 8, 0), "8x8", 8):
        with pytest.raises(InputError, match=r"image_shape must be \(H, W, C\), three"):
            SparseGAN(**NETWORKS, **SPARSITIES, image_shape=shape)
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
