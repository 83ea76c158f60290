"""Runs that start from trained networks: those of a run, or of an exported generator."""

import json
import re
import shutil

import gin
import keras
import numpy as np
import pytest
import tensorflow as tf

import stugan_tf.command
import stugan_tf.evaluation.evaluator
import stugan_tf.models  # noqa: F401 - registers with gin, which a parsed file forbids
from stugan_tf import config
from stugan_tf.data import arrays, data
from stugan_tf.errors import InputError
from stugan_tf.layers.kernel_mask import kernel_masks
from stugan_tf.methods import method  # noqa: F401 - registers itself while that is still allowed
from stugan_tf.runs.loop import Training
from stugan_tf.runs.manifest import read_manifest
from stugan_tf.runs.warm_start import WarmStart
from stugan_tf.serving import artifact, load
from tests.helpers import commands
from tests.helpers.commands import SMALLEST, STATIC, call
from tests.helpers.projection import projection_discriminator
from tests.helpers.small import states
from tests.helpers.tracing import untraced

CONDITIONAL = (
    "GAN.conditional = True",
    "GAN.generator = @warm_generator",
    f"GAN.discriminator = @{projection_discriminator.__name__}",
)


@gin.configurable(module="warm_start_test", denylist=["image_shape", "num_classes"])
def warm_generator(image_shape, num_classes):
    """Layers without names, whose names differ in each process, and a table of classes."""
    latents, labels = keras.Input([8]), keras.Input([], dtype="int32")
    embedded = keras.layers.Embedding(num_classes, 8, embeddings_initializer="normal")(labels)
    outputs = keras.layers.Dense(64)(keras.layers.Concatenate()([latents, embedded]))
    outputs = keras.layers.Reshape([8, 8, 1])(outputs)
    outputs = keras.layers.Conv2D(8, 3, padding="same")(outputs)
    outputs = keras.layers.ReLU()(keras.layers.BatchNormalization(momentum=0.5)(outputs))
    skipped = keras.layers.Conv2D(8, 3, padding="same")(outputs)
    outputs = keras.layers.Add()([outputs, skipped])
    outputs = keras.layers.ReLU()(keras.layers.BatchNormalization(momentum=0.5)(outputs))
    outputs = keras.layers.Conv2D(image_shape[-1], 3, padding="same", activation="tanh")(outputs)
    return keras.Model([latents, labels], outputs, name="warm")


@gin.configurable(module="warm_start_test")
def three_classes():
    images = np.random.default_rng(0).integers(0, 256, [9, 8, 8, 1], np.uint8)
    return arrays(images, np.arange(9) % 3)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Workdirs of runs of one step, by name."""
    folder = tmp_path_factory.mktemp("runs")
    with untraced():
        return {
            "plain": commands.train(folder / "plain", *STATIC),
            "conditional": commands.train(folder / "conditional", *STATIC, *CONDITIONAL),
        }


@pytest.fixture(scope="module")
def exported(runs, tmp_path_factory):
    """`(run, format) -> folder`, exported once."""
    folders = {}

    def folder_of(run, kind):
        if (run, kind) not in folders:
            output = tmp_path_factory.mktemp("exported") / "out"
            flags = [f"--workdir={runs[run]}", f"--output={output}", f"--format={kind}"]
            code, _, errors = call("export", *flags)
            assert code == 0, errors
            folders[run, kind] = output
        return folders[run, kind]

    return folder_of


def built(*bindings, seed=1):
    """A training of another seed, so that nothing is equal by chance."""
    config.parse_gin([SMALLEST], [*STATIC, f"train.seed = {seed}", *bindings])
    try:
        return Training(data(), tf.distribute.OneDeviceStrategy("CPU:0"))
    finally:
        config.parse_gin()


def values(training):
    return {name: variable.numpy() for name, variable in training.state().items()}


BORROWED = ("generator/", "discriminator/", "averaged/", "averaged_seen/")


@pytest.mark.ci
@pytest.mark.parametrize("step", [0, 1])
def test_weights_masks_and_average_are_those_of_the_run_and_nothing_else(runs, step):
    training = built("Algorithm.generator_exploration = @Exploration()")
    before = values(training)
    start = WarmStart(runs["plain"], str(step))
    (said,) = start.check(training)
    assert f"plain, step {step}: weights and masks of both networks" in said
    facts = start.begin(training)["init_from"]
    after, theirs = values(training), states(runs["plain"])[step]
    for name, value in after.items():
        if name.startswith(BORROWED):
            np.testing.assert_array_equal(value, theirs[name], err_msg=name)
        elif "ever_active" in name:
            mask = theirs[name.removeprefix("topology/").replace("ever_active/", "") + "_mask"]
            np.testing.assert_array_equal(value, mask, err_msg=name)
        else:
            np.testing.assert_array_equal(value, before[name], err_msg=name)
    assert (facts["kind"], facts["step"], len(facts["sha256"])) == ("run", step, 64)
    training.gan.check_zeros()


@pytest.mark.ci
def test_other_classes_get_embeddings_of_their_own(runs):
    training = built(*CONDITIONAL, "data.source = @three_classes()")
    before = values(training)
    start = WarmStart(runs["conditional"])
    said = start.check(training)
    assert said[1:] == [
        "the embeddings of classes start afresh: there are 10 classes there and 3 here"
    ]
    start.begin(training)
    theirs = states(runs["conditional"])[1]
    fresh = [n for n in values(training) if n.startswith(BORROWED) and "embedding" in n]
    assert len(fresh) == 3  # Generator, its average, discriminator.
    for name, value in values(training).items():
        if name.startswith(BORROWED):
            expected = before[name] if name in fresh else theirs[name]
            np.testing.assert_array_equal(value, expected, err_msg=name)


@pytest.mark.parametrize(
    ("bindings", "told"),
    [
        (
            ("smallest_generator.width = 4",),
            r"first layer of the generator that differs is 'l1', whose kernel has shape \(8, 128\) "
            r"there and shape \(8, 64\) here\. Set the same",
        ),
        (
            ("smallest_discriminator.width = 4",),
            r"of the discriminator that differs is 'c1', whose kernel has shape \(3, 3, 1, 8\) "
            r"there and shape \(3, 3, 1, 4\) here",
        ),
        (
            ("digits.image_size = 16",),
            r"'l1', .* Its images are 8x8x1, those of the data 16x16x1\.",
        ),
        (
            ("GAN.generator = @sngan_generator", "sngan_generator.width = 4"),
            r"does not fit: the first layer of the generator that differs is 'l1'",
        ),
    ],
)
def test_networks_that_do_not_fit_are_refused_with_the_first_layer(runs, bindings, told):
    training = built(*bindings)
    before = values(training)
    with pytest.raises(InputError, match=told):
        WarmStart(runs["plain"]).check(training)
    for name, value in values(training).items():
        np.testing.assert_array_equal(value, before[name], err_msg=name)


def test_masks_of_another_sparsity_are_taken_over_and_it_is_said(runs):
    training = built("GAN.generator_sparsity = 0.3")
    start = WarmStart(runs["plain"])
    (_, said) = start.check(training)
    assert re.match(
        r"the masks of the generator are taken over: 7\d\.\d\d% zeros, where the configuration has "
        r"(29|30)\.\d\d%",
        said,
    )
    start.begin(training)
    assert training.counts()["generator"].sparsity == pytest.approx(0.7, abs=0.01)


@pytest.mark.ci
@pytest.mark.parametrize(
    ("run", "kind"),
    [
        ("plain", "sparse"),
        ("plain", "html"),
        ("conditional", "sparse"),
        ("plain", "saved_model"),
        ("conditional", "saved_model"),
    ],
)
def test_a_training_goes_on_from_the_images_of_an_artifact(runs, exported, run, kind):
    folder = exported(run, kind)
    training = built(*(CONDITIONAL if run == "conditional" else ()))
    before = values(training)
    start = WarmStart(folder)
    said = " ".join(start.check(training))
    assert f"an artifact of the format {kind}: the weights of its generator" in said
    assert "has no discriminator: it starts afresh" in said
    facts = start.begin(training)["init_from"]
    assert (facts["kind"], facts["path"]) == (kind, str(folder))

    generator = load(folder, by="tensorflow")
    latents, labels = generator.inputs(64, seed=3)
    expected = np.concatenate(list(generator.batches(latents, labels)))
    given = tf.constant(latents), tf.constant(labels)
    for averaged in (False, True):
        images = training.gan.generate(*given, training=False, averaged=averaged)
        np.testing.assert_allclose(images, expected, atol=2e-5)
    # Training mode computes with the statistics of its batch, which are about those measured.
    images = training.gan.generate(*given, training=True).numpy()
    assert np.abs(images - expected).mean() < 0.25 * expected.std()

    for mask in kernel_masks(training.gan.generator):
        np.testing.assert_array_equal(mask.kernel.numpy() != 0, mask.kernel_mask.numpy() > 0)
    assert training.counts()["generator"].sparsity == pytest.approx(0.7, abs=0.02)
    for name, value in values(training).items():
        if name.startswith("discriminator/"):
            np.testing.assert_array_equal(value, before[name], err_msg=name)


@pytest.mark.ci
def test_an_artifact_does_not_fit_other_networks(exported):
    with pytest.raises(InputError, match=r"'l1', whose kernel has shape \(8, 128\) there and"):
        WarmStart(exported("plain", "sparse")).check(built("smallest_generator.width = 4"))
    folded = ("GAN.conditional = True", "GAN.generator = @biggan_generator")
    folded += ("GAN.discriminator = @biggan_discriminator", "digits.image_size = 32")
    small = ("biggan_generator.width = 2", "biggan_discriminator.width = 2")
    with pytest.raises(InputError, match=r"was folded into constants\. Start from the run"):
        WarmStart(exported("plain", "sparse")).check(built(*folded, *small))


@pytest.mark.ci
def test_the_command_starts_says_so_and_resumes(runs, exported, tmp_path):
    def train(*flags, steps=1, workdir="run"):
        bindings = [*STATIC[1:], f"Algorithm.total_steps = {steps}"]
        parameters = [f"--gin_param={binding}" for binding in bindings]
        with untraced():
            return call(
                "train",
                f"--gin_file={SMALLEST}",
                *parameters,
                *([f"--workdir={tmp_path / workdir}"] if workdir else []),
                *flags,
            )

    source = shutil.copytree(runs["plain"], tmp_path / "source")
    start = f"--init_from={source}"
    code, planned, errors = train(start, "--dry_run")
    assert code == 0, errors
    assert f"starts from {source}, step 1: weights and masks of both networks" in planned
    assert not (tmp_path / "run").exists()
    code, _, errors = train(start)
    assert code == 0, errors
    first = states(tmp_path / "run")[0]
    theirs = states(source)[1]
    np.testing.assert_array_equal(first["generator/c1/kernel"], theirs["generator/c1/kernel"])
    facts = read_manifest(tmp_path / "run")["init_from"]
    assert (facts["path"], facts["checkpoint"], facts["step"]) == (str(source), "latest", 1)

    shutil.rmtree(source)  # What has begun needs it no more.
    for flags in ([start], []):
        code, _, errors = train(*flags, steps=2)
        assert code == 0, errors
        assert "resumed" in errors
    other = f"--init_from={exported('plain', 'sparse')}"
    for flags, workdir, told in [
        ([other], "run", f"was started from {source}, latest"),
        ([start, "--init_checkpoint=best"], "run", "was started from"),
        ([start], "new", "is neither the folder of a run"),
        (["--init_checkpoint=best"], "new", "--init_from, which is missing"),
        ([f"--init_from={runs['plain']}", "--init_checkpoint=7"], "new", "--init_checkpoint=7 is"),
        ([other, "--gin_file=methods/tickets.gin"], "new", "methods of one phase"),
    ]:
        code, _, errors = train(*flags, workdir=workdir)
        assert code == 1
        assert told in errors
        assert not (tmp_path / "new").exists()
    commands.train(tmp_path / "without", *STATIC)
    code, _, errors = train(other, workdir="without")
    assert code == 1
    assert "was started without --init_from" in errors


def test_a_format_without_layers_is_refused(tmp_path, exported):
    folder = shutil.copytree(exported("plain", "sparse"), tmp_path / "copy") / "1"
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest |= {"kind": "tflite"}
    manifest["files"]["generator.tflite"] = {"bytes": 0, "sha256": ""}
    manifest["sha256"] = artifact.digest_of(manifest)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(InputError, match="of the format tflite, from which no training can start"):
        WarmStart(tmp_path / "copy").look()


def test_a_run_that_was_stopped_before_its_first_checkpoint_starts_again_from_there(tmp_path):
    workdir, start = tmp_path / "run", WarmStart(tmp_path / "other")
    assert not start.has_begun(workdir)
    workdir.mkdir()
    begun = {"path": str(tmp_path / "other"), "checkpoint": "latest"}
    (workdir / "run.json").write_text(json.dumps({"init_from": begun}))
    assert not start.has_begun(workdir)


def test_a_checkpoint_is_chosen_of_runs_only(tmp_path):
    (tmp_path / "generator.safetensors").write_bytes(b"")
    with pytest.raises(InputError, match="--init_checkpoint is for runs"):
        WarmStart(tmp_path / "generator.safetensors", "best").look()


@pytest.mark.ci
def test_without_its_flag_a_run_does_not_start_from_nothing(tmp_path):
    workdir = commands.train(tmp_path / "run", *STATIC)
    shutil.rmtree(workdir / "checkpoints")
    manifest = json.loads((workdir / "run.json").read_text())
    manifest["init_from"] = {"path": "other", "checkpoint": "latest"}
    (workdir / "run.json").write_text(json.dumps(manifest))
    parameters = [f"--gin_param={binding}" for binding in STATIC]
    code, _, errors = call("train", f"--gin_file={SMALLEST}", *parameters, f"--workdir={workdir}")
    assert code == 1
    assert "was to start from other" in errors


@pytest.mark.ci
def test_zeros_of_a_layer_without_a_mask_here_are_not_lost(tmp_path):
    with untraced():
        masked = commands.train(tmp_path / "masked", *STATIC, "GAN.mask_dense = True")
    with pytest.raises(InputError, match="under a mask there and not here"):
        WarmStart(masked).check(built())


@pytest.mark.ci
def test_an_average_that_is_made_anew_is_told(runs):
    said = WarmStart(runs["plain"]).check(built("Algorithm.average_start = 5"))
    assert any("before step 5 the average is the live generator" in text for text in said)
