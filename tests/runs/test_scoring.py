"""Scores during a training: they cost it nothing but time, and a kill costs them nothing."""

import functools
import json

import keras
import numpy as np
import pytest
import tensorflow as tf

from stugan_tf.choices import BATCH_NORMS
from stugan_tf.data import digits
from stugan_tf.errors import InputError, NotInstalledError
from stugan_tf.evaluation.evaluator import Evaluator
from stugan_tf.evaluation.extractors import digits_classifier
from stugan_tf.runs.loop import Training
from stugan_tf.runs.manifest import read_manifest
from stugan_tf.runs.scoring import ScoringSettings, Unscored, if_installed
from stugan_tf.sparsity.exploration import Exploration
from stugan_tf.training.algorithm import Algorithm
from stugan_tf.training.gan import GAN
from tests.helpers.smallest_networks import smallest_discriminator, smallest_generator

# One for all evaluators: it has no state.
classifier = functools.cache(digits_classifier)


class Everyway:
    """Scores by all ways to draw images, one after the other; may be killed at a call."""

    metrics = {"fid": min}  # noqa: RUF012

    def __init__(self, source, strategy, cache_dir, killed_at=None):
        self._evaluators = {
            f"{weights}_{batch_norm}": Evaluator(
                source,
                strategy,
                classifier,
                metrics=["fid"],
                num_images=70,
                batch_size=35,
                weights=weights,
                batch_norm=batch_norm,
                cache_dir=cache_dir,
            )
            for weights in ("averaged", "live")
            for batch_norm in BATCH_NORMS
        }
        self._calls, self._killed_at = 0, killed_at

    def prepare(self):
        for evaluator in self._evaluators.values():
            evaluator.prepare()

    @property
    def protocol(self):
        return {name: evaluator.protocol["id"] for name, evaluator in self._evaluators.items()}

    def __call__(self, gan):
        self._calls += 1
        if self._calls == self._killed_at:
            raise KeyboardInterrupt
        values = {name: evaluator(gan)["fid"] for name, evaluator in self._evaluators.items()}
        return {"fid": values["averaged_inference"], **values, "protocol": self.protocol}


def noisy_generator(image_shape):
    """One whose batch norm moves, with numbers drawn on the way."""
    model = smallest_generator(image_shape, width=4, latent_dim=4)
    images = keras.layers.Dropout(0.1, seed=3)(model.outputs[0])
    return keras.Model(model.inputs, keras.layers.Activation("hard_tanh")(images))


def train(workdir, execution, evaluator=None, total_steps=6):
    gan = functools.partial(
        GAN,
        generator=noisy_generator,
        discriminator=functools.partial(smallest_discriminator, width=4),
        generator_sparsity=0.5,
        discriminator_sparsity=0.3,
    )
    algorithm = functools.partial(
        Algorithm,
        total_steps=total_steps,
        batch_size=4,
        generator_batch_size=4,
        generator_exploration=Exploration(update_interval=2) if total_steps > 2 else None,
    )
    training = Training(
        digits(),
        tf.distribute.OneDeviceStrategy("CPU:0"),
        gan,
        algorithm,
        execution=execution,
        checkpoint_every=3,
        evaluator=evaluator,
        evaluate_every=evaluator and 2,
    )
    training.run(workdir, "")
    return {name: variable.numpy() for name, variable in training.state().items()}


@pytest.mark.parametrize(
    ("execution", "needed"),
    [
        # More than a minute of scores: it runs with each change, but not every day.
        pytest.param("dense", "untraced", marks=pytest.mark.ci),
        pytest.param("dense", "tmp_path", marks=pytest.mark.slow),
        pytest.param("sparse", "operations", marks=pytest.mark.slow),
    ],
)
def test_scores_change_nothing_and_survive_a_kill(execution, needed, tmp_path, request):
    request.getfixturevalue(needed)
    everyway = functools.partial(Everyway, cache_dir=tmp_path / "cache")
    without = train(tmp_path / "without", execution)
    scored = train(tmp_path / "scored", execution, everyway)
    for name, value in without.items():
        np.testing.assert_array_equal(value, scored[name], err_msg=name)

    # By then step 4 is scored, which the checkpoint of step 3 knows nothing of.
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "killed", execution, functools.partial(everyway, killed_at=3))
    resumed = train(tmp_path / "killed", execution, everyway)
    for name, value in without.items():
        np.testing.assert_array_equal(value, resumed[name], err_msg=name)
    starts = read_manifest(tmp_path / "killed")
    assert starts["resumes"][0]["scores"] == starts["scores"]
    records = (tmp_path / "scored" / "evaluations.jsonl").read_text()
    assert (tmp_path / "killed" / "evaluations.jsonl").read_text() == records
    assert [json.loads(line)["step"] for line in records.splitlines()] == [2, 4, 6]


class Constant:
    """Scores everything with 1."""

    metrics = {"fid": min}  # noqa: RUF012
    protocol = {"extractor": {"name": "constant"}, "id": "1"}  # noqa: RUF012

    def __init__(self, source, strategy):
        del source, strategy

    def prepare(self):
        pass

    def __call__(self, gan):
        del gan
        return {"fid": 1.0, "protocol": self.protocol}


@pytest.mark.usefixtures("untraced")
def test_run_json_says_by_which_protocol_a_run_is_scored(tmp_path):
    train(tmp_path, "dense", Constant, total_steps=2)
    assert read_manifest(tmp_path)["scores"] == {"protocol": Constant.protocol}


def lacking(source, strategy):
    raise NotInstalledError("It needs a package.")


def wrong(source, strategy):
    raise InputError("It is wrong.")


def test_only_a_package_that_is_not_installed_may_be_lacking():
    assert if_installed(1, 2, lambda *given: given) == (1, 2)
    assert if_installed(1, 2, lacking) == Unscored("It needs a package.")
    with pytest.raises(InputError, match="It is wrong"):
        if_installed(1, 2, wrong)
    settings = functools.partial(ScoringSettings, every=1, best_by=None, patience=None)
    optional = functools.partial(if_installed, evaluator=lacking)
    assert str(settings(optional).scoring(1, 2)) == "no scores: It needs a package."
    with pytest.raises(NotInstalledError):
        settings(lacking).scoring(1, 2)
