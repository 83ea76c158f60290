"""What made the runs of a table, from manifests that were written by hand."""

import pytest

from stugan_tf.errors import InputError
from stugan_tf.experiments.provenance import check_same_data, differences, made_of

CPU = ["/physical_device:CPU:0"]


def manifest(commit="a", tensorflow="2.20", data="d", threads=2, devices=CPU, resumes=()):
    return {
        "commit": commit,
        "versions": {"tensorflow": tensorflow, "keras": "3.0", "stugan_tf": "1.0"},
        "data": {"fingerprint": data},
        "threads": threads,
        "devices": devices,
        "resumes": list(resumes),
    }


def test_runs_that_are_made_alike_need_no_line():
    made = {name: made_of([manifest(resumes=[manifest()])]) for name in "abc"}
    assert made["a"]["commit"] == ("a",)
    assert differences(made) == []
    check_same_data(made)


def test_each_fact_in_which_runs_differ_is_a_line_with_their_names():
    made = {
        "one": made_of([manifest()]),
        "two": made_of([manifest(commit="b-dirty", tensorflow="2.21", threads=4)]),
        "three": made_of([manifest(commit="b-dirty")]),
    }
    assert differences(made) == [
        "commit: a (one); b-dirty (two, three)",
        "TensorFlow: 2.20 (one, three); 2.21 (two)",
        "CPU threads: 2 (one, three); 4 (two)",
    ]


def test_a_run_that_changed_on_its_way_is_told_even_alone():
    resumed = made_of([manifest(resumes=[manifest(commit="b")])])
    assert differences({"one": resumed}) == ["commit: a, then b (one)"]
    phases = made_of([manifest(), manifest(tensorflow="2.21")])
    assert differences({"one": phases}) == ["TensorFlow: 2.20, then 2.21 (one)"]


def test_what_a_run_does_not_say_is_no_difference():
    made = {"old": made_of([{"data": {}, "versions": {}}]), "new": made_of([manifest()])}
    assert made["old"] == {}
    assert differences(made) == []
    check_same_data(made)


def test_threads_do_not_matter_on_a_gpu():
    made = [made_of([manifest(threads=n, devices=[*CPU, "H100"])]) for n in (2, 4)]
    assert differences(dict(zip("ab", made, strict=True))) == []


def test_many_names_are_cut():
    made = {str(n): made_of([manifest(commit="b" if n else "a")]) for n in range(6)}
    assert differences(made) == ["commit: a (0); b (1, 2, 3 and 2 more)"]


def test_runs_on_different_data_are_refused_with_their_names():
    made = {name: made_of([manifest(data=name[0])]) for name in ("d1", "d2", "e1")}
    with pytest.raises(InputError, match=r"different data(.|\n)*d: d1, d2\n  e: e1\nRemove"):
        check_same_data(made)
