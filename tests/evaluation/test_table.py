"""The table of metrics, and a metric of one's own in it."""

import csv
import sys

import numpy as np
import pytest

from stugan_tf import config
from stugan_tf.data import digits
from stugan_tf.errors import InputError, NotInstalledError
from stugan_tf.evaluation import curves, records
from stugan_tf.evaluation.evaluator import Evaluator
from stugan_tf.evaluation.table import METRICS, Metric, Sizes, register
from stugan_tf.experiments import collecting
from stugan_tf.pipelines import settings
from tests.helpers.packages import uninstall
from tests.helpers.stand_ins import Projection, SmallGAN


def shift(images):
    return np.linalg.norm(images.real.mean - images.generated.mean)


@pytest.fixture
def own():
    """Registers a metric for the time of a test."""
    names = []

    def own(name="shift", best=min, **fields):
        register(Metric(name, best, **{"needs": {"moments"}, "compute": shift, **fields}))
        names.append(name)

    yield own
    for name in names:
        del METRICS[name]


@pytest.fixture
def evaluator(tmp_path):
    def evaluator(*metrics, **fields):
        fields = {"num_images": 100, "num_kept": 50, "cache_dir": tmp_path, **fields}
        return Evaluator(digits(), one_device(), Projection, metrics, **fields)

    return evaluator


def one_device():
    import tensorflow as tf

    return tf.distribute.OneDeviceStrategy("CPU:0")


def test_the_better_of_two_scores():
    better = {name: metric.best(1.0, 2.0) for name, metric in METRICS.items()}
    assert better == {
        "fid": 1,
        "kid": 1,
        "inception_score": 2,
        "precision": 2,
        "recall": 2,
        "density": 2,
        "coverage": 2,
    }
    for metric in METRICS.values():
        assert min([1.0, 2.0, 3.0], key=metric.cost) == metric.best(1.0, 2.0, 3.0)


def test_a_metric_of_ones_own_is_computed_and_is_everywhere(own, evaluator, tmp_path):
    own(best=max, against="coverage")
    made = evaluator("fid", "shift", repeats=2)
    assert made.metrics == {"fid": min, "shift": max}
    scores = made(SmallGAN())
    assert 0 < scores["shift"] < scores["fid"] ** 0.5 + 1e-6  # FID has its square, and more.
    assert scores["shift_repeat_std"] >= 0
    # Pipelines, pictures, tables of experiments and of runs.
    settings.Bless(at_most={"shift": 1.0}, compare=("shift",))
    ((x, y),) = curves.check_curve(["shift", "coverage"])
    assert (x.name, y.name) == ("coverage", "shift")
    header = next(csv.reader([collecting.evaluations_as_csv([]).strip()]))
    assert header[-1] == "shift"
    for step, value in ((10, 3.0), (20, 2.0)):
        records.append(tmp_path, {"step": step, "shift": value, "protocol": {"id": "a"}})
    best = records.compare([tmp_path]).splitlines()[2]
    assert best.split()[1:] == ["best", "10", "3"]


MODULE = """
import numpy as np
from stugan_tf.evaluation.table import Metric, register

def mean_shift(images):
    return np.linalg.norm(images.real.mean - images.generated.mean)

register(Metric("mean_shift", best=min, needs={"moments"}, compute=mean_shift))
"""
GIN = """
import metrics_of_mine
Evaluator.metrics = ('fid', 'mean_shift')
"""


def test_a_gin_file_registers_a_metric_by_an_import(tmp_path, monkeypatch):
    (tmp_path / "metrics_of_mine.py").write_text(MODULE)
    (tmp_path / "mine.gin").write_text(GIN)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(sys.modules, "metrics_of_mine", None)  # To be forgotten afterwards.
    del sys.modules["metrics_of_mine"]
    try:
        config.parse_gin([str(tmp_path / "mine.gin")], [])
        made = Evaluator(digits(), one_device(), Projection, num_images=100, cache_dir=tmp_path)
        assert made.metrics == {"fid": min, "mean_shift": min}
        assert "leaves out" in str(made)
        assert made(SmallGAN())["mean_shift"] > 0
    finally:
        METRICS.pop("mean_shift", None)
        config.parse_gin([], [])  # Which forgets the bindings.


def test_a_metric_that_is_registered_but_not_chosen_is_told(own, evaluator):
    own()
    assert str(evaluator("fid")).endswith("coverage, shift")
    assert "leaves out" in str(evaluator(*(name for name in METRICS if name != "shift")))


@pytest.mark.ci
def test_columns_are_named_and_counted(own, evaluator):
    own("pair", compute=lambda images: (1.0, None), columns=("pair", "pair_std"))
    scores = evaluator("pair")(SmallGAN())
    assert (scores["pair"], scores["pair_std"]) == (1.0, None)
    own("broken", compute=lambda images: (1.0, 2.0))
    with pytest.raises(InputError, match=r"'broken' must give 1 number\(s\), broken, got"):
        evaluator("broken")(SmallGAN())
    own("text", compute=lambda images: "one")
    with pytest.raises(InputError, match="'text' must give 1 number"):
        evaluator("text")(SmallGAN())


@pytest.mark.ci
def test_a_metric_sees_what_it_needs_and_says_what_it_depends_on(own, evaluator):
    seen = []

    def look(images):
        seen.append(images)
        return 0.0

    own("look", compute=look, needs={"features"}, settings=("num_kept",), least=7)
    made = evaluator("look")
    made(SmallGAN())
    assert seen[0].real.features.shape == seen[0].generated.features.shape == (50, 5)
    assert made.protocol["num_kept"] == 50
    with pytest.raises(InputError, match=r"6 images are too few for look, .* at least 7"):
        evaluator("look", num_kept=6)
    own("bare", compute=look, needs=())
    made = evaluator("bare")
    made(SmallGAN())
    assert seen[1].real is None
    assert seen[1].generated.num_images == 100
    assert not {"num_kept", "num_splits", "real"} & made.protocol.keys()


def test_a_stream_gets_all_logits(own, evaluator):
    class Count:
        def __init__(self, sizes):
            assert sizes == Sizes(100, 5, 1797, 10, 0)
            self.shapes = []

        def update(self, logits):
            self.shapes.append(logits.shape)

        def result(self):
            assert {columns for _, columns in self.shapes} == {3}
            return sum(rows for rows, _ in self.shapes)

    own("count", max, needs={"logits"}, compute=None, stream=Count)
    assert evaluator("count", batch_size=30)(SmallGAN())["count"] == 100


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"name": "no word"}, "Metric.name must be a word"),
        ({"best": "min"}, "best must be min or max, got 'min'"),
        ({"needs": {"pixels"}}, "needs must be a set with some of moments, features, logits"),
        ({"needs": "moments"}, "needs must be a set"),
        ({"needs": {"logits"}}, "must have `stream` if it needs logits"),
        ({"compute": None}, "`compute` if it does not"),
        ({"compute": lambda real, generated: 0.0}, "compute must be a function of one argument"),
        ({"check": lambda: None}, "check must be a function of one argument, the `Sizes`"),
        ({"columns": ("shift_std",)}, "the first of its columns must be 'shift'"),
        ({"settings": ("num_parts",)}, "settings must be some of num_images"),
        ({"least": -1}, "least must be an integer of at least 0"),
        ({"name": "fid"}, "There is already a metric 'fid'"),
    ],
)
def test_an_entry_that_cannot_work_is_refused(own, fields, told):
    with pytest.raises(InputError, match=told):
        own(**fields)


def test_only_metrics_are_registered():
    with pytest.raises(InputError, match="register takes a Metric, got"):
        register(shift)


def test_what_tfgan_computes_needs_it_before_anything_is_sampled(monkeypatch):
    sizes = Sizes(100, 8, 100, 10, 100)
    for metric in METRICS.values():
        metric.check(sizes)
    uninstall(monkeypatch, "tensorflow_gan")
    for name, metric in METRICS.items():
        if name not in ("kid", "inception_score"):
            metric.check(sizes)
            continue
        told = rf"{name} is computed by TF-GAN.*pip install 'stugan_tf\[evaluation\]'"
        with pytest.raises(NotInstalledError, match=told):
            metric.check(sizes)
