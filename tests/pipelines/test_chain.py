"""The pipeline with commands that take no time: what is made again, and what is refused."""

import json
import pathlib
import shlex

import pytest
from numbered_images import Numbers

from pipelines import chain, children, configuration, ingestion, serving
from pipelines.components import bless, train
from pipelines.components import ingest as ingest_component
from pipelines.steps import artifact_in, execute
from stugan_tf.errors import FailedRun, InputError
from stugan_tf.evaluation import records
from stugan_tf.serving import artifact

TRAINING = "data.source = @digits()\nAlgorithm.total_steps = 5\ntrain.seed = 0\n"
INGEST = "Ingest.num_shards = 2\n"
ORDER = ["check", "ingest", "reference", "train", "evaluate", "export", "bless", "push"]


class Killed(BaseException):
    pass


class Commands:
    """Stands in for `stugan_tf.train` and the others: leaves what they leave."""

    def __init__(self):
        self.called = []
        self.fid = 20.0
        self.protocol = "p"
        self.dies_in = None

    def __call__(self, module, flags, log=None, keep=()):
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
        (workdir / "checkpoints" / "step_00000005").mkdir(parents=True)
        finished = {"step": 5, "time": "now"}
        manifest = {"commit": "c0ffee", "finished": finished, "host": "secret"}
        (workdir / "run.json").write_text(json.dumps(manifest))
        (workdir / "config.gin").write_text("operative")

    def evaluate(self, flags):
        protocol = {"id": self.protocol}
        time = len(self.called)
        record = {"step": 5, "time": time, "fid": self.fid, "protocol": protocol}
        records.append(flags["workdir"], record)

    def export(self, flags):
        folder = pathlib.Path(flags["output"]) / "1"
        folder.mkdir(parents=True)
        generator = {
            "sparsity_under_masks": 0.8,
            "active_weights_under_masks": 20,
            "theoretical_flops_per_image": {"sparse": 1e4},
        }
        (folder / artifact.CARD).write_text(json.dumps({"bytes": 10, "generator": generator}))
        (folder / artifact.MANIFEST).write_text("{}")


@pytest.fixture
def commands(monkeypatch):
    found = Commands()
    monkeypatch.setattr(children, "run", found)
    monkeypatch.setattr(serving, "try_out", lambda path: None)
    return found


@pytest.fixture
def ingested(monkeypatch):
    """Beam takes a second; what it does is tested elsewhere."""

    def ingest(source, text, settings, runner, folder):
        for index in range(settings.num_shards):
            (pathlib.Path(folder) / f"train-{index}.tfrecord").write_bytes(b"shard")
        content = f"{source.name} {settings.seed}"
        return {"content": content, "images": 6, "shards": settings.num_shards}

    monkeypatch.setattr(ingestion, "ingest", ingest)
    monkeypatch.setattr(configuration, "source", lambda training: Numbers(6))
    ingest_component._of_text.cache_clear()


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
        ({"training": TRAINING + "train.seed = 1\n"}, [c for c in ORDER if c != "ingest"]),
        # Another order of images is other data.
        ({"pipeline": "Ingest.seed = 1\n"}, [c for c in ORDER if c != "check"]),
        ({"pipeline": "Beam.num_workers = 2\n"}, []),
        ({"pipeline": "Export.format = 'sparse'\n"}, ["export", "bless", "push"]),
        ({"pipeline": "Bless.at_most = {'fid': 30.0}\n"}, ["bless", "push"]),
        ({"code": "2"}, ORDER),
    ],
)
def test_what_has_changed_and_what_follows_is_made_again(start, change, made):
    start()
    assert start(**change).made == made


@pytest.mark.parametrize(
    "module",
    ["train", "evaluate", "export", "pipelines.statistics"],
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
    names = ["check", "pipelines.statistics"]
    return names + [f"stugan_tf.{name}" for name in ("train", "evaluate", "export")]


@pytest.mark.parametrize("name", ORDER)
def test_killed_before_it_is_noted_as_done_a_component_comes_to_the_same_end(
    start, monkeypatch, name
):
    from pipelines import steps

    write = steps.write_atomically

    def write_or_die(path, data):
        if path.parent.parent.name == name:
            raise Killed
        write(path, data)

    with monkeypatch.context() as patch:
        patch.setattr(steps, "write_atomically", write_or_die)
        with pytest.raises(Killed):
            start()
    if name == "export":  # The stand-in makes version 1 only.
        return
    outcome = start()
    assert outcome.made == ORDER[ORDER.index(name) :]
    assert outcome.artifacts["push"].version == 1


def test_a_worse_model_is_refused_and_what_is_served_stays(start, commands):
    start()
    commands.fid = 25.0
    outcome = start(TRAINING + "train.seed = 1\n")
    blessing = outcome.artifacts["bless"]
    assert not blessing.blessed
    assert "fid is 25, worse than 20 of version 1" in blessing.words
    assert "push" not in outcome.artifacts
    # Asked again, the answer is the same, and what is served still is.
    assert start(TRAINING + "train.seed = 1\n").made == []
    assert start().artifacts["push"].version == 1


def test_a_better_model_is_pushed_and_compared_with_the_former_ever_after(start, commands):
    start()
    commands.fid = 15.0
    better = TRAINING + "train.seed = 1\n"
    outcome = start(better)
    assert outcome.artifacts["push"].version == 2
    assert outcome.artifacts["bless"].baseline == 1
    assert start(better).made == []
    assert start(better).artifacts["bless"].baseline == 1


def test_the_served_model_is_scored_anew_if_the_protocol_is_another(start, commands):
    start()
    commands.protocol, commands.fid = "q", 30.0  # By this one the served model has 30, too.
    outcome = start(TRAINING + "train.seed = 1\n")
    assert outcome.artifacts["bless"].blessed
    assert "equal to 30 of version 1" in outcome.artifacts["bless"].words
    assert commands.called[-1] == "stugan_tf.evaluate"


def test_without_its_checkpoint_a_served_model_cannot_be_compared(start, commands, monkeypatch):
    start()
    commands.protocol = "q"

    def gone(*arguments):
        raise InputError("The checkpoint is gone.")

    monkeypatch.setattr(bless.scoring, "score", gone)
    context_of_new = TRAINING + "train.seed = 1\n"
    with pytest.raises(InputError):  # Scoring the new one is refused, too.
        start(context_of_new)


def test_what_is_not_blessed_cannot_be_pushed_by_calling_the_component(start, make_context):
    found = start(pipeline="Bless.at_most = {'fid': 1.0}\n").artifacts
    context = make_context(TRAINING, "", INGEST + "Bless.at_most = {'fid': 1.0}\n")
    component = chain.COMPONENTS["push"]
    with pytest.raises(FailedRun, match="not blessed"):
        execute(component, context, [found[name] for name in component.inputs])
    assert serving.current(context.serving) is None


def test_a_withdrawn_model_is_not_pushed_again(start, make_context, commands):
    start()
    commands.fid = 10.0
    better = TRAINING + "train.seed = 1\n"
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
    assert record["gin"] == "operative"
    assert record["scores"] == {"fid": 20.0}
    assert record["data"]["fingerprint"]
    assert record["configuration"]["training"] == TRAINING


def test_a_pipeline_root_can_be_moved(start, make_context, tmp_path):
    start()
    (tmp_path / "root").rename(tmp_path / "elsewhere")
    (folder,) = (tmp_path / "elsewhere" / "train").iterdir()
    assert artifact_in(folder).workdir == folder / "workdir"
    assert artifact_in(folder).workdir.is_dir()


def test_several_workers_may_train_by_the_command_that_is_printed(start, make_context, commands):
    found = start().artifacts
    context = make_context(TRAINING + "train.seed = 1\n", "", INGEST, strategy="multi_worker")
    before = chain.run(context, "reference").artifacts
    name, *flags = shlex.split(train.command_of(context, before))[2:]
    assert "--strategy=multi_worker" in flags
    commands(name, flags)  # as each worker does
    called = len(commands.called)
    outcome = start(TRAINING + "train.seed = 1\n")
    assert outcome.made == ["train", "evaluate", "export", "bless", "push"]
    assert "stugan_tf.train" not in commands.called[called:]
    assert outcome.artifacts["train"].workdir != found["train"].workdir


def test_shards_that_are_gone_are_made_again(start, tmp_path):
    start()
    for path in (tmp_path / "root" / "ingest").rglob("train-0.tfrecord"):
        path.unlink()
    assert start().made == ["ingest"]  # The same, so nothing follows.
