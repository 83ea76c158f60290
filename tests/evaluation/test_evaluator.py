import gc
import math
import resource
import types
import weakref

import numpy as np
import pytest
import tensorflow as tf

from stugan_tf.data import Source, digits
from stugan_tf.errors import InputError
from stugan_tf.evaluation import metrics as formulas
from stugan_tf.evaluation.evaluator import BLOCK, Evaluator
from stugan_tf.evaluation.extractors import digits_classifier
from stugan_tf.evaluation.sampling import Sampler
from stugan_tf.evaluation.table import METRICS
from stugan_tf.randomness import Purpose, fold
from tests.helpers.params import first_by_default
from tests.helpers.stand_ins import Projection, SmallGAN

NUM_IMAGES = 250


def one_device():
    return tf.distribute.OneDeviceStrategy("CPU:0")


@pytest.fixture
def make(tmp_path):
    """Makes evaluators of a projection of digits."""

    def make(strategy=None, **settings):
        settings = {
            "extractor": Projection,
            "num_images": NUM_IMAGES,
            "num_kept": 100,
            "num_splits": 4,
            "batch_size": 50,
            "cache_dir": tmp_path,
            **settings,
        }
        return Evaluator(digits(), strategy or one_device(), **settings)

    return make


def numbers(scores):
    return {name: value for name, value in scores.items() if isinstance(value, float)}


@pytest.mark.budget(8, "The first test that needs TF-GAN imports it.")
def test_scores_are_the_formulas_applied_to_features_and_logits(make):
    gan = SmallGAN()
    scores = make(num_kept=2000)(gan)
    seed = fold((0, 0), Purpose.EVALUATION, 0)
    images = np.concatenate(list(Sampler(gan, one_device(), BLOCK).batches(NUM_IMAGES, seed)))
    features, logits = (part.numpy() for part in Projection()(images))
    real, _ = Projection()(next(iter(digits().in_order(1797)))[0])
    real = real.numpy()
    fid = formulas.frechet_distance(
        real.mean(0), np.cov(real, rowvar=False), features.mean(0), np.cov(features, rowvar=False)
    )
    assert scores["fid"] == pytest.approx(fid, rel=1e-4)
    inception_score = formulas.InceptionScore(NUM_IMAGES, 4)
    inception_score.update(logits)
    mean, deviation = inception_score.result()
    assert scores["inception_score"] == pytest.approx(mean)
    assert scores["inception_score_std"] == pytest.approx(deviation)
    neighborhoods = formulas.neighborhood_scores(real, features)
    for name, value in neighborhoods.items():
        assert scores[name] == pytest.approx(value)
    # Kept features are in another order, so other blocks: the same to within its error.
    assert scores["kid"] == pytest.approx(
        formulas.kernel_distance(real, features)[0], abs=4 * scores["kid_std"]
    )


@pytest.mark.ci
def test_the_same_generator_scores_the_same_twice_and_stays_as_it_is(make):
    gan, evaluator = SmallGAN(), make(batch_norm="batch")
    before = gan.averaged.model.get_weights()
    first = evaluator(gan)
    assert evaluator(gan) == first == make(batch_norm="batch")(gan)
    for former, now in zip(before, gan.averaged.model.get_weights(), strict=True):
        np.testing.assert_array_equal(former, now)


@pytest.mark.ci
@pytest.mark.parametrize("batch_norm", ["inference", "batch"])
def test_replicas_score_as_one_device_does(make, mirrored, batch_norm):
    with mirrored.scope():
        gan = SmallGAN()
    several = make(mirrored, batch_norm=batch_norm)(gan)
    once = make(batch_norm=batch_norm)(SmallGAN())
    assert numbers(several) == pytest.approx(numbers(once), rel=1e-4, abs=1e-6)
    assert several["protocol"] == once["protocol"]


@pytest.mark.ci
def test_the_batch_size_changes_no_score(make):
    gan, metrics = SmallGAN(), ["fid", "inception_score"]
    found = [make(batch_size=size, metrics=metrics)(gan) for size in (100, 64, 30)]
    for scores in found[1:]:
        assert numbers(scores) == pytest.approx(numbers(found[0]), rel=1e-4, abs=1e-6)
        assert scores["protocol"] == found[0]["protocol"]


@pytest.mark.ci
def test_an_exported_generator_scores_as_its_checkpoint_does(make):
    gan, evaluator = SmallGAN(), make(metrics=["fid", "inception_score"], truncation=0.9)
    interface = types.SimpleNamespace(latent_dim=6, num_classes=1, image_shape=(8, 8, 1))

    def compute(latents, labels):
        assert len(latents) == len(labels) <= 50
        return gan.averaged.model(latents, training=False).numpy()

    exported = evaluator.score_exported(compute, interface)
    trained = evaluator(gan)
    assert numbers(exported) == pytest.approx(numbers(trained), rel=1e-4, abs=1e-6)
    assert exported["protocol"]["generated"]["weights"] == "as exported"
    assert exported["protocol"]["id"] != trained["protocol"]["id"]
    other = make(batch_norm="batch", weights="live", metrics=["fid", "inception_score"])
    other.truncation = 0.9
    assert other.score_exported(compute, interface) == exported
    for wrong in (2.0, float("nan")):
        with pytest.raises(InputError, match=r"need them in \[-1, 1\]"):
            evaluator.score_exported(lambda z, y, w=wrong: np.full([len(z), 8, 8, 1], w), interface)
    interface.image_shape = (16, 16, 1)
    with pytest.raises(InputError, match=r"makes images \(16, 16, 1\), but the run's are"):
        evaluator.score_exported(compute, interface)


@pytest.mark.ci
def test_repeats_have_a_mean_and_a_deviation(make):
    gan = SmallGAN()
    found = [make(metrics=["fid"], repeats=count)(gan) for count in (1, 2, 3)]
    # What each repeat adds to the sum of all.
    singles = np.diff([0.0, *(count * result["fid"] for count, result in enumerate(found, 1))])
    assert len(set(singles.round(6))) == 3
    assert "fid_repeat_std" not in found[0]
    for count in (2, 3):
        deviation = found[count - 1]["fid_repeat_std"]
        assert deviation == pytest.approx(np.std(singles[:count], ddof=1), rel=1e-4)


@pytest.mark.ci
def test_the_protocol_tells_every_setting_apart(make):
    fewer = digits()
    fewer.num_images = 1000
    changes = [
        {},
        {"num_images": 300},
        {"weights": "live"},
        {"batch_norm": "batch"},
        {"batch_norm": "batch", "batch_size": 25},
        {"truncation": 0.5},
        {"seed": 1},
        {"repeats": 2},
        {"num_splits": 2},
        {"num_kept": 99},
        {"real": fewer},
    ]
    ids = [make(**change).protocol["id"] for change in changes]
    assert len(set(ids)) == len(ids)
    assert make(batch_size=25).protocol == make().protocol  # It changes no image.


@pytest.mark.parametrize(
    "metrics", first_by_default(["fid"], ["inception_score"], ["kid", "recall"], METRICS)
)
def test_only_the_metrics_asked_for_are_computed(make, metrics):
    scores = numbers(make(metrics=metrics)(SmallGAN()))
    assert {name for name in scores if not name.endswith("_std")} == set(metrics)
    assert all(map(math.isfinite, scores.values()))


@pytest.mark.ci
def test_published_moments_take_the_place_of_real_images(make, tmp_path):
    real, _ = Projection()(next(iter(digits().in_order(1797)))[0])
    covariance = np.cov(real.numpy(), rowvar=False)
    np.savez(tmp_path / "stats.npz", mu=real.numpy().mean(0), sigma=covariance)
    published = make(metrics=["fid"], statistics=str(tmp_path / "stats.npz"))(SmallGAN())
    own = make(metrics=["fid"])(SmallGAN())
    assert published["fid"] == pytest.approx(own["fid"], rel=1e-4)
    assert published["protocol"]["real"]["file"] == "stats.npz"


class Coloured(Source):
    """Real images of another kind than those generated."""

    name, image_shape, num_classes, num_images = "coloured", (8, 8, 3), 1, 100


class NoLogits(Projection):
    def __init__(self):
        super().__init__()
        self.num_logits = None


class TooManyFeatures(Projection):
    num_features = 400


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"num_images": 5, "metrics": ["fid"]}, "Evaluator.num_images: 5 images are too few"),
        (
            {"extractor": TooManyFeatures, "metrics": ["fid"]},
            "Evaluator.num_images: 250 images are too few.* over 400",
        ),
        ({"extractor": NoLogits}, "projection gives no logits, which inception_score needs"),
        ({"metrics": ["fids"]}, "Evaluator.metrics: 'fids' is not one of fid, .*import the module"),
        ({"metrics": []}, "Evaluator.metrics is empty"),
        ({"metrics": "fid"}, r"must be a list of names, got 'fid'. Write .* \['fid'\]"),
        ({"metrics": [["fid"]]}, r"Evaluator.metrics: \['fid'\] is not one of"),
        ({"real": digits}, "Evaluator.real must be of type Source, got the function digits"),
        ({"real": Coloured()}, "Projection takes grey images"),
        ({"extractor": digits}, "makes an extractor, .* but got a Digits"),
        ({"num_kept": 5}, "Evaluator.num_kept: 5 images are too few for coverage, .* at least 6"),
        ({"num_images": 3, "metrics": ["kid"], "num_kept": 2000}, "1797 and 3 vectors cannot"),
        ({"weights": "ema"}, "Evaluator.weights: 'ema' is not one of averaged, live"),
        ({"batch_norm": "train"}, "not one of inference, batch, standing"),
        ({"truncation": 0.0}, "Evaluator.truncation must be a number above 0"),
        ({"statistics": "/nowhere.npz"}, "nowhere.npz cannot be read"),
        ({"statistics": __file__}, "it is not an .npz file"),
        ({"num_splits": 300}, "at least as many images"),
        ({"repeats": 0}, "Evaluator.repeats must be a positive integer"),
    ],
)
def test_bad_settings_are_refused_before_sampling(make, settings, told):
    with pytest.raises(InputError, match=told):
        make(**settings)


def test_an_extractor_in_place_of_what_makes_it_is_refused(make):
    with pytest.raises(InputError, match="without parentheses"):
        make(extractor=digits_classifier())


def test_published_moments_of_another_extractor_are_refused(make, tmp_path):
    np.savez(tmp_path / "stats.npz", mu=np.zeros(3), sigma=np.eye(3))
    path = str(tmp_path / "stats.npz")
    with pytest.raises(InputError, match="has 3 features, but projection gives 5"):
        make(metrics=["fid"], statistics=path)
    np.savez(tmp_path / "stats.npz", mu=np.zeros(5), sigma=np.eye(5))
    with pytest.raises(InputError, match=r"from which coverage, density, kid.* cannot be"):
        make(statistics=path)


class Counting(SmallGAN):
    """Counts how often it is traced."""

    num_traces = 0

    def generate(self, *args, **kwargs):
        self.num_traces += 1
        return super().generate(*args, **kwargs)


@pytest.mark.ci
@pytest.mark.parametrize("batch_norm", ["inference", "standing"])
def test_a_gan_is_traced_once_and_goes_when_nobody_else_holds_it(make, batch_norm):
    gan, evaluator = Counting(), make(metrics=["inception_score"], batch_norm=batch_norm)
    evaluator(gan)
    num_traces = gan.num_traces
    evaluator(gan)
    assert gan.num_traces == num_traces > 0
    evaluator.truncation = 0.5
    evaluator(gan)
    assert gan.num_traces > num_traces
    parts = [weakref.ref(part) for part in (gan, gan.generator, gan.averaged.model)]
    del gan
    gc.collect()
    assert [part() for part in parts] == [None, None, None]
    assert evaluator(SmallGAN())["inception_score"] > 0


@pytest.mark.slow
def test_a_hundred_evaluations_need_no_more_memory_than_a_few(make):
    gan, evaluator = SmallGAN(), make()
    for _ in range(10):
        evaluator(gan)
    before = resident_mib()
    for _ in range(90):
        evaluator(gan)
    assert resident_mib() - before < 20


def resident_mib():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize() / 2**20


@pytest.mark.ci
def test_the_neighbours_of_real_images_are_themselves(make):
    source = digits()
    images = np.concatenate([i for i, _ in source.in_order(100).take(1).as_numpy_iterator()])[:9]

    class Rememberer(SmallGAN):
        def generate(self, latents, labels, training, averaged):
            pixels = tf.constant(images[:3], tf.float32) / 127.5 - 1
            return pixels + 0.001  # Or truncation would darken them.

    found = make(batch_size=3).neighbors(Rememberer(), 3, num_neighbors=4)
    np.testing.assert_array_equal(found.neighbors[:, 0], images[:3])
    assert np.all(np.diff(found.distances, axis=1) >= 0)
    features, _ = Projection()(images[:3])
    every, _ = Projection()(next(iter(source.in_order(1797)))[0])
    distances = np.linalg.norm(features[:, None] - every[None], axis=-1)
    np.testing.assert_allclose(found.distances, np.sort(distances)[:, :4], atol=1e-5)
    assert found.grid().shape[2] == 1


def test_an_evaluator_describes_itself(make):
    text = str(make())
    assert text.endswith(
        "coverage by projection: 250 images of the averaged generator against digits"
    )
    evaluator = make()
    evaluator.prepare()
    assert str(evaluator) == text


def test_an_evaluator_says_which_metrics_it_leaves_out(make):
    text = str(make(metrics=["fid", "recall", "density"]))
    assert text.startswith("fid, recall, density by projection: ")
    assert text.endswith("Evaluator.metrics leaves out kid, inception_score, precision, coverage")


def test_neighbours_of_another_shape_cannot_be_shown(make):
    evaluator = make(extractor=digits_classifier, real=digits(image_size=16))
    with pytest.raises(InputError, match=r"\(8, 8, 1\) cannot be shown .* \(16, 16, 1\)"):
        evaluator.neighbors(SmallGAN(), 3)
