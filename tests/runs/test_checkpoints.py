import json
import pathlib
import shutil

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from stugan_tf.errors import InputError
from stugan_tf.runs.checkpoints import Checkpoints
from tests.helpers.params import examples


def variables(shape=(3, 4), **more):
    values = {
        "generator/block_1/c-1.x/kernel": tf.zeros(shape),
        "averaged_seen/block_1/kernel": tf.zeros([5], tf.bool),
        "optimizer/iteration": tf.zeros([], tf.int64),
        "seed/state": tf.zeros([2], tf.uint32),
        **more,
    }
    return {name: tf.Variable(value) for name, value in values.items()}


def content(step, like):
    """Values that tell one step from another, in every bit of a float."""
    rng = np.random.default_rng(step)
    return {
        name: rng.integers(0, 100, variable.shape).astype(variable.dtype.as_numpy_dtype)
        if not variable.dtype.is_floating
        else rng.normal(size=variable.shape).astype(np.float32)
        for name, variable in like.items()
    }


def fill(state, step):
    for name, value in content(step, state).items():
        state[name].assign(value)


def save(directory, steps, scores=None, **settings):
    state = variables()
    checkpoints = Checkpoints(directory, state, **settings)
    for step in steps:
        fill(state, step)
        checkpoints.save(step, score=(scores or {}).get(step))
    return checkpoints


def holds(state, step):
    expected = content(step, state)
    return all(np.array_equal(state[name].numpy(), value) for name, value in expected.items())


def test_every_value_comes_back_bit_by_bit(tmp_path):
    save(tmp_path, [7])
    state = variables()
    special = np.array([np.nan, np.inf, -np.inf, -0.0, 1e-45, np.pi], np.float32)
    state["generator/block_1/c-1.x/kernel"].assign(np.resize(special, (3, 4)))
    Checkpoints(tmp_path, state).save(8)
    restored = variables()
    checkpoints = Checkpoints(tmp_path, restored)
    assert checkpoints.restore_newest() == 8
    assert (
        restored["generator/block_1/c-1.x/kernel"].numpy().tobytes()
        == np.resize(special, (3, 4)).tobytes()
    )
    checkpoints.restore(7)
    assert holds(restored, 7)


@pytest.mark.parametrize("name", ["[a]", "a*b?", "{a,b}", "a\\b", "...", " ", "ü %d", "]["])
def test_any_name_of_a_folder_can_be_saved_to_and_read_from(tmp_path, name):
    folder = tmp_path / name / "checkpoints"
    digest = save(folder, [7]).digest(7)
    restored = variables()
    assert Checkpoints(folder, restored).restore_newest() == 7
    assert holds(restored, 7)
    assert digest == save(tmp_path / "plain", [7]).digest(7)


def test_an_empty_folder_restores_nothing(tmp_path):
    state = variables()
    assert Checkpoints(tmp_path / "new", state).restore_newest() is None
    assert Checkpoints(tmp_path / "new", state).best() is None


def test_the_newest_and_the_best_are_kept(tmp_path):
    scores = {1: 9.0, 2: 4.0, 3: 4.0, 5: 6.0}
    checkpoints = save(tmp_path, range(8), scores, keep=2)
    assert checkpoints.steps() == [2, 6, 7]
    assert checkpoints.best() == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "step_00000002",
        "step_00000006",
        "step_00000007",
    ]


def test_a_better_score_takes_the_place_of_the_best(tmp_path):
    checkpoints = save(tmp_path, range(4), {0: 3.0, 2: 1.0}, keep=1)
    assert checkpoints.steps() == [2, 3]


def test_a_checkpoint_of_the_same_step_is_replaced(tmp_path):
    state = variables()
    checkpoints = Checkpoints(tmp_path, state)
    for content_of in (1, 2):
        fill(state, content_of)
        checkpoints.save(5)
    fill(state, 0)
    assert checkpoints.restore_newest() == 5
    assert holds(state, 2)


def test_nothing_is_kept_at_all_is_refused(tmp_path):
    with pytest.raises(InputError, match="keep_checkpoints must be at least 1, got 0"):
        Checkpoints(tmp_path, variables(), keep=0)


def truncate(folder):
    data = next(folder.glob("state.data*"))
    data.write_bytes(data.read_bytes()[:-1])


def flip_a_bit(folder):
    data = next(folder.glob("state.data*"))
    content = bytearray(data.read_bytes())
    content[10] ^= 4
    data.write_bytes(content)


DAMAGES = {
    "truncated": truncate,
    "bit flipped": flip_a_bit,
    "empty index": lambda folder: (folder / "state.index").write_bytes(b""),
    "no data": lambda folder: next(folder.glob("state.data*")).unlink(),
    "no index": lambda folder: (folder / "state.index").unlink(),
    "no manifest": lambda folder: (folder / "checkpoint.json").unlink(),
    "torn manifest": lambda folder: (folder / "checkpoint.json").write_text('{"step": 2'),
    "strange manifest": lambda folder: (folder / "checkpoint.json").write_text("null"),
    "empty folder": lambda folder: [path.unlink() for path in folder.iterdir()],
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_checkpoint_is_passed_over_with_a_warning(tmp_path, monkeypatch, damage):
    warnings = []
    monkeypatch.setattr(
        "absl.logging.warning", lambda text, *values: warnings.append(text % values)
    )
    save(tmp_path, [1, 2])
    damage(tmp_path / "step_00000002")
    state = variables()
    assert Checkpoints(tmp_path, state).restore_newest() == 1
    assert holds(state, 1)
    (warning,) = warnings
    assert "step_00000002 is damaged" in warning
    assert "Falling back" in warning


def test_if_all_are_damaged_the_user_is_told(tmp_path):
    save(tmp_path, [1, 2])
    for folder in tmp_path.iterdir():
        truncate(folder)
    state = variables()
    with pytest.raises(
        InputError, match=r"None of the checkpoints in .* is intact\. Copy one back"
    ):
        Checkpoints(tmp_path, state).restore_newest()


@pytest.fixture(scope="module")
def two_checkpoints(tmp_path_factory):
    directory = tmp_path_factory.mktemp("checkpoints")
    save(directory, [1, 2])
    return directory


@examples(15)
@given(file=st.integers(0, 2), position=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_no_flipped_bit_ever_restores_a_wrong_value(two_checkpoints, file, position, bit):
    path = sorted((two_checkpoints / "step_00000002").iterdir())[file]
    intact = path.read_bytes()
    try:
        content = bytearray(intact)
        content[int(position * len(content))] ^= 1 << bit
        path.write_bytes(content)
        state = variables()
        try:
            step = Checkpoints(two_checkpoints, state).restore_newest()
        except InputError:  # Of another format: that is not to be told from damage.
            assert path.name == "checkpoint.json"
            return
        # Nothing depends on the time that the manifest notes.
        assert step == 1 or path.name == "checkpoint.json"
        assert holds(state, step)
    finally:
        path.write_bytes(intact)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (
            {"shape": (3, 5)},
            r"1 variables differ\. The first is generator/block_1/c-1\.x/kernel, with shape \(3, "
            r"4\) there and shape \(3, 5\) here\. Use the configuration that wrote it",
        ),
        (
            {"new/bias": tf.zeros([2])},
            r"The first is new/bias, with no such variable there and shape \(2,\) here",
        ),
    ],
)
def test_a_checkpoint_of_another_model_is_refused(tmp_path, other, message):
    """Not as damaged: the checkpoint before it would not fit either."""
    save(tmp_path, [1, 2])
    state = variables(**other)
    checkpoints = Checkpoints(tmp_path, state)
    for restore in (lambda: checkpoints.restore(2), checkpoints.restore_newest):
        with pytest.raises(InputError, match=message):
            restore()
    assert all(np.all(variable.numpy() == 0) for variable in state.values())


@pytest.mark.parametrize("written_as", [3, "2", None])
def test_a_format_that_is_not_known_here_is_refused(tmp_path, written_as):
    """Not passed over as damaged: what was trained last would be lost."""
    save(tmp_path, [1, 2])
    manifest = tmp_path / "step_00000002" / "checkpoint.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "format": written_as}))
    state = variables()
    with pytest.raises(InputError, match=r"is of format .*, but this version reads 1 to 2\. Use"):
        Checkpoints(tmp_path, state).restore_newest()
    assert all(np.all(variable.numpy() == 0) for variable in state.values())


@pytest.mark.parametrize("moment", ["write", "manifest", "rename"])
def test_an_interrupted_write_leaves_no_trace(tmp_path, monkeypatch, moment):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    checkpoints = save(tmp_path, [1])
    before = sorted(tmp_path.rglob("*"))
    target = {
        "write": (tf.train.Checkpoint, "write"),
        "manifest": (json, "dumps"),
        "rename": (pathlib.Path, "rename"),
    }[moment]
    with monkeypatch.context() as patch:
        patch.setattr(*target, interrupt)
        with pytest.raises(KeyboardInterrupt):
            checkpoints.save(2)
    assert sorted(tmp_path.rglob("*")) == before
    assert checkpoints.restore_newest() == 1


def test_what_a_killed_process_left_is_neither_read_nor_kept(tmp_path):
    checkpoints = save(tmp_path, [1])
    shutil.copytree(tmp_path / "step_00000001", tmp_path / ".writing_00000002")
    assert checkpoints.steps() == [1]
    assert checkpoints.restore_newest() == 1
    checkpoints.save(3)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step_00000001", "step_00000003"]


def test_who_reads_meanwhile_sees_no_half_of_a_checkpoint(tmp_path, monkeypatch):
    state = variables()
    checkpoints = Checkpoints(tmp_path, state, keep=1)
    checkpoints.save(1)
    removed = []

    def rmtree(path, **_):
        removed.append(path.name)
        assert not path.name.startswith("step_")

    monkeypatch.setattr(shutil, "rmtree", rmtree)
    checkpoints.save(2)
    assert ".removing_00000001" in removed
    assert checkpoints.steps() == [2]
    monkeypatch.undo()
    checkpoints.save(3)
    assert [path.name for path in tmp_path.iterdir()] == ["step_00000003"]
