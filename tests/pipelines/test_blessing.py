"""What is blessed, what is not, and what is said of it."""

import pathlib

import pytest

from stugan_tf.pipelines.artifacts import Exported, Scores
from stugan_tf.pipelines.components.bless import comparison, limits
from stugan_tf.pipelines.settings import Bless

HERE = pathlib.Path()
EXPORTED = Exported(
    folder=HERE,
    id="e",
    step=5,
    version="versions/1",
    format="saved_model",
    num_bytes=1000,
    sparsity=0.8,
    active_weights=200,
    flops=5e4,
)


def scored(**scores):
    return Scores(folder=HERE, id="s", scores=scores, protocol={"id": "p"}, of={})


def baseline(**scores):
    return {"version": 3, "scores": scores}


def verdict(checks):
    return all(check["passed"] for check in checks)


@pytest.mark.parametrize(
    ("settings", "passed", "words"),
    [
        ({"at_most": {"fid": 10.0}}, True, "fid is 10; at most 10 is asked"),
        ({"at_most": {"fid": 9.99}}, False, "fid is 10; at most 9.99 is asked"),
        ({"at_least": {"recall": 0.5}}, True, "recall is 0.5; at least 0.5 is asked"),
        ({"at_least": {"recall": 0.51}}, False, "recall is 0.5; at least 0.51 is asked"),
        ({"at_most": {"kid": 1.0}}, False, "kid is not known or not finite"),
        ({"min_sparsity": 0.8}, True, "sparsity under masks is 0.8"),
        ({"min_sparsity": 0.81}, False, "at least 0.81"),
        ({"max_active_weights": 199}, False, "active weights is 200; at most 199"),
        ({"max_bytes": 1000}, True, "bytes is 1,000; at most 1,000"),
        ({"max_bytes": 999}, False, "bytes is 1,000"),
        ({"max_flops": 4e4}, False, "theoretical FLOPs of an image is 50000"),
    ],
)
def test_limits(settings, passed, words):
    (check,) = limits(Bless(**settings), scored(fid=10.0, recall=0.5, kid=None), EXPORTED)
    assert check["passed"] is passed
    assert words in check["words"]


@pytest.mark.parametrize(
    ("settings", "new", "old", "passed", "words"),
    [
        ({}, {"fid": 10.0}, {"fid": 10.0}, True, "equal to 10 of version 3"),
        ({}, {"fid": 9.0}, {"fid": 10.0}, True, "better than 10"),
        ({}, {"fid": 10.1}, {"fid": 10.0}, False, "fid is 10.1, worse than 10 of version 3"),
        ({"tolerance": 0.02}, {"fid": 10.1}, {"fid": 10.0}, True, "up to 0.02 of it"),
        ({"tolerance": 0.02}, {"fid": 10.3}, {"fid": 10.0}, False, "worse than 10"),
        ({"compare": ["recall"]}, {"recall": 0.4}, {"recall": 0.5}, False, "worse than 0.5"),
        ({"compare": ["recall"]}, {"recall": 0.6}, {"recall": 0.5}, True, "better than 0.5"),
        ({}, {"fid": None}, {"fid": 10.0}, False, "not finite"),
        ({}, {"fid": 10.0}, {"fid": None}, True, "of version 3 is not finite"),
    ],
)
def test_comparison_with_what_is_served(settings, new, old, passed, words):
    (check,) = comparison(Bless(**settings), scored(**new), baseline(**old))
    assert check["passed"] is passed
    assert words in check["words"]


def test_what_cannot_be_compared_is_not_blessed():
    record = {"version": 3, "scores": "its checkpoint is gone"}
    checks = comparison(Bless(), scored(fid=1.0), record)
    assert not verdict(checks)
    assert "its checkpoint is gone" in checks[0]["words"]


def test_the_first_model_has_only_limits_to_meet():
    assert verdict(comparison(Bless(), scored(fid=1e6), None))
    assert comparison(Bless(compare=()), scored(fid=1e6), baseline(fid=1.0)) == []
