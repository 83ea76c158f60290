"""What is shown of artifacts beside their images: names, cards, tables, latency."""

import copy
import functools
import itertools
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stugan_tf.demo import exhibits, tables
from stugan_tf.demo.drawing import COMPUTING
from stugan_tf.demo.exhibits import open_exhibits, read_facts
from stugan_tf.demo.latency import MIN_ROUNDS, Latency, machine, measure
from stugan_tf.errors import InputError
from stugan_tf.files import short_names
from stugan_tf.serving import artifact
from tests.helpers.exhibited import CARD, exhibit, generator

PART = st.sampled_from(["runs", "dense", "sparse", "1", "12"])


@given(paths=st.lists(st.lists(PART, min_size=1, max_size=4).map("/".join), min_size=1, max_size=4))
def test_names_tell_artifacts_apart(paths):
    names = short_names(paths)
    assert len(set(names)) == len(paths)
    assert not any(name.isdigit() for name in names)


def test_names_are_as_short_as_can_be():
    assert short_names(["a/dense", "b/sparse"]) == ["dense", "sparse"]
    assert short_names(["a/mine/", "b/mine"]) == ["a/mine", "b/mine"]
    assert short_names(["mine/1"]) == ["mine/1"]
    assert short_names(["mine", "mine"]) == ["mine (1)", "mine (2)"]


def test_facts_are_those_of_the_card():
    facts = read_facts(CARD)
    assert (facts.format, facts.step, facts.num_bytes) == ("sparse", 1500, 226_549)
    assert [layer.name for layer in facts.layers] == ["first", "last"]
    assert facts.layers[0].density == 0.25


TOLD = {
    "run": "mine",
    "digest": "d1",
    "training": {"data": {"source": "digits"}},
    "scores": [{"step": 1500, "fid": 5.703336, "kid": 0.2, "protocol": {"id": "p"}}],
}


def facts_of(**changes):
    return read_facts({**CARD, **TOLD, **changes})


def test_a_card_may_tell_run_data_and_score():
    facts = facts_of()
    assert (facts.run, facts.data, facts.score) == ("mine", "digits", "FID 5.703")
    about = exhibits.models_of([exhibits.Exhibit("mine", generator(), facts)])[0].about
    assert about == "digits · FID 5.703 · step 1,500 · 75.0% zeros under masks · sparse float32"
    former = read_facts(CARD)
    assert (former.run, former.data, former.score, former.digest) == ("", "", "", "")


def test_scores_of_other_weights_are_not_told():
    checkpoint = {"step": 1500, "weights": "averaged"}
    for weights, told in (("averaged", "FID 5.703"), ("live", "")):
        protocol = {"id": "p", "generated": {"weights": weights}}
        scores = [{**TOLD["scores"][0], "protocol": protocol}]
        assert facts_of(checkpoint=checkpoint, scores=scores).score == told


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ([{}], ["mine"]),
        ([{}, {"run": "other"}], ["mine", "other"]),
        ([{}, {"format": "tflite"}], ["mine, sparse", "mine, tflite"]),
        ([{}, {"checkpoint": {"step": 9}}], ["mine, step 1,500", "mine, step 9"]),
        ([{}, {"precision": "float16"}], ["mine, sparse float32", "mine, sparse float16"]),
        ([{}, {}], ["mine (a)", "mine (b)"]),
        ([{"run": ""}, {"run": None}], ["a", "b"]),
        ([{"run": "b, sparse"}, {"run": "b"}, {"run": "b", "format": "onnx"}], ["a", "b", "c"]),
    ],
)
def test_artifacts_are_named_after_their_runs(changes, expected):
    ends = "abc"[: len(changes)]
    assert exhibits.names_of([facts_of(**one) for one in changes], ends) == expected


def test_formats_of_one_generator_are_one_model():
    kinds = [{}, {"format": "tflite"}, {"digest": "d2"}, {"digest": ""}, {"digest": None}]
    shown = [
        exhibits.Exhibit(name, generator(), facts_of(**kind))
        for name, kind in zip("abcde", kinds, strict=True)
    ]
    models = exhibits.models_of(shown)
    assert [model.exhibits for model in models] == [
        tuple(shown[:2]),
        *((one,) for one in shown[2:]),
    ]
    assert [model.name for model in models] == ["a", "c", "d", "e"]
    assert exhibits.models_of(shown[:2])[0].name == "mine"
    assert models[0].about.endswith("sparse float32, tflite float32")


def _places(value, place=()):
    """Where there is something in a card."""
    yield place
    for key, inner in value.items() if isinstance(value, dict) else ():
        yield from _places(inner, (*place, key))
    for key, inner in enumerate(value if isinstance(value, list) else ()):
        yield from _places(inner, (*place, key))


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@given(place=st.sampled_from(list(_places({**CARD, **TOLD}))[1:]), value=ANYTHING)
def test_a_damaged_card_is_read_or_refused(place, value):
    card = copy.deepcopy({**CARD, **TOLD})
    inner = card
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    try:
        facts = read_facts(json.loads(json.dumps(card)))
    except ValueError:
        return
    shown = [exhibits.Exhibit("mine", generator(), facts)]
    tables.cost_rows(shown)
    assert all(0 <= row["density"] <= 1 for row in tables.density_rows({"mine": facts}))
    assert exhibits.models_of(shown)[0].about


# What has no kernel is left out, whatever else is known of it.
NEEDED = [place for place in list(_places(CARD))[1:] if place[-1:] and place[2:3] != (1,)]


@pytest.mark.parametrize("place", [place for place in NEEDED if isinstance(place[-1], str)])
def test_a_card_that_lacks_anything_is_refused(place):
    card = copy.deepcopy(CARD)
    inner = card
    for key in place[:-1]:
        inner = inner[key]
    del inner[place[-1]]
    with pytest.raises(ValueError, match=place[-1]):
        read_facts(card)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """What looks like an artifact, of a generator that needs no file."""
    one = generator()
    one.about = {name: value for name, value in CARD.items() if name != "bytes"}
    monkeypatch.setattr(exhibits, "load", lambda path, by: one)
    (tmp_path / "mine" / "1").mkdir(parents=True)
    (tmp_path / "mine" / "1" / artifact.MANIFEST).write_text("{}")
    (tmp_path / "mine" / "1" / artifact.CARD).write_text(json.dumps(CARD))
    yield tmp_path / "mine"
    open_exhibits.cache_clear()


def test_exhibits_are_opened_once(folder):
    (one,) = open_exhibits((folder,))
    assert (one.name, one.facts) == ("mine", read_facts(CARD))
    assert open_exhibits((folder,)) == (one,)


def test_a_single_file_has_its_card_inside(folder):
    path = folder / "generator.safetensors"
    path.write_bytes(b"1234")
    (one,) = open_exhibits((path,))
    assert one.facts == read_facts({**CARD, "bytes": 4})


@pytest.mark.parametrize("text", [None, "", "[]", "{}", '{"generator": 1}', "[" * 10**5])
def test_without_a_card_there_is_nothing_to_show(folder, text):
    card = folder / "1" / artifact.CARD
    card.unlink() if text is None else card.write_text(text)
    with pytest.raises(InputError, match=r"model_card\.json is (missing or )?damaged"):
        open_exhibits((folder,))


def test_costs_say_what_is_theory_and_what_was_measured():
    shown = [exhibit("dense"), exhibit("sparse")]
    latencies = {16: [Latency(0.5, (0.25, 0.75), 9), Latency(0.002, (0.001, 0.0031), 9)]}
    rows = {row.pop("what"): row for row in tables.cost_rows(shown, latencies)}
    assert rows["FLOPs an image, theoretical"] == {"dense": "2.63 M", "sparse": "2.63 M"}
    assert rows["... as a share of dense, theoretical"]["sparse"] == "25.0%"
    assert rows["Bytes of the generator's files"]["dense"] == "226,549"
    assert rows["Batch of 16, measured"] == {
        "dense": "500 ms (250 to 750)",
        "sparse": "2 ms (1 to 3.1)",
    }
    assert not any("measured" in row["what"] for row in tables.cost_rows(shown))


@given(number=st.integers(0, 10**15 - 1))
def test_units_keep_three_digits(number):
    digits, _, unit = tables.in_units(number).partition(" ")
    factor = {"": 1, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}[unit]
    assert float(digits.replace(",", "")) * factor == pytest.approx(number, rel=5.1e-3)
    assert len(digits) <= 5


def test_layers_are_listed_as_computed():
    first, last = tables.layer_rows(read_facts(CARD))
    assert (first["Kernel"], first["Density"], first["Under a mask"]) == ("3x3x4x8", 0.25, True)
    assert (last["Layer"], last["FLOPs, theoretical"]) == ("last", 16)
    facts = read_facts(CARD)
    rows = [tuple(row.values()) for row in tables.density_rows({"dense": facts, "sparse": facts})]
    assert rows[0] == ("first", "dense", 0.25)
    assert len(rows) == 4


def _timed(num_generators, **settings):
    """`measure` by a clock that each call of a generator advances by its own amount."""
    now, calls = [0.0], []

    def around(number, compute):
        def timed(latents, labels):
            assert COMPUTING.locked()
            now[0] += (number + 1) * (1 + len(calls) % 3)
            calls.append((number, len(latents)))
            return compute(latents, labels)

        return timed

    generators = [
        generator(around=functools.partial(around, number)) for number in range(num_generators)
    ]
    return measure(generators, clock=lambda: now[0], **settings), calls


def test_generators_are_measured_in_turn_after_two_calls_each():
    found, calls = _timed(2, batch_size=3, num_rounds=8, seconds=1e9)
    assert calls == [(number, 3) for _, number in itertools.product(range(10), range(2))]
    for number, latency in enumerate(found):
        times = [
            (number + 1) * (1 + index % 3)
            for index, (called, _) in enumerate(calls)
            if called == number
        ][2:]
        low, median, high = np.percentile(times, [25, 50, 75])
        assert latency == Latency(median, (low, high), 8)


def test_measuring_ends_in_time():
    found, _ = _timed(1, batch_size=1, num_rounds=100, seconds=0)
    assert found[0].num_calls == MIN_ROUNDS


def test_the_machine_is_told():
    assert "core(s) of" in machine()
    assert "TensorFlow" in machine()
