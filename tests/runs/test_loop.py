"""A whole training in one process: models of the user, evaluation, faults."""

import functools
import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from stugan_tf.data import image_folder
from stugan_tf.errors import FailedRun, InputError
from stugan_tf.layers.masked import masked_layers
from stugan_tf.randomness import Purpose, draw_latents, fold
from stugan_tf.runs.checkpoints import Checkpoints
from stugan_tf.runs.loop import Training
from stugan_tf.runs.plan import describe
from stugan_tf.runs.scoring import Scoring
from stugan_tf.sparsity.density_adjustment import DensityAdjustment
from stugan_tf.sparsity.exploration import Exploration
from stugan_tf.sparsity.pruning import GradualPruning
from stugan_tf.sparsity.rules import GMP
from stugan_tf.training.balance import BalanceRatio
from stugan_tf.training.masked_adam import MaskedAdam
from stugan_tf.training.samples import Samples
from tests.helpers.params import first_by_default
from tests.helpers.projection import projection_discriminator
from tests.helpers.small import assert_same_state, states
from tests.helpers.tiny_training import (
    Scripted,
    StopAtTwoError,
    kernels,
    tiny_algorithm,
    tiny_gan,
    tiny_training,
)


def conditional_generator(image_shape, num_classes):
    latents, labels = keras.Input([4]), keras.Input([], dtype="int32")
    outputs = keras.layers.Concatenate()([latents, keras.layers.Embedding(num_classes, 4)(labels)])
    outputs = keras.layers.Dense(64)(outputs)
    outputs = keras.layers.Reshape([8, 8, 1])(outputs)
    outputs = keras.layers.Conv2D(8, 3, padding="same", activation="relu")(outputs)
    outputs = keras.layers.Conv2D(image_shape[-1], 3, padding="same", activation="tanh")(outputs)
    return keras.Model([latents, labels], outputs, name="mine")


@pytest.mark.ci
@pytest.mark.usefixtures("untraced")
def test_a_conditional_model_of_plain_keras_layers_trains_sparse(tmp_path):
    gan = tiny_gan(
        generator=conditional_generator, discriminator=projection_discriminator, conditional=True
    )
    algorithm = tiny_algorithm(generator_exploration=Exploration(update_interval=2))
    training = tiny_training(gan, algorithm)
    before = kernels(training)
    training.run(tmp_path, "")
    counts = training.counts()["generator"]
    assert counts.active == round(0.5 * counts.maskable)
    for layer, former in zip(masked_layers(training.gan.generator), before, strict=True):
        kernel = layer.kernel.numpy()
        assert not np.any(kernel[layer.kernel_mask.numpy() == 0])
        assert np.any(kernel != former)
    grid = np.asarray(Image.open(tmp_path / "samples" / "step_00000004.png"))
    assert grid.shape == (2 + 10 * 66, 2 + 6 * 66)  # 64 images make six of each digit.


def conditional_training(**settings):
    gan = tiny_gan(
        generator=conditional_generator, discriminator=projection_discriminator, conditional=True
    )
    return tiny_training(gan, **settings)


def test_samples_of_a_conditional_gan_are_rows_of_classes():
    training = conditional_training()
    grid = Samples(training.gan, num_samples=25, seed=0)
    latents, _ = draw_latents(2, 4, 10, fold((0, 0), Purpose.SAMPLES))
    rows = grid.images().reshape(10, 2, 8, 8, 1)
    for label, row in enumerate(rows):
        expected = training.gan.generate(latents, tf.constant([label] * 2), False, averaged=True)
        np.testing.assert_allclose(row, expected, atol=1e-6)


@pytest.mark.parametrize("make", first_by_default(tiny_training, conditional_training))
def test_other_samples_are_of_latents_and_labels_as_drawn(make):
    training = make()
    # Too few for a row of each class.
    grid = Samples(training.gan, num_samples=9, seed=0)
    latents, labels = draw_latents(9, 4, 10, fold((0, 0), Purpose.SAMPLES))
    expected = training.gan.generate(latents, labels, training=False, averaged=True)
    np.testing.assert_array_equal(grid.images(), expected)
    assert grid.columns is None


@pytest.mark.ci
@pytest.mark.budget(
    20, reason="two trainings of compiled updates; untraced ones run in order anyway"
)
@pytest.mark.parametrize("steps_per_execution", [pytest.param(1, marks=pytest.mark.slow), 3])
def test_a_run_whose_image_is_gone_is_saved_before_the_step_that_needs_it(
    tmp_path, capsys, steps_per_execution
):
    folder = write_images(tmp_path / "images")

    def training(**settings):
        found = Training(
            image_folder(folder, channels=1, cache_gib=0),
            tf.distribute.OneDeviceStrategy("CPU:0"),
            tiny_gan(),
            tiny_algorithm(total_steps=3, batch_size=2, discriminator_steps=2),
            **settings,
        )
        assert found.inspection  # Read before the image is gone.
        return found

    training(checkpoint_every=2).run(tmp_path / "straight", "")
    interrupted = training(steps_per_execution=steps_per_execution)
    # The second batch of the third step needs it: positions 8 to 11 in the order of the images.
    images = next(iter(interrupted.source.batches(12, seed=0)))[0]
    number = int(np.rint((images[10, 0, 0, 0] + 1) * 127.5)) // 3
    (folder / f"{number:03}.png").unlink()
    with pytest.raises(InputError, match=rf"{number:03}\.png cannot be read: No such file"):
        interrupted.run(tmp_path / "run", "")
    told = capsys.readouterr().err
    assert "NotFoundError: looking for an image" in told
    assert "step 2: saved, because an image cannot be read" in told
    assert kept(tmp_path / "run") == [0, 2]
    assert_same_state(states(tmp_path / "run")[2], states(tmp_path / "straight")[2])


def write_images(folder):
    folder.mkdir()
    for number in range(30):
        Image.fromarray(np.full((8, 8), 3 * number, np.uint8)).save(folder / f"{number:03}.png")
    return folder


@pytest.mark.ci
@pytest.mark.usefixtures("untraced")
def test_a_folder_may_have_any_name(tmp_path):
    workdir = tmp_path / "runs [1]" / "a*b? {c} 100% \\ 'é\" \n"
    tiny_training(checkpoint_every=2).run(workdir, "")
    assert kept(workdir) == [0, 2, 4]
    assert len(list((workdir / "tensorboard").iterdir())) == 1
    training = tiny_training()
    assert Checkpoints(workdir / "checkpoints", training.state()).restore_newest() == 4
    training.run(workdir, "")


@pytest.mark.ci
@pytest.mark.usefixtures("untraced")
def test_a_disk_that_does_not_keep_what_is_written_is_found_out_before_step_1(
    tmp_path, monkeypatch
):
    save = Checkpoints.save

    def forgetful(checkpoints, step, score=None):
        save(checkpoints, step, score)
        for path in (tmp_path / "checkpoints").rglob("state.data*"):
            path.write_bytes(bytes(path.stat().st_size))

    monkeypatch.setattr(Checkpoints, "save", forgetful)
    with pytest.raises(InputError, match=r"cannot be read back: .* is damaged.*Choose a --workdir"):
        tiny_training().run(tmp_path, "")
    assert not (tmp_path / "metrics.jsonl").exists()


@pytest.mark.ci
@pytest.mark.usefixtures("untraced")
def test_the_seed_decides_everything(tmp_path):
    results = []
    for run, seed in enumerate([1, 1, 2]):
        training = tiny_training(algorithm=tiny_algorithm(total_steps=2), seed=seed)
        training.run(tmp_path / str(run), "")
        results.append(kernels(training))
    for one, same, other in zip(*results, strict=True):
        np.testing.assert_array_equal(one, same)
        assert np.any(one != other)


@pytest.mark.parametrize("seed", [2**31, 2**32, 2**63, 2**64])
@pytest.mark.parametrize("name", ["train.seed", "GAN.initialization_seed"])
def test_a_seed_that_keras_cannot_take_is_refused(name, seed):
    settings = (
        {"seed": seed} if name == "train.seed" else {"gan": tiny_gan(initialization_seed=seed)}
    )
    with pytest.raises(InputError, match=rf"{name} must be below 2\*\*31 = 2147483648, got {seed}"):
        tiny_training(**settings)


@pytest.mark.ci
def test_the_largest_seed_builds_networks():
    training = tiny_training(seed=2**31 - 1)
    assert np.any(kernels(training)[0])


@pytest.mark.ci
def test_an_initialization_seed_fixes_weights_but_not_masks():
    first, second = (
        tiny_training(tiny_gan(initialization_seed=7, generator_sparsity=0.0), seed=seed)
        for seed in (1, 2)
    )
    for one, other in zip(kernels(first), kernels(second), strict=True):
        np.testing.assert_array_equal(one, other)
    masks = [
        [layer.kernel_mask.numpy() for layer in masked_layers(training.gan.discriminator)]
        for training in (first, second)
    ]
    assert any(np.any(one != other) for one, other in zip(*masks, strict=True))


def scored(values, **settings):
    settings = {"best_by": "fid", "evaluate_every": 1, "checkpoint_every": 1, **settings}
    total = settings.pop("total_steps", 4)
    algorithm = tiny_algorithm(total_steps=total)
    return tiny_training(None, algorithm, evaluator=Scripted.of(values), **settings)


def kept(workdir):
    return [int(path.name[-8:]) for path in sorted((workdir / "checkpoints").iterdir())]


@pytest.mark.ci
@pytest.mark.usefixtures("untraced")
@pytest.mark.parametrize(("metric", "best"), [("fid", 2), ("inception_score", 3)])
def test_the_checkpoint_with_the_best_score_is_kept(tmp_path, metric, best):
    training = scored([3.0, 1.0, 6.0, 4.0], best_by=metric, keep_checkpoints=1)
    training.run(tmp_path, "")
    assert kept(tmp_path) == [best, 4]
    lines = (tmp_path / "evaluations.jsonl").read_text().splitlines()
    assert [json.loads(line)["fid"] for line in lines] == [3.0, 1.0, 6.0, 4.0]


@pytest.mark.ci
@pytest.mark.usefixtures("untraced")
def test_a_run_ends_after_evaluations_without_a_better_one(tmp_path):
    values = [5.0, 6.0, 4.0, float("nan"), 4.0, 7.0, 1.0, 1.0]
    training = scored(values, patience=3, total_steps=8)
    training.run(tmp_path, "")
    assert kept(tmp_path)[-1] == 6  # The best is 3, then 4, 5 and 6 are not better.
    assert json.loads((tmp_path / "run.json").read_text())["finished"]["step"] == 6
    # Started again, it remembers that it is over.
    scored([], patience=3, total_steps=8).run(tmp_path, "")
    assert kept(tmp_path)[-1] == 6


@pytest.mark.ci
@pytest.mark.usefixtures("untraced")
def test_patience_survives_a_kill(tmp_path):
    killed = scored([5.0, 4.0, 6.0, StopAtTwoError], patience=2, total_steps=8)
    with pytest.raises(StopAtTwoError):
        killed.run(tmp_path, "")
    assert kept(tmp_path)[-1] == 3
    scored([7.0, 1.0], patience=2, total_steps=8).run(tmp_path, "")
    assert kept(tmp_path)[-1] == 4


@pytest.mark.ci
@pytest.mark.usefixtures("untraced")
def test_scores_of_another_protocol_do_not_count(tmp_path):
    records = [{"step": 0, "fid": 0.1, "protocol": {"id": "of evaluate"}}]
    workdir = tmp_path / "run"
    scored([5.0, 4.0, 3.0, 2.0], patience=1).run(workdir, "")
    path = workdir / "evaluations.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in records) + path.read_text())
    training = scored([], patience=1)
    training.scoring.recall(path, 4)
    assert training.scoring.stop_reason is None


def test_scores_made_again_or_between_do_not_use_up_patience(tmp_path):
    path = tmp_path / "evaluations.jsonl"
    steps_and_values = [(2, 5.0), (4, 4.0), (4, 4.0), (3, 9.0), (5, 9.0), (2, 5.0)]
    records = [{"step": s, "fid": v, "protocol": Scripted.protocol} for s, v in steps_and_values]
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    scoring = Scoring(Scripted([6.0, 6.0]), every=2, best_by="fid", patience=2)
    scoring.recall(path, 5)
    assert scoring.stop_reason is None
    scoring.score(None, 6)
    assert scoring.stop_reason is None
    scoring.score(None, 8)
    assert "not been better than at step 4 in the last 2 evaluations" in scoring.stop_reason


@pytest.mark.parametrize(
    ("settings", "told"),
    first_by_default(
        ({"best_by": "kid"}, "'kid' is not one of the scores .* fid, inception_score"),
        ({"best_by": None, "patience": 2}, "set train.best_by"),
        ({"patience": 0}, "train.patience must be a positive integer"),
        ({"evaluate_every": None}, "train.evaluate_every must be a positive integer"),
    ),
)
def test_settings_of_scores_are_checked_before_anything_is_written(tmp_path, settings, told):
    with pytest.raises(InputError, match=told):
        scored([1.0], **settings).run(tmp_path / "run", "")
    assert not (tmp_path / "run").exists()


def test_scores_need_an_evaluator():
    with pytest.raises(InputError, match=r"set train.evaluator, e.g. to @Evaluator"):
        tiny_training(patience=3)


@pytest.mark.usefixtures("untraced")
def test_a_value_that_is_not_finite_stops_the_run_and_is_named(tmp_path):
    training = tiny_training(
        tiny_gan(generator_optimizer=functools.partial(MaskedAdam, 1e38)), checkpoint_every=1
    )
    with pytest.raises(FailedRun, match=r"generator's .* was not finite.* of step 0, is intact"):
        training.run(tmp_path, "")
    checkpoints = Checkpoints(tmp_path / "checkpoints", training.state())
    assert checkpoints.restore_newest() == 0
    assert all(np.all(np.isfinite(kernel)) for kernel in kernels(training))


@pytest.mark.ci
@pytest.mark.usefixtures("untraced")
def test_a_weight_outside_its_mask_stops_the_run_before_it_is_saved(tmp_path, monkeypatch):
    training = tiny_training(checkpoint_every=2)
    layer = min(masked_layers(training.gan.discriminator), key=lambda layer: layer.density())
    advance = training.players["discriminator"].update

    def update(*arguments):
        advance(*arguments)
        layer.kernel.assign_add(tf.ones(layer.kernel.shape))

    monkeypatch.setattr(training.players["discriminator"], "update", update)
    message = rf"At step 2: The discriminator is .* weights of layer '{layer.name}' are not zero"
    with pytest.raises(FailedRun, match=message):
        training.run(tmp_path, "")
    assert Checkpoints(tmp_path / "checkpoints", training.state()).steps() == [0]
    assert "are not zero" in json.loads((tmp_path / "run.json").read_text())["failed"]["reason"]


@pytest.mark.ci
@pytest.mark.usefixtures("untraced")
def test_a_rollback_goes_on_with_other_random_numbers(tmp_path, monkeypatch):
    straight = tiny_training()
    straight.run(tmp_path / "straight", "")
    training = tiny_training(max_rollbacks=1, checkpoint_every=2)
    bad = iter([None, None, (3, "the generator's loss")])
    monkeypatch.setattr(training.players["generator"], "first_bad", lambda: next(bad, None))
    training.run(tmp_path / "rolled", "")
    assert training.state()["attempt"].numpy() == 1
    assert any(np.any(a != b) for a, b in zip(kernels(training), kernels(straight), strict=True))
    steps = [
        json.loads(line)["step"]
        for line in (tmp_path / "rolled" / "metrics.jsonl").read_text().splitlines()
    ]
    assert steps == [4]


def synchronized_generator(image_shape):
    """Its batch norm is over all replicas, so that it does not depend on their number."""
    latents = keras.Input([4])
    outputs = keras.layers.Reshape(image_shape)(keras.layers.Dense(64)(latents))
    outputs = keras.layers.BatchNormalization(momentum=0.9, synchronized=True)(outputs)
    return keras.Model(latents, keras.layers.Conv2D(1, 3, padding="same")(outputs))


@pytest.mark.ci
@pytest.mark.usefixtures("untraced")
def test_a_run_goes_on_under_another_number_of_replicas(tmp_path, mirrored):
    gan = tiny_gan(generator=synchronized_generator)
    algorithm = tiny_algorithm(total_steps=2)
    once = tiny_training(gan, algorithm)
    once.run(tmp_path / "once", "")

    stop = Scripted.of([StopAtTwoError])
    first = tiny_training(gan, algorithm, evaluator=stop, evaluate_every=2, checkpoint_every=1)
    with pytest.raises(StopAtTwoError):
        first.run(tmp_path / "twice", "")
    assert kept(tmp_path / "twice") == [0, 1]
    tf.config.run_functions_eagerly(False)
    second = tiny_training(gan, algorithm, mirrored)
    second.run(tmp_path / "twice", "")
    for one, other in zip(kernels(once), kernels(second), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4)


@pytest.mark.ci
@pytest.mark.usefixtures("untraced")
def test_intervals_longer_than_the_training_are_told_and_the_training_runs(tmp_path, caplog):
    algorithm = tiny_algorithm(
        total_steps=1, generator_exploration=Exploration(update_interval=1000)
    )
    settings = {"evaluator": Scripted.of([5.0]), "evaluate_every": 1000, "best_by": "fid"}
    training = tiny_training(algorithm=algorithm, **settings)
    before = [layer.kernel_mask.numpy() for layer in masked_layers(training.gan.generator)]
    training.run(tmp_path, "")
    for layer, mask in zip(masked_layers(training.gan.generator), before, strict=True):
        np.testing.assert_array_equal(layer.kernel_mask.numpy(), mask)
    assert Checkpoints(tmp_path / "checkpoints", {}).best() == 1
    for told in ("every 1000 steps, but the training of 1 steps", "train.evaluate_every = 1000"):
        assert told in caplog.text
    assert "no topology update, every 1000 steps: the training is too short" in describe(training)


@pytest.mark.parametrize(
    "rule",
    [
        Exploration(update_interval=9),
        GradualPruning(update_interval=9),
        GMP(update_interval=9),
        DensityAdjustment(update_interval=9),
    ],
)
def test_a_rule_is_idle_in_a_training_that_is_shorter_than_its_interval(rule):
    def sentences(total_steps):
        settings = {"generator_exploration": rule, "balance_ratio": BalanceRatio()}
        return tiny_algorithm(total_steps=total_steps, **settings)().idle_rules()

    (sentence,) = sentences(8)
    assert "The generator's topology should change" in sentence
    assert not sentences(40)
