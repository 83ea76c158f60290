"""A pipeline's file is taken apart into what each command understands."""

import importlib.util
import pathlib

import pytest

from stugan_tf import config
from stugan_tf.errors import InputError
from stugan_tf.pipelines import code_version, configuration
from stugan_tf.pipelines.configuration import Configuration

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _clean():
    yield
    config.parse_gin()


def write(folder, **files):
    for name, text in files.items():
        (folder / f"{name}.gin").write_text(text)


def test_settings_of_the_pipeline_are_kept_from_the_training(tmp_path):
    write(
        tmp_path,
        base="data.source = @digits()\nAlgorithm.total_steps = 5\n",
        pipeline="""import pipelines.settings
include 'base.gin'
Bless.at_most = {
    'fid': 20.0,  # a limit
}
Ingest:
    num_shards = 4
    seed = 3
train.seed = 7
Score.gin_files = ['{}']
""".replace("{}", str(tmp_path / "scores.gin")),
        scores="Evaluator.num_images = 100\n",
    )
    found = configuration.read([tmp_path / "pipeline.gin"], ["Push.folder = '/srv'"])
    assert "data.source" in found.training
    assert "train.seed = 7" in found.training
    for name in ("Bless", "Ingest", "Push", "Score", "pipelines", "fid", "include"):
        assert name not in found.training
    settings = configuration.settings(found.pipeline)
    assert settings.bless.at_most == {"fid": 20.0}
    assert (settings.ingest.num_shards, settings.ingest.seed) == (4, 3)
    assert settings.push.folder == "/srv"
    assert found.evaluation == "Evaluator.num_images = 100\n"
    assert Configuration.from_json(found.to_json()) == found


def test_the_text_of_a_training_says_what_its_files_say():
    files = [ROOT / "gin/quickstart.gin", ROOT / "gin/methods/static.gin"]
    found = configuration.read(files)
    config.parse_gin(files)
    expected = config.gin.config_str()
    config.parse_gin((), [found.training])
    assert config.gin.config_str() == expected


@pytest.mark.parametrize("method", ["tickets", "prune_and_finetune_global"])
def test_methods_of_several_phases_are_known(method):
    files = [ROOT / "gin/pipelines/digits.gin", ROOT / f"gin/methods/{method}.gin"]
    assert "method.phases" in configuration.read(files).training


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("# A comment.\ntrain.seed = 1\nAlgorithm.total_steps = 5\n", True),
        ("train.seed = 3\nAlgorithm.total_steps = 5\ntrain.seed = 1\n", True),
        ("train.seed = 1\nAlgorithm.total_steps = 5\ntrain.log_every = 7\n", True),
        ("train.seed = 2\nAlgorithm.total_steps = 5\n", False),
        ("train.seed = 1\nAlgorithm.total_steps = 5\nAlgorithm.batch_size = 9\n", False),
    ],
)
def test_what_changes_nothing_is_no_change(text, same):
    reference = configuration.canonical("train.seed = 1\nAlgorithm.total_steps = 5\n")
    assert (configuration.canonical(text) == reference) == same


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("Bless.at_most = {'fud': 1.0}", "fud, which is not a score"),
        ("Bless.at_most = 20.0", "limits by the name"),
        ("Bless.compare = 'fid'", "list of texts"),
        ("Ingest.num_shard = 3", "no parameter 'num_shard'"),
        ("Ingest.duplicates = 'remove'", "'keep', 'drop', got"),
        ("Ingest.image_format = 'gif'", "must be jpeg or png"),
        ("Beam.num_workers = 0", "positive integer"),
        ("Beam.options = '--flink_master=x'", "list of texts"),
        ("Score.gin_files = 'scores.gin'", "list of texts"),
        ("Score.checkpoint = 'newest'", "'latest', 'best', a step"),
        ("Export.format = 'npz'", "'saved_model', 'tflite', 'onnx', 'sparse', 'html'"),
        ("Bless.at_most = {'fid': '20'}", "Bless.at_most['fid'] must be a number"),
        ("Bless.min_sparsity = '0.8'", "Bless.min_sparsity must be a number"),
        ("Evaluator.metrics = ['kid']", "Bless asks for fid, but Evaluator.metrics = ['kid']"),
        ("Score.gin_params = [\"Evaluator.metrics = ['kid']\"]", "Bless asks for fid"),
    ],
)
def test_wrong_settings_are_refused(line, message):
    with pytest.raises(InputError) as error:
        configuration.read([ROOT / "gin/pipelines/digits.gin"], [line])
    assert message in config.message_of(error.value)


def test_each_text_is_parsed_once(monkeypatch):
    parsed, parse = [], config.parse_gin

    def count(files=(), bindings=()):
        parsed.append((tuple(files), tuple(bindings)))
        parse(files, bindings)

    monkeypatch.setattr(config, "parse_gin", count)
    score = "Score.gin_params = ['Evaluator.num_images = 321']"
    found = configuration.read([ROOT / "gin/pipelines/digits.gin"], ["train.seed = 321", score])
    for _ in range(2):
        configuration.settings(found.pipeline)
        configuration.canonical(found.training)
        configuration.scores_while_training(found.evaluation)
    assert len(parsed) == len(set(parsed)) <= 5


def test_a_training_that_scores_itself_is_told_where_the_cache_is():
    assert configuration.scores_while_training("train.evaluator = @Evaluator")
    assert configuration.scores_while_training("train.evaluator = @monitor/Evaluator")
    assert not configuration.scores_while_training("train.seed = 0")
    optional = "train.evaluator = @if_installed\nif_installed.evaluator = @"
    assert configuration.scores_while_training(f"{optional}monitor/Evaluator")
    assert not configuration.scores_while_training(f"{optional}hinge")


def test_the_version_of_code_is_its_content(tmp_path, monkeypatch):
    monkeypatch.setattr(code_version, "ROOT", tmp_path)
    (tmp_path / "package").mkdir()
    source = tmp_path / "package" / "module.py"
    versions = []
    for text in ("a = 1\n", "a = 2\n", "a = 1\n"):
        source.write_text(text)
        code_version.of_code.cache_clear()
        versions.append(code_version.of_code("package"))
    assert versions[0] == versions[2] != versions[1]
    (tmp_path / "package" / "notes.md").write_text("of no consequence")
    code_version.of_code.cache_clear()
    assert code_version.of_code("package") == versions[0]
    code_version.of_code.cache_clear()


def test_every_component_names_code_that_exists():
    from stugan_tf.pipelines.chain import COMPONENTS

    for component in COMPONENTS.values():
        assert len(code_version.of_code(*component.code)) == 16


def test_modules_of_the_user_count_as_code_with_what_they_import(tmp_path, monkeypatch):
    (tmp_path / "my_models.py").write_text("import my_layers\n")
    (tmp_path / "my_layers.py").write_text("a = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    before = code_version.of_imports("import my_models\ntrain.seed = 1\n")
    assert before == code_version.of_imports("import my_models\n")
    (tmp_path / "my_layers.py").write_text("a = 2\n")
    after = code_version.of_imports("import my_models\n")
    assert {name for name in after if after[name] != before[name]} == {"my_layers"}
    (tmp_path / "my_models.py").write_text("import my_layers  # changed\n")
    assert code_version.of_imports("import my_models\n")["my_models"] != after["my_models"]


@pytest.mark.parametrize("command", ["run", "compile", "statistics"])
def test_without_the_extra_it_says_what_to_install(use, monkeypatch, tmp_path, command):
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "apache_beam" else found(name)
    )
    flags = {
        "run": [f"--pipeline_root={tmp_path / 'root'}"],
        "compile": [f"--output={tmp_path / 'pipeline.yaml'}"],
        "statistics": [],
    }
    code, _, errors = use(f"pipelines.{command}", ["--gin_file=digits.gin", *flags[command]])
    assert code == 1
    assert errors.startswith("error: Pipelines need apache_beam: ")
    assert "pip install 'stugan_tf[pipelines]'" in errors
    assert not list(tmp_path.iterdir())


def test_the_image_of_a_compiled_pipeline_must_be_named(use, tmp_path):
    flags = [f"--gin_file={ROOT / 'gin/pipelines/digits.gin'}", f"--output={tmp_path / 'p.yaml'}"]
    code, _, errors = use("pipelines.compile", flags)
    assert code == 1
    assert errors.startswith("error: Cluster.image is missing")
    assert "docker build" in errors
    assert not list(tmp_path.iterdir())
