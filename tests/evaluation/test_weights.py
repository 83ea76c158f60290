import hashlib

import keras
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from stugan_tf.errors import InputError
from stugan_tf.evaluation.weights import (
    check_sha256,
    sha256_of_arrays,
    sha256_of_bytes,
    sha256_of_folder,
    sha256_of_keras,
    sha256_of_saved_model,
)

DIGEST = hashlib.sha256(b"weights").hexdigest()


def test_two_exports_of_the_same_weights_have_one_digest(net, tmp_path):
    folders = [tmp_path / "first", tmp_path / "second"]
    checkpoint = tf.train.Checkpoint(net=net)
    for folder in folders:
        tf.saved_model.save(net, str(folder), signatures=net.__call__)
        checkpoint.save(str(tmp_path / "checkpoint"))  # Counts saves, which are no weights.
    first, second = map(sha256_of_saved_model, folders)
    assert first == second
    loaded = tf.saved_model.load(str(folders[0]))
    tf.saved_model.save(loaded, str(tmp_path / "again"))
    assert sha256_of_saved_model(tmp_path / "again") == first


def test_one_changed_weight_changes_the_digest(net, saved_net, tmp_path):
    net.kernel[2, 3].assign(net.kernel[2, 3] + 1e-6)
    tf.saved_model.save(net, str(tmp_path / "changed"), signatures=net.__call__)
    assert sha256_of_saved_model(saved_net) != sha256_of_saved_model(tmp_path / "changed")


def test_a_saved_model_without_variables_is_told_by_its_graph(tmp_path):
    digests = set()
    for factor in (2.0, 3.0):
        module = tf.Module()
        module.compute = tf.function(
            lambda images, factor=factor: {"pool": images * factor},
            input_signature=[tf.TensorSpec([None, 1], tf.float32)],
        )
        tf.saved_model.save(module, str(tmp_path / str(factor)))
        index = tmp_path / str(factor) / "variables" / "variables.index"
        index.unlink(missing_ok=True)
        digests.add(sha256_of_saved_model(tmp_path / str(factor)))
    assert len(digests) == 2


def test_the_digest_of_a_keras_model_survives_its_file_but_no_change(keras_net):
    first, second = (keras.models.load_model(keras_net) for _ in range(2))
    digest = sha256_of_keras(first)
    assert sha256_of_keras(second) == digest
    first(tf.zeros([1, 8, 8, 3]), training=True)  # Moves the seed of dropout...
    moved = sha256_of_keras(first)
    second.get_layer("norm").gamma.assign([1, 1, 1, 1.001])
    assert sha256_of_keras(second) != digest
    first.set_weights(keras.models.load_model(keras_net).get_weights())
    assert moved != digest  # ...and the moving statistics, which are weights.
    assert sha256_of_keras(first) == digest


def test_names_shapes_and_dtypes_count(net):
    values = net.kernel.numpy()
    digests = {
        sha256_of_arrays(named)
        for named in (
            [("a", values)],
            [("b", values)],
            [("a", values.T)],
            [("a", values.reshape(-1))],
            [("a", values.view("int32"))],
            [("a", values), ("b", values)],
            [],
        )
    }
    assert len(digests) == 7


def test_a_folder_is_its_files(tmp_path):
    def digest(**files):
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        folder.mkdir()
        for name, text in files.items():
            (folder / name).write_text(text)
        return sha256_of_folder(folder)

    assert digest(a="1", b="2") == digest(b="2", a="1")
    assert len({digest(a="1", b="2"), digest(a="12", b=""), digest(a="2", b="1")}) == 3


@given(length=st.integers(8, 64), upper=st.booleans())
def test_every_prefix_of_the_digest_is_accepted(length, upper):
    prefix = DIGEST[:length]
    check_sha256("x.sha256", DIGEST, prefix.upper() if upper else prefix, "x")
    check_sha256("x.sha256", DIGEST, None, "x")


@given(length=st.integers(8, 64), wrong=st.integers(0, 63))
def test_every_other_digest_is_refused_with_both_digests(length, wrong):
    wrong %= length
    other = DIGEST[:wrong] + ("0" if DIGEST[wrong] != "0" else "1") + DIGEST[wrong + 1 : length]
    with pytest.raises(InputError) as caught:
        check_sha256("x.sha256", DIGEST, other, "net.pb")
    for part in (other, DIGEST, "net.pb", f"set x.sha256 = '{DIGEST[:16]}'"):
        assert part in str(caught.value)


@pytest.mark.parametrize("expected", ["1234567", "", "xyz" * 5, 12345678, DIGEST + "0"])
def test_what_is_no_digest_is_refused(expected):
    with pytest.raises(InputError, match=r"x.sha256 must be a string of 8 to 64 hex digits"):
        check_sha256("x.sha256", DIGEST, expected, "x")


def test_bytes_are_hashed_as_everyone_does():
    assert sha256_of_bytes(b"weights") == DIGEST
