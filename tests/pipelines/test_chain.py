"""The pipeline with commands that take no time: what is made again, and what is refused."""

import dataclasses
import functools
import json
import pathlib
import shlex
import shutil

import pytest

from stugan_tf.errors import FailedRun, InputError
from stugan_tf.pipelines import chain, children, configuration, ingestion, serving
from stugan_tf.pipelines.components import ingest as ingest_component
from stugan_tf.pipelines.components import scoring, train
from stugan_tf.pipelines.steps import execute
from stugan_tf.serving import artifact
from stugan_tf.serving.formats import FORMATS
from stugan_tf.serving.interface import Interface
from tests.helpers.numbered_images import Numbers

TRAINING = "data.source = @digits()\nAlgorithm.total_steps = 5\ntrain.seed = 0\n"
SEED_1 = TRAINING + "train.seed = 1\n"
INGEST = "Ingest.num_shards = 2\n"
ORDER = ["check", "ingest", "reference", "train", "export", "evaluate", "bless", "push"]


class Killed(BaseException):
    pass


class Commands:
    """Stands in for `stugan_tf.train` and the others: leaves what they leave."""

    def __init__(self):
        self.called = []
        self.scores = {"fid": 20.0}
        self.scores_of = {}  # of exports by their weights or precision
        self.protocol = "p"
        self.dies_in = None
        self.phases = ()
        self.generator = "a generator"

    def __call__(self, module, flags, log=None, show=False, keep=()):
        flags = dict(flag.removeprefix("--").partition("=")[::2] for flag in flags)
        self.called.append(module)
        if module == self.dies_in:
            raise Killed
        if "dry_run" in flags:
            pathlib.Path(log).write_text("a plan")
        else:
            getattr(self, module.rpartition(".")[2])(flags)

    def statistics(self, flags):
        pass

    def train(self, flags):
        workdir = pathlib.Path(flags["workdir"])
        for folder in [workdir / phase for phase in self.phases] or [workdir]:
            checkpoint = folder / "checkpoints" / "step_00000005"
            checkpoint.mkdir(parents=True, exist_ok=True)
            (checkpoint / "checkpoint.json").write_text("{}")
            finished = {"step": 5, "time": "now"}
            manifest = {"commit": "c0ffee", "finished": finished, "host": "secret"}
            (folder / "run.json").write_text(json.dumps(manifest))
            (folder / "config.gin").write_text(f"operative of {folder.name}")
        if self.phases:
            phases = [{"name": n, "folder": n, "state": "finished"} for n in self.phases]
            (workdir / "phases.json").write_text(json.dumps({"phases": phases}))

    def evaluate(self, flags):
        of = artifact.facts(pathlib.Path(flags["artifact"]))
        scores = dict(self.scores)
        for name in (of["weights"], of["precision"]):
            scores |= self.scores_of.get(name, {})
        found = {"scores": scores, "protocol": {"id": self.protocol}, "of": of}
        pathlib.Path(flags["output"]).write_text(json.dumps(found))

    def export(self, flags):
        output = pathlib.Path(flags["output"])
        folder = output / str(len(artifact.versions(output)) + 1)
        folder.mkdir(parents=True)
        generator = {
            "sparsity_under_masks": 0.8,
            "active_weights_under_masks": 20,
            "theoretical_flops_per_image": {"sparse": 1e4},
        }
        step = 5 if flags["checkpoint"] == "latest" else int(flags["checkpoint"])
        card = {
            "bytes": 10,
            "generator": generator,
            "precision": flags.get("precision", "float32"),
            "checkpoint": {"step": step, "weights": flags["weights"], "batch_norm": "inference"},
        }
        (folder / artifact.CARD).write_text(json.dumps(card))
        (folder / FORMATS[flags["format"]].file).write_text(self.generator)
        interface = Interface(4, (8, 8, 1), 1, False)
        artifact.write_manifest(folder, flags["format"], interface)


@pytest.fixture
def commands(monkeypatch):
    found = Commands()
    monkeypatch.setattr(children, "run", found)
    monkeypatch.setattr(serving, "try_out", lambda path: None)
    return found


@pytest.fixture(scope="module")
def images():
    """Six of them, which are looked at once for all tests."""
    source = Numbers(6)
    source.inspect = functools.cache(source.inspect)
    return source


@pytest.fixture
def ingested(monkeypatch, images):
    """Beam takes a second; what it does is tested elsewhere."""

    unreadable = {}

    def ingest(source, text, settings, runner, folder):
        if unreadable and not settings.skip_unreadable:
            raise InputError("An image cannot be read.")
        for index in range(settings.num_shards):
            (pathlib.Path(folder) / f"train-{index}.tfrecord").write_bytes(b"shard")
        return {
            "content": f"{source.name} {settings.seed}",
            "images": 6,
            "shards": settings.num_shards,
            "bytes": {"shards": 5 * settings.num_shards},
            "anomalies": {"unreadable": unreadable},
        }

    monkeypatch.setattr(ingestion, "ingest", ingest)
    monkeypatch.setattr(configuration, "source", lambda training: images)
    ingest_component.source_of.cache_clear()
    return unreadable


@pytest.fixture
def start(make_context, commands, ingested):
    def run(training=TRAINING, pipeline="", **more):
        return chain.run(make_context(training, "", INGEST + pipeline, **more))

    return run


def test_a_second_run_does_nothing(start, commands):
    assert start().made == ORDER
    called = list(commands.called)
    again = start()
    assert again.made == []
    assert again.artifacts["push"].version == 1
    assert commands.called == called


@pytest.mark.parametrize(
    ("change", "made"),
    [
        ({"training": TRAINING + "# a comment\ntrain.log_every = 3\n"}, []),
        ({"training": SEED_1}, [c for c in ORDER if c != "ingest"]),
        # Another order of images is other data.
        ({"pipeline": "Ingest.seed = 1\n"}, [c for c in ORDER if c != "check"]),
        ({"pipeline": "Beam.num_workers = 2\n"}, []),
        ({"pipeline": "Export.format = 'sparse'\n"}, ["export", "evaluate", "bless", "push"]),
        ({"pipeline": "Bless.at_most = {'fid': 30.0}\n"}, ["bless", "push"]),
        ({"code": "2"}, ORDER),
    ],
)
def test_what_has_changed_and_what_follows_is_made_again(start, change, made):
    start()
    assert start(**change).made == made


@pytest.mark.parametrize(
    "module",
    ["train", "evaluate", "export", "stugan_tf.pipelines.statistics"],
)
def test_killed_anywhere_it_goes_on_where_it_was(start, commands, module):
    commands.dies_in = module if "." in module else f"stugan_tf.{module}"
    with pytest.raises(Killed):
        start()
    before = list(commands.called)
    commands.dies_in = None
    outcome = start()
    assert outcome.artifacts["push"].version == 1
    finished = before[:-1]
    assert commands.called[len(before) :] == [
        "stugan_tf.train" if name == "check" else name for name in _modules()[len(finished) :]
    ]


def _modules():
    names = ["check", "stugan_tf.pipelines.statistics"]
    return names + [f"stugan_tf.{name}" for name in ("train", "export", "evaluate")]


@pytest.mark.parametrize("name", ORDER)
def test_killed_before_it_is_noted_as_done_a_component_comes_to_the_same_end(
    start, monkeypatch, name
):
    from stugan_tf.pipelines import steps

    write = steps.write_atomically

    def write_or_die(path, data):
        if path.parent.parent.name == name:
            raise Killed
        write(path, data)

    with monkeypatch.context() as patch:
        patch.setattr(steps, "write_atomically", write_or_die)
        with pytest.raises(Killed):
            start()
    outcome = start()
    assert outcome.made == ORDER[ORDER.index(name) :]
    assert outcome.artifacts["push"].version == 1


def test_a_worse_model_is_refused_and_what_is_served_stays(start, commands):
    start()
    commands.scores = {"fid": 25.0}
    outcome = start(SEED_1)
    blessing = outcome.artifacts["bless"]
    assert not blessing.blessed
    assert "fid is 25, worse than 20 of version 1" in blessing.words
    assert "push" not in outcome.artifacts
    # Asked again, the answer is the same, and what is served still is.
    assert start(SEED_1).made == []
    assert start().artifacts["push"].version == 1


def test_a_better_model_is_pushed_and_compared_with_the_former_ever_after(start, commands):
    start()
    commands.scores = {"fid": 15.0}
    better = SEED_1
    outcome = start(better)
    assert outcome.artifacts["push"].version == 2
    assert outcome.artifacts["bless"].baseline == 1
    assert start(better).made == []
    assert start(better).artifacts["bless"].baseline == 1


def test_the_served_model_is_scored_anew_if_the_protocol_is_another(start, commands):
    start()
    commands.protocol, commands.scores = "q", {"fid": 30.0}  # So the served one has 30, too.
    outcome = start(SEED_1)
    assert outcome.artifacts["bless"].blessed
    assert "equal to 30 of version 1" in outcome.artifacts["bless"].words
    assert commands.called[-1] == "stugan_tf.evaluate"


@pytest.fixture
def rescoring_raises(start, commands, monkeypatch):
    """Version 1 is served and has to be scored anew, by which `error` is raised once."""
    start()
    commands.protocol = "q"
    score, errors = scoring.score, []

    def score_or_raise(context, workplace, *arguments):
        if errors and workplace.folder.parent.name == "bless":
            raise errors.pop()
        return score(context, workplace, *arguments)

    monkeypatch.setattr(scoring, "score", score_or_raise)
    return errors.append


def test_a_served_model_that_cannot_be_scored_cannot_be_compared(start, rescoring_raises):
    rescoring_raises(InputError("The artifact is gone."))
    blessing = start(SEED_1).artifacts["bless"]
    assert not blessing.blessed
    assert "version 1 cannot be compared with: " in blessing.words
    assert "The artifact is gone." in blessing.words


def test_a_failure_that_may_pass_is_no_verdict(start, rescoring_raises):
    rescoring_raises(FailedRun("Out of memory."))
    with pytest.raises(FailedRun, match="Out of memory"):
        start(SEED_1)
    assert start(SEED_1).artifacts["bless"].blessed


def test_the_served_model_is_scored_anew_if_a_score_is_missing(start, commands):
    start()
    commands.scores = {"fid": 20.0, "kid": 0.5}
    outcome = start(SEED_1, "Bless.compare = ['fid', 'kid']\n")
    assert "kid is 0.5, equal to 0.5 of version 1" in outcome.artifacts["bless"].words


@pytest.mark.parametrize(
    ("export", "scored"),
    [
        ("Export.weights = 'live'\n", "live"),
        ("Export.format = 'tflite'\nExport.flags = ['--precision=int8']\n", "int8"),
    ],
)
def test_what_is_judged_is_what_would_be_served(start, commands, export, scored):
    start()
    commands.scores_of = {scored: {"fid": 30.0}}
    outcome = start(pipeline=export)
    assert scored in outcome.artifacts["evaluate"].of.values()
    assert not outcome.artifacts["bless"].blessed
    assert "fid is 30, worse than 20 of version 1" in outcome.artifacts["bless"].words
    assert start().artifacts["push"].version == 1


def test_scores_say_what_they_are_of(start, make_context):
    found = start(pipeline="Score.checkpoint = 5\n").artifacts
    record = serving.current(make_context(TRAINING, "", INGEST).serving)
    assert record["scored"] == found["evaluate"].of == artifact.facts(found["export"].path)
    assert record["scored"]["weights"] == "averaged"
    assert record["scored"]["precision"] == "float32"
    assert record["step"] == record["scored"]["step"] == 5


def test_files_that_changed_after_they_were_scored_are_not_pushed(start, make_context):
    context = make_context(TRAINING, "", INGEST)
    found = chain.run(context, "bless").artifacts
    folder = found["export"].path
    (folder / FORMATS["saved_model"].file).write_text("another generator")
    artifact.write_manifest(folder, "saved_model", Interface(4, (8, 8, 1), 1, False))
    component = chain.COMPONENTS["push"]
    with pytest.raises(FailedRun, match="is not what was scored, so it is not pushed"):
        execute(component, context, [found[name] for name in component.inputs])
    assert serving.current(context.serving) is None
    again = chain.run(context)
    assert again.made == ["evaluate", "bless", "push"]
    assert serving.current(context.serving)["scored"] == artifact.facts(folder)


def test_an_export_that_is_made_again_with_other_bytes_is_judged_again(start, commands, tmp_path):
    start()
    shutil.rmtree(tmp_path / "root" / "export")
    commands.generator = "the same generator, written in another order"
    outcome = start()
    assert outcome.made == ["export", "evaluate", "bless", "push"]
    assert outcome.artifacts["evaluate"].of == artifact.facts(outcome.artifacts["export"].path)
    assert outcome.artifacts["push"].version == 1  # It is the same model.


def test_a_withdrawn_model_can_still_be_compared_with(start, make_context, commands):
    """Version 3, compared with 2, is served again; 2 stays withdrawn."""
    folder = make_context(TRAINING, "", INGEST).serving
    for seed, scores in enumerate(({"fid": 20.0}, {"fid": 15.0}, {"fid": 10.0, "kid": 0.5})):
        commands.scores = scores
        start(TRAINING + f"train.seed = {seed}\n")
    serving.roll_back(folder, 1)
    serving.roll_back(folder, 3)
    compare = "Bless.compare = ['fid', 'kid']\n"  # Version 2 has no KID yet.
    blessing = start(TRAINING + "train.seed = 2\n", compare).artifacts["bless"]
    assert blessing.baseline == 2
    assert "kid is 0.5, equal to 0.5 of version 2" in blessing.words


def test_what_is_pushed_was_compared_with_what_is_served(start, make_context, commands):
    """Two pipelines judge by version 1; the better one is pushed first."""
    start()
    contexts = [make_context(TRAINING + f"train.seed = {n}\n", "", INGEST) for n in (1, 2)]
    found = []
    for context, fid in zip(contexts, (10.0, 15.0), strict=True):
        commands.scores = {"fid": fid}
        found.append(chain.run(context, "bless").artifacts)
    component = chain.COMPONENTS["push"]
    better, worse = ([of_one[name] for name in component.inputs] for of_one in found)
    assert execute(component, contexts[0], better).artifact.version == 2
    with pytest.raises(FailedRun, match=r"Version 2 is served .* compared with version 1"):
        execute(component, contexts[1], worse)
    assert not chain.run(contexts[1]).artifacts["bless"].blessed


def test_what_is_not_blessed_cannot_be_pushed_by_calling_the_component(start, make_context):
    found = start(pipeline="Bless.at_most = {'fid': 1.0}\n").artifacts
    context = make_context(TRAINING, "", INGEST + "Bless.at_most = {'fid': 1.0}\n")
    component = chain.COMPONENTS["push"]
    with pytest.raises(FailedRun, match="not blessed"):
        execute(component, context, [found[name] for name in component.inputs])
    assert serving.current(context.serving) is None


def test_a_withdrawn_model_is_not_pushed_again(start, make_context, commands):
    start()
    commands.scores = {"fid": 10.0}
    better = SEED_1
    start(better)
    serving.roll_back(make_context(TRAINING, "", INGEST).serving, reason="artefacts")
    with pytest.raises(InputError, match="withdrawn: artefacts"):
        start(better)
    assert start().artifacts["push"].version == 1


def test_the_record_of_a_version_says_where_it_comes_from(start, make_context):
    start()
    record = serving.current(make_context(TRAINING, "", INGEST).serving)
    assert record["training"]["commit"] == "c0ffee"
    assert "host" not in record["training"]
    assert record["gin"] == "operative of workdir"
    assert record["scores"] == {"fid": 20.0}
    assert record["data"]["fingerprint"]
    assert record["configuration"]["training"] == TRAINING


def test_a_pipeline_root_can_be_moved(start, make_context, tmp_path):
    start()
    (tmp_path / "root").rename(tmp_path / "elsewhere")
    context = dataclasses.replace(
        make_context(TRAINING, "", INGEST), root=tmp_path / "elsewhere", settings=None
    )
    outcome = chain.run(context)
    assert outcome.made == ["ingest", "push"]  # Where shards are, and where is served from.
    assert str(tmp_path / "elsewhere") in outcome.artifacts["ingest"].gin_file.read_text()
    assert outcome.artifacts["push"].version == 1
    assert outcome.artifacts["train"].workdir.is_dir()


def test_several_workers_may_train_by_the_command_that_is_printed(start, make_context, commands):
    found = start().artifacts
    context = make_context(SEED_1, "", INGEST, strategy="multi_worker")
    before = chain.run(context, "reference").artifacts
    name, *flags = shlex.split(train.command_of(context, before))[2:]
    assert "--strategy=multi_worker" in flags
    commands(name, flags)  # as each worker does
    called = len(commands.called)
    outcome = start(SEED_1)
    assert outcome.made == ["train", "export", "evaluate", "bless", "push"]
    assert "stugan_tf.train" not in commands.called[called:]
    assert outcome.artifacts["train"].workdir != found["train"].workdir


@pytest.mark.parametrize("damage", [pathlib.Path.unlink, lambda path: path.write_bytes(b"sh")])
def test_shards_that_are_gone_or_torn_are_made_again(start, tmp_path, damage):
    start()
    for path in (tmp_path / "root" / "ingest").rglob("train-0.tfrecord"):
        damage(path)
    assert start().made == ["ingest"]  # The same, so nothing follows.


def test_what_cannot_be_read_is_left_out_only_while_that_is_asked_for(start, ingested):
    ingested["3"] = "torn"
    skip = "Ingest.skip_unreadable = True\n"
    start(pipeline=skip)
    with pytest.raises(InputError, match="cannot be read"):
        start()
    assert start(pipeline=skip).made == []


def test_a_training_whose_checkpoints_are_gone_is_trained_again(start, commands, tmp_path):
    start()
    (workdir,) = (tmp_path / "root" / "train").glob("*/workdir")
    shutil.rmtree(workdir / "checkpoints")
    assert start().made == ["train"]
    assert commands.called[-1] == "stugan_tf.train"


def test_of_several_phases_the_last_is_scored_and_has_its_lineage(start, make_context, commands):
    commands.phases = ("pretraining", "finetuning")
    assert start().artifacts["train"].final_phase.name == "finetuning"
    record = serving.current(make_context(TRAINING, "", INGEST).serving)
    assert record["gin"] == "operative of finetuning"
    assert record["scores"] == {"fid": 20.0}
    assert start().made == []


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"artifact": {"type": "Plan", "new": 1}}'])
def test_what_another_version_of_the_code_left_is_made_again(start, tmp_path, text):
    start()
    (path,) = (tmp_path / "root" / "check").glob("*/done.json")
    path.write_text(text)
    assert start().made == ["check"]
