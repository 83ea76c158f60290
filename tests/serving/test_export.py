"""The command `export`, and `sample --artifact`, on runs of one step."""

import json
import os
import platform
import shutil
import sys

import numpy as np
import pytest
from PIL import Image

from stugan_tf.errors import InputError
from stugan_tf.evaluation import records
from stugan_tf.serving import artifact
from stugan_tf.serving.card import without_places
from stugan_tf.serving.card import write as write_card
from stugan_tf.serving.formats import FORMATS
from stugan_tf.serving.loading import load
from tests.helpers.commands import call
from tests.helpers.params import first_by_default
from tests.helpers.served_networks import CONDITIONAL, train
from tests.helpers.tracing import untraced


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Workdirs by name, each with a checkpoint of step 0 and one of step 1."""
    folder = tmp_path_factory.mktemp("runs")
    with untraced():
        plain = train(folder / "plain")
        conditional = train(folder / "conditional", *CONDITIONAL)
    records.append(plain, {"step": 1, "time": 0.0, "fid": 12.5, "protocol": {"extractor": "mine"}})
    return {"plain": plain, "conditional": conditional}


@pytest.fixture(scope="module")
def exported(runs, tmp_path_factory):
    """`(run, *flags) -> folder of versions`, exported once."""
    folders = {}

    def folder_of(run, *flags):
        if (run, flags) not in folders:
            output = tmp_path_factory.mktemp("exports") / "out"
            code, _, errors = call("export", f"--workdir={runs[run]}", f"--output={output}", *flags)
            assert code == 0, errors
            folders[run, flags] = output
        return folders[run, flags]

    return folder_of


def drawn_from_run(workdir, *flags):
    """The images that `sample` draws from a run, [n, 8, 8]; its sampler is not compiled."""
    with untraced():
        return drawn(workdir, f"--workdir={workdir}", *flags)


def drawn(folder, *flags):
    """The images that `sample` draws, [n, 8, 8]."""
    path = folder.parent / "drawn.png"
    code, _, errors = call("sample", f"--output={path}", *flags)
    assert code == 0, errors
    grid = np.asarray(Image.open(path)).astype(int)
    rows, columns = (size // 66 for size in grid.shape)
    cells = grid[2:, 2:].reshape(rows, 66, columns, 66).swapaxes(1, 2)
    return cells[:, :, :64:8, :64:8].reshape(-1, 8, 8)


EXPORTS = pytest.mark.budget(12, "What it exports is shared by the tests that follow.")
SAVED_MODEL = ("--format=saved_model",)
SPARSE = ("--format=sparse",)
PAGE = ("--format=html", "--precision=float16")
LITE = ("--format=tflite", "--batch_size=1", "--batch_size=64")


@EXPORTS
@pytest.mark.parametrize(
    ("run", "flags", "how"),
    first_by_default(
        ("conditional", SPARSE, ("--interpolate=classes", "--num=15", "--columns=5")),
        ("plain", SPARSE, ("--num=9", "--truncation=0.7", "--seed=2")),
        ("plain", PAGE, ("--num=4",)),
        ("plain", LITE, ("--num=16", "--columns=8", "--interpolate=latents")),
        ("conditional", SAVED_MODEL, ("--classes", "--columns=3")),
        ("conditional", SAVED_MODEL, ("--interpolate=classes", "--num=15", "--columns=5")),
        in_ci=3,
    ),
)
def test_an_artifact_draws_the_picture_of_its_run(runs, exported, flags, run, how):
    expected = drawn_from_run(runs[run], *how)
    folder = exported(run, *flags)
    assert np.abs(drawn(folder, f"--artifact={folder}", *how) - expected).max() <= 1


@pytest.mark.ci
@EXPORTS
@pytest.mark.parametrize("flags", [SPARSE, SAVED_MODEL], ids=["sparse", "saved_model"])
def test_an_artifact_draws_the_video_of_its_run(runs, exported, tmp_path, flags):
    folder = exported("conditional", *flags)
    shown = []
    for number, source in enumerate([f"--workdir={runs['conditional']}", f"--artifact={folder}"]):
        path = tmp_path / f"{number}.webp"
        code, said, errors = call(
            "sample", source, f"--video={path}", "--num=4", "--seconds=1", "--fps=7"
        )
        assert code == 0, errors
        assert "which walk through latents and classes in 7 frames" in said
        with Image.open(path) as film:
            film.seek(3)
            shown.append(np.asarray(film.convert("L")).astype(int))
    assert np.abs(shown[1] - shown[0]).max() <= 8  # Pixels that differ by 1 may compress otherwise.


@pytest.mark.ci
@EXPORTS
@pytest.mark.parametrize("how", [("--batch_norm=standing",), ("--weights=live",)])
def test_what_is_exported_is_what_sample_draws_with_the_same_flags(runs, exported, how):
    expected = drawn_from_run(runs["conditional"], "--num=9", *how)
    folder = exported("conditional", "--format=sparse", *how)
    images = drawn(folder, f"--artifact={folder}", "--num=9")
    assert np.abs(images - expected).max() <= 1
    plain = exported("conditional", "--format=sparse")
    assert np.abs(images - drawn(plain, f"--artifact={plain}", "--num=9")).max() > 1


def test_the_card_says_what_it_is(runs, exported):
    folder = exported("plain", "--format=sparse") / "1"
    card = json.loads((folder / artifact.CARD).read_text())
    assert (card["run"], card["license"], card["purpose"]) == ("plain", None, None)
    assert card["title"] == "plain, a generator of digits with 70.1 % zeros"
    assert card["checkpoint"] == {"step": 1, "weights": "averaged", "batch_norm": "inference"}
    assert card["scores"][0]["fid"] == 12.5
    assert card["training"]["data"]["fingerprint"]
    assert "host" not in card["training"]
    assert "GAN.generator_sparsity = 0.7" in card["configuration"]
    generator = card["generator"]
    assert generator["sparsity_under_masks"] == pytest.approx(0.7, abs=0.01)
    assert (
        sum(layer["active"] for layer in generator["layers"] if layer["masked"])
        == (generator["active_weights_under_masks"])
    )
    flops = generator["theoretical_flops_per_image"]
    assert 0 < flops["sparse"] < flops["dense"]
    size = (folder / FORMATS["sparse"].file).stat().st_size
    assert card["files"] == {FORMATS["sparse"].file: size}
    assert card["bytes"] == size
    words = (folder / artifact.CARD_TEXT).read_text()
    zeros = generator["sparsity_under_masks"], generator["sparsity_of_all_parameters"]
    told_of_zeros = [f"{fraction:.2%} of" for fraction in zeros]
    headings = ["# plain, a generator", "## Purpose", "Licence: not stated", 'license: "unknown"']
    for told in (*headings, *told_of_zeros, "| fid | 12.5 |", "fingerprint", f"{size:,}"):
        assert told in words
    for layer in generator["layers"]:
        assert not layer["masked"] or layer["name"] in words
    assert "may come from anybody" in words
    inside = load(folder).about
    assert inside["configuration"] == card["configuration"]
    assert inside["training"] == card["training"]


def test_a_card_names_no_folder_of_the_machine(runs, exported):
    folder = exported("plain", *SPARSE) / "1"
    for text in (folder / artifact.CARD).read_text(), (folder / artifact.CARD_TEXT).read_text():
        assert str(runs["plain"].parent) not in text
        assert sys.prefix not in text
        assert platform.node() not in json.loads(json.dumps(text)).split('"')


def test_what_the_exporter_says_is_in_the_card(exported, tmp_path):
    made = json.loads((exported("plain", *SPARSE) / "1" / artifact.CARD).read_text())
    said = {"title": "Digits", "purpose": "To decorate.", "license": "CC-BY-4.0"}
    write_card(tmp_path, {**made, **said})
    words = (tmp_path / artifact.CARD_TEXT).read_text()
    for told in ("# Digits\n", "To decorate.\n", "Licence: CC-BY-4.0\n", 'license: "cc-by-4.0"\n'):
        assert told in words


def test_scores_in_words_have_four_digits(exported, tmp_path):
    made = json.loads((exported("plain", *SPARSE) / "1" / artifact.CARD).read_text())
    record = {"step": 1, "fid": 5.703336, "kid": None, "protocol": {"id": "1", "real": {"n": 7}}}
    write_card(tmp_path, {**made, "scores": [record]})
    words = (tmp_path / artifact.CARD_TEXT).read_text()
    for told in ("| fid | 5.703 |", "| kid | none |", "- real: n 7\n"):
        assert told in words


def test_exports_of_the_same_weights_have_one_digest(exported):
    cards = [
        json.loads((exported(*export) / "1" / artifact.CARD).read_text())
        for export in (("plain", *SPARSE), ("plain", *PAGE), ("conditional", *SPARSE))
    ]
    first, page, other = (card["digest"] for card in cards)
    assert first == page != other


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        ({"command": "/v/bin/python -m a.b --workdir=runs/x"}, "python -m a.b --workdir=x"),
        ({"command": "python --workdir='/home/u/my runs/x'"}, "python --workdir=x"),
        ({"command": "p --gin_file=gin/a.gin --x=1"}, "p --gin_file=gin/a.gin --x=1"),
        ({"command": "p --gin_file=/home/u/a.gin"}, "p --gin_file=a.gin"),
        ({"command": """p '--gin_param=a.b = "/home/u/c d/e"'"""}, """p '--gin_param=a.b = "e"'"""),
        ({"configuration": "a.path = '/home/u/my photos/x'"}, "a.path = 'x'"),
        ({"configuration": "a.path = 'photos/x'  # a/b"}, "a.path = 'photos/x'  # a/b"),
        ({"source": "folder ~/photos"}, "folder photos"),
        ({"source": "https://example.org/a/b or gs://c/d"}, "https://example.org/a/b or gs://c/d"),
        ({"devices": "/physical_device:CPU:0"}, "/physical_device:CPU:0"),
    ],
)
def test_of_paths_the_last_part_is_left(record, expected):
    nested = without_places({"resumes": [{**record, "host": "mine"}]})
    assert nested == {"resumes": [dict.fromkeys(record, expected)]}


def test_a_card_tells_names_of_any_bytes(exported, tmp_path):
    """Of folders whose names are not UTF-8, Python makes halves of characters."""
    made = json.loads((exported("conditional", *SPARSE) / "1" / artifact.CARD).read_text())
    made["interface"]["class_names"] = [os.fsdecode(b"caf\xe9")] * 10
    write_card(tmp_path, made)
    assert "caf\\udce9" in (tmp_path / artifact.CARD_TEXT).read_text()
    assert json.loads((tmp_path / artifact.CARD).read_text())["interface"] == made["interface"]


def test_a_card_says_of_which_weights_scores_are(exported, tmp_path):
    made = json.loads((exported("conditional", *SPARSE) / "1" / artifact.CARD).read_text())
    for scored, told in (("averaged", "of its averaged weights in"), ("live", "has the averaged")):
        protocol = {"id": "1", "generated": {"weights": scored}}
        write_card(tmp_path, {**made, "scores": [{"step": 1, "fid": 1.0, "protocol": protocol}]})
        assert told in (tmp_path / artifact.CARD_TEXT).read_text()


@pytest.mark.parametrize("name", FORMATS)
def test_a_card_says_whether_its_writer_must_be_trusted(exported, tmp_path, name):
    made = json.loads((exported("conditional", *SPARSE) / "1" / artifact.CARD).read_text())
    write_card(tmp_path, {**made, "format": name})
    words = (tmp_path / artifact.CARD_TEXT).read_text()
    assert ("only if you trust its writer" in words) == FORMATS[name].trusted
    assert ("may come from anybody" in words) != FORMATS[name].trusted


@pytest.mark.ci
def test_the_next_export_is_the_next_version(runs, tmp_path):
    output = tmp_path / "out"
    flags = [f"--workdir={runs['plain']}", f"--output={output}", "--format=sparse"]
    for _ in range(2):
        assert call("export", *flags)[0] == 0
    assert artifact.versions(output) == [1, 2]
    assert artifact.find(output).name == "2"
    code, _, errors = call("export", *flags[:2], "--format=tflite")
    assert code == 1
    assert "holds artifacts of format sparse" in errors
    assert artifact.versions(output) == [1, 2]


def test_a_copy_that_has_just_begun_hides_no_whole_version(exported, tmp_path):
    folder = tmp_path / "out"
    shutil.copytree(exported("plain", *SPARSE), folder)
    expected = load(folder)(2)
    for name in ("2", "3"):
        (folder / name).mkdir()
    (folder / "3" / artifact.CARD).write_text("{}")
    assert artifact.find(folder) == folder / "1"
    np.testing.assert_array_equal(load(folder)(2), expected)
    (folder / "1" / artifact.MANIFEST).unlink()
    with pytest.raises(InputError, match=r"out/3/manifest.json is missing"):
        load(folder)


@pytest.mark.ci
def test_an_export_is_scored_as_it_is_by_the_evaluator_of_its_run(runs, exported, tmp_path):
    folder, output = exported("plain", *SPARSE), tmp_path / "scores.json"
    settings = [
        "Evaluator.extractor = @digits_classifier",
        "Evaluator.num_images = 100",
        "Evaluator.metrics = ['fid']",
        f"Evaluator.cache_dir = {str(tmp_path)!r}",
    ]
    before = records.read(runs["plain"])
    code, out, errors = call(
        "evaluate",
        f"--workdir={runs['plain']}",
        f"--artifact={folder}",
        f"--output={output}",
        *(f"--gin_param={one}" for one in settings),
    )
    assert code == 0, errors
    found = json.loads(output.read_text())
    assert f"fid {found['scores']['fid']:.5g}" in out
    assert found["of"] == artifact.facts(folder / "1")
    assert found["of"]["weights"] == "averaged"
    assert found["of"]["format"] == "sparse"
    assert found["of"]["step"] == 1
    assert found["protocol"]["generated"]["num_images"] == 100
    assert records.read(runs["plain"]) == before


@pytest.mark.parametrize(
    ("flags", "told"),
    first_by_default(
        (["--checkpoint=1"], "--artifact and --checkpoint both name a generator"),
        (["--watch"], "--watch and --artifact cannot be combined"),
        (["--artifact=", "--output=x.json"], "--output is for the scores of --artifact"),
        (["--artifact=nowhere"], "There is no artifact nowhere"),
        (["--output=scores.txt"], "--output=scores.txt must end in .json"),
        (["--workdir="], "--workdir is missing: the folder of the run whose evaluator scores"),
        (["--watch_minutes=5"], "--watch_minutes is for --watch"),
        in_ci=3,
    ),
)
def test_evaluate_tells_what_makes_no_sense_of_an_artifact(runs, exported, flags, told):
    settings = "Evaluator.extractor = @digits_classifier"
    number = "--gin_param=Evaluator.num_images = 100"
    metrics = "--gin_param=Evaluator.metrics = ['fid']"
    given = [f"--artifact={exported('plain', *SPARSE)}", *flags]
    code, _, errors = call(
        "evaluate", f"--workdir={runs['plain']}", f"--gin_param={settings}", number, metrics, *given
    )
    assert code == 1
    assert told in errors


def test_an_export_that_fails_leaves_nothing(runs, tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(artifact, "write_manifest", fail)
    flags = [f"--workdir={runs['plain']}", f"--output={tmp_path / 'out'}", "--format=sparse"]
    code, _, errors = call("export", *flags)
    assert code == 1
    assert "No space left" in errors
    assert [path.name for path in (tmp_path / "out").iterdir()] == [".lock"]


def test_a_copy_of_the_sparse_file_is_enough(exported, tmp_path):
    folder = exported("conditional", "--format=sparse")
    path = shutil.copy(folder / "1" / FORMATS["sparse"].file, tmp_path / "mine.safetensors")
    np.testing.assert_array_equal(load(path)(3, labels=1), load(folder)(3, labels=1))


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--workdir="], "--workdir is missing"),
        (["--output="], "--output is missing"),
        (["--batch_norm=batch"], "no fixed statistics to fold in"),
        (["--precision=int8"], "`--format=saved_model` supports float32, got `--precision=int8`"),
        (["--batch_size=8"], "saved_model takes batches of any size"),
        (["--format=tflite", "--batch_size=0"], "--batch_size must be a positive integer"),
        (["--checkpoint=7"], "neither latest nor best, nor a step that was kept: 0, 1"),
        (["--output={}/file"], "is a file"),
        (["--output={}"], "neither empty nor a folder of versions: it holds 'file'"),
    ],
)
def test_what_makes_no_sense_is_told(runs, tmp_path, flags, told):
    (tmp_path / "file").write_text("")
    defaults = [f"--workdir={runs['plain']}", f"--output={tmp_path / 'out'}"]
    code, _, errors = call("export", *defaults, *(flag.format(tmp_path) for flag in flags))
    assert code == 1
    assert errors.startswith("error: ")
    assert told in errors
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize(
    ("run", "flags", "told"),
    [
        ("plain", ["--workdir=x"], "--workdir and --artifact"),
        ("plain", ["--weights=live"], "--weights was fixed when the artifact was exported"),
        ("plain", ["--classes"], "--classes needs a conditional GAN"),
        ("conditional", ["--class_id=10"], "--class_id=10 is not one of the classes"),
        ("plain", ["--artifact=nowhere"], "There is no artifact nowhere"),
        ("plain", ["--num=1000000"], "A picture of 1,000,000 images in 1,000 rows"),
        ("conditional", ["--classes", "--columns=100000000"], "in 10 rows and 100,000,000 columns"),
    ],
)
def test_sample_tells_what_an_artifact_cannot(exported, tmp_path, run, flags, told):
    folder = exported(run, "--format=sparse")
    output = f"--output={tmp_path}/x.png"
    code, _, errors = call("sample", f"--artifact={folder}", output, *flags)
    assert code == 1
    assert told in errors
    assert not list(tmp_path.iterdir())
