"""Damaged and hostile artifacts are refused in words, whatever they hold."""

import copy
import dataclasses
import functools
import hashlib
import io
import json
import os
import pickle
import struct
import subprocess
import sys
import zipfile

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tensorflow.lite.python import schema_py_generated as schema

from stugan_tf.errors import InputError
from stugan_tf.serving import artifact, compact
from stugan_tf.serving import lite as lite_module
from stugan_tf.serving.folding import fold_into_plain_layers
from stugan_tf.serving.formats import FORMATS
from stugan_tf.serving.graph import Graph, Node, to_keras
from stugan_tf.serving.interface import Interface
from stugan_tf.serving.loading import load
from tests.helpers.params import examples

INTERFACE = Interface(4, (4, 4, 3), 3, True)
NAME = FORMATS["sparse"].file
NOTHING = {"bytes": 0, "sha256": hashlib.sha256(b"").hexdigest()}


@functools.cache
def model():
    """The smallest conditional generator with a sparse kernel."""
    keras.utils.set_random_seed(0)
    latents, labels = keras.Input([4]), keras.Input([], dtype="int32")
    outputs = keras.layers.Add()([latents, keras.layers.Embedding(3, 4)(labels)])
    outputs = keras.layers.Reshape([2, 2, 3])(keras.layers.Dense(12)(outputs))
    # The smallest that TensorFlow Lite's converter stores sparse.
    convolution = keras.layers.Conv2D(16, 3, padding="same")
    outputs = convolution(keras.layers.UpSampling2D()(keras.layers.ReLU()(outputs)))
    outputs = keras.layers.Conv2D(3, 1, activation="tanh")(outputs)
    random = np.random.default_rng(0)
    kernel = convolution.kernel.numpy()
    convolution.kernel.assign(kernel * (random.random(kernel.shape) < 0.1))
    return keras.Model([latents, labels], outputs)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """The bytes of a sparse file."""
    path = tmp_path_factory.mktemp("sparse") / NAME
    compact.write(
        path, fold_into_plain_layers(model()), "float32", {"interface": INTERFACE.to_json()}
    )
    assert load(path)(2).shape == (2, 4, 4, 3)
    return path.read_bytes()


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    """A path to write to, example after example."""
    return tmp_path_factory.mktemp("scratch") / NAME


def refused(path, data):
    """The message that bytes at a path are refused with; fails if they are not."""
    path.write_bytes(data)
    with pytest.raises(InputError) as told:
        load(path)
    return str(told.value)


def read_or_refused(path):
    """Loads a file that may be wrong; fails if anything but InputError comes of it."""
    try:
        load(path)
    except InputError as error:
        message = str(error)
    else:
        return
    assert 20 < len(message) < 2000


def header_of(data):
    (length,) = struct.unpack("<Q", data[:8])
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def sealed(header, body):
    """A file whose checksum is right, whatever it says."""
    header = copy.deepcopy(header)
    header["__metadata__"]["sha256"] = "0" * 64
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    data = struct.pack("<Q", len(text)) + text + body
    return data.replace(b"0" * 64, hashlib.sha256(data).hexdigest().encode(), 1)


def with_manifest(data, change):
    """The file, with its manifest changed by a function, sealed anew."""
    header, body = header_of(data)
    manifest = json.loads(header["__metadata__"]["manifest"])
    change(manifest)
    header["__metadata__"]["manifest"] = json.dumps(manifest)
    return sealed(header, body)


def test_a_sealed_file_is_read(data, scratch):
    scratch.write_bytes(with_manifest(data, lambda manifest: None))
    assert load(scratch)(1, labels=2).shape == (1, 4, 4, 3)


@given(st.data())
def test_any_flipped_bit_is_noticed(data, scratch, draw):
    position = draw.draw(st.integers(0, 8 * len(data) - 1))
    flipped = bytearray(data)
    flipped[position // 8] ^= 1 << position % 8
    refused(scratch, bytes(flipped))


@given(st.data())
def test_any_cut_is_noticed(data, scratch, draw):
    refused(scratch, data[: draw.draw(st.integers(0, len(data) - 1))])


@given(st.binary(max_size=200))
def test_bytes_that_are_no_file_are_refused(scratch, data):
    refused(scratch, data)


VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.text(max_size=5),
    st.sampled_from(["Lambda", "TFSMLayer", "InputLayer", "Dense", "latents", 2**31, [2**20] * 4]),
    st.just([]),
    st.just({}),
)


def places(values, path=()):
    """The paths of all values inside lists and dictionaries."""
    entries = values.items() if isinstance(values, dict) else enumerate(values)
    for key, value in entries:
        yield (*path, key)
        if isinstance(value, (dict, list)):
            yield from places(value, (*path, key))


@pytest.mark.ci
@examples(33)
@given(st.data())
def test_any_change_of_a_sealed_manifest_is_read_or_refused(data, scratch, draw):
    def change(manifest):
        *path, last = draw.draw(st.sampled_from(sorted(places(manifest), key=str)))
        inside = functools.reduce(lambda values, key: values[key], path, manifest)
        inside[last] = draw.draw(VALUES)

    scratch.write_bytes(with_manifest(data, change))
    read_or_refused(scratch)


@given(st.data())
def test_any_change_of_a_sealed_header_is_read_or_refused(data, scratch, draw):
    header, body = header_of(data)
    *path, last = draw.draw(st.sampled_from(sorted(places(header), key=str)))
    inside = functools.reduce(lambda values, key: values[key], path, header)
    inside[last] = draw.draw(VALUES)
    header.setdefault("__metadata__", {})
    if not isinstance(header["__metadata__"], dict):
        header["__metadata__"] = {}
    scratch.write_bytes(sealed(header, body))
    read_or_refused(scratch)


@examples(33)
@given(st.data())
def test_any_change_of_a_sealed_body_is_read_or_refused(data, scratch, draw):
    header, body = header_of(data)
    body = bytearray(body)
    for _ in range(draw.draw(st.integers(1, 8))):
        body[draw.draw(st.integers(0, len(body) - 1))] = draw.draw(st.integers(0, 255))
    scratch.write_bytes(sealed(header, bytes(body)))
    read_or_refused(scratch)


def layer(manifest, kind):
    layers = manifest["model"]["config"]["layers"]
    return next(entry for entry in layers if entry["class_name"] == kind)


def set_argument(kind, name, value):
    def change(manifest):
        layer(manifest, kind)["config"][name] = value

    return change


def set_tensor(weight, name, value):
    def change(manifest):
        tensors = manifest["tensors"]
        tensors[next(key for key in tensors if key.endswith(weight))][name] = value

    return change


def add_tensor(name):
    """Puts one more weight into the manifest, and its float at the end of the body."""

    def added(data):
        header, body = header_of(data)
        manifest = json.loads(header["__metadata__"]["manifest"])
        manifest["tensors"][name] = {"shape": [1]}
        header["__metadata__"]["manifest"] = json.dumps(manifest)
        header[name] = {
            "dtype": "F32",
            "shape": [1],
            "data_offsets": [len(body), len(body) + 4],
        }
        return sealed(header, body + bytes(4))

    return added


@pytest.mark.parametrize("name", ["latents/x", "latents/name", "labels/dtype"])
def test_an_input_has_no_weights(data, scratch, name):
    assert "has weights, but inputs have none" in refused(scratch, add_tensor(name)(data))


def rename(name):
    def change(manifest):
        former = json.dumps(layer(manifest, "ReLU")["name"])
        text = json.dumps(manifest["model"]).replace(former, json.dumps(name))
        manifest["model"] = json.loads(text)

    return change


@pytest.mark.parametrize("name", ["", "a b", "a/b", "a\\b", "a:0", "%s{}", "é", "x" * 201, "\n"])
def test_a_name_that_tensorflow_does_not_take_is_refused(data, scratch, name):
    assert "A layer has the name" in refused(scratch, with_manifest(data, rename(name)))


def add_unused(manifest):
    entry = copy.deepcopy(layer(manifest, "ReLU"))
    manifest["model"]["config"]["layers"].append({**entry, "name": "unused"})


def end_early(manifest):
    manifest["model"]["config"]["output_layers"] = ["latents", 0, 0]


@pytest.mark.parametrize(
    ("change", "told"), [(add_unused, "'unused' (ReLU)"), (end_early, "does not lead to")]
)
def test_every_layer_leads_to_the_output(data, scratch, change, told):
    assert told in refused(scratch, with_manifest(data, change))


def test_all_layers_together_are_bounded():
    """Any of these may be so large, but not many of them."""
    size = {"size": (64, 64), "interpolation": "nearest", "data_format": "channels_last"}
    nodes = [
        Node("latents", "InputLayer", {"batch_shape": (None, 2**13), "dtype": "float32"}, []),
        Node("image", "Reshape", {"target_shape": (1, 1, 2**13)}, ["latents"]),
        *(Node(f"large_{n}", "UpSampling2D", size, ["image"]) for n in range(17)),
        Node("sum", "Add", {}, [f"large_{n}" for n in range(17)]),
    ]
    with pytest.raises(InputError, match="layers make more than 536,870,912 numbers"):
        to_keras(Graph({node.name: node for node in nodes}, ["latents"], "sum"))


def turn_into_lambda(manifest):
    entry = layer(manifest, "ReLU")
    code = {"class_name": "__lambda__", "config": {"value": "4wEAAAA="}}
    entry |= {"class_name": "Lambda", "config": {"name": "x", "function": code}}


def add_many(manifest):
    manifest["model"]["config"]["layers"] *= 1000


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (turn_into_lambda, "is of class 'Lambda'. Models in artifacts have only"),
        (set_argument("Dense", "activation", "os.system"), "activation = 'os.system'"),
        (set_argument("Dense", "units", 2**40), "units = 1099511627776: it must be an integer"),
        (set_argument("Dense", "units", 2**24), "its inputs need"),
        (set_argument("Conv2D", "filters", 2**24), "its inputs need"),
        (set_argument("UpSampling2D", "size", [64, 64]), ""),
        (set_argument("Reshape", "target_shape", [2**24, 2**24]), "does not fit the model"),
        (set_argument("Conv2D", "data_format", "channels_first"), "must be 'channels_last'"),
        (set_tensor("/kernel", "shape", [2**30]), "weights; up to"),
        (set_tensor("/kernel", "shape", [2**30] * 8), "weights; up to"),
        (set_tensor("/kernel", "shape", [-1, 12]), "damaged"),
        (set_tensor("/kernel", "nonzero", 5), "damaged"),
        (add_many, "layers; 1 to 4096 are allowed"),
        (lambda manifest: manifest.update(interface={}), "description of the generator"),
        (
            lambda manifest: manifest["interface"].update(latent_dim=5),
            "does not fit its description",
        ),
        (
            lambda manifest: manifest["interface"].update(num_classes=4),
            "does not fit its description",
        ),
        (lambda manifest: manifest["interface"].update(image_shape=[4, 4, 1]), "does not fit its"),
        (lambda manifest: manifest.update(model=[[]]), "damaged"),
    ],
)
def test_what_a_hostile_manifest_asks_for_is_refused(data, scratch, change, told):
    assert told in refused(scratch, with_manifest(data, change))


@pytest.mark.parametrize(
    ("version", "told"), [("2", "of version '2' of its format"), ("", "of version ''")]
)
def test_another_version_is_told(data, scratch, version, told):
    header, body = header_of(data)
    header["__metadata__"]["version"] = version
    assert told in refused(scratch, sealed(header, body))


class Harmful:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


def test_a_pickle_is_not_opened(tmp_path):
    trap = tmp_path / "sprung"
    array = np.array([Harmful(str(trap))], dtype=object)
    buffer = io.BytesIO()
    np.savez(buffer, kernel=array)
    for data in (pickle.dumps(Harmful(str(trap))), buffer.getvalue()):
        refused(tmp_path / NAME, data)
    assert not trap.exists()


def test_a_bomb_is_not_unpacked(tmp_path):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("kernel.npy", bytes(2**26))
    refused(tmp_path / NAME, buffer.getvalue())


@pytest.mark.parametrize("length", [2**63, 2**40, 2**23 + 1, 0])
def test_a_header_of_any_length_is_bounded(scratch, length):
    refused(scratch, struct.pack("<Q", length) + b"{}" * 100)


def test_deep_json_is_refused(data, scratch):
    header, body = header_of(data)
    header["__metadata__"]["manifest"] = "[" * 200_000
    refused(scratch, sealed(header, body))


BOUNDED = """
import resource, sys
from stugan_tf.errors import InputError
from stugan_tf.serving import load
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for path in sys.argv[1:]:
    try:
        load(path)
    except InputError as error:
        continue
    raise SystemExit(path + " was read")
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.ci
def test_what_is_refused_takes_little_memory(data, tmp_path):
    """In a process of its own, whose peak is that of loading hostile files."""
    changes = [
        set_argument("Dense", "units", 2**24),
        set_argument("Embedding", "output_dim", 2**24),
        set_tensor("/kernel", "shape", [2**28]),
        set_tensor("/kernel", "nonzero", 2**40),
        set_argument("UpSampling2D", "size", [64, 64]),
    ]
    paths = []
    for number, change in enumerate(changes):
        paths.append(tmp_path / f"{number}.safetensors")
        paths[-1].write_bytes(with_manifest(data, change))
    command = [sys.executable, "-W", "ignore", "-c", BOUNDED, *map(str, paths)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 100 * 1024  # KiB


@pytest.fixture
def folder(data, tmp_path):
    """An artifact with a file besides its model."""
    folder = tmp_path / "out" / "1"
    folder.mkdir(parents=True)
    (folder / NAME).write_bytes(data)
    (folder / "notes.md").write_text("notes")
    artifact.write_manifest(folder, "sparse", INTERFACE)
    assert load(folder.parent)(1).shape == (1, 4, 4, 3)
    return folder


def changed(folder, change):
    path = folder / artifact.MANIFEST
    manifest = json.loads(path.read_text())
    change(manifest)
    manifest["sha256"] = artifact.digest_of(manifest)
    path.write_text(json.dumps(manifest))
    with pytest.raises(InputError) as told:
        load(folder.parent)
    return str(told.value)


@pytest.mark.parametrize(
    "name", ["../../secret", "/etc/passwd", "a/../../secret", "..", "", "a\0b", "a\\b"]
)
def test_a_manifest_names_no_file_outside(folder, name):
    (folder.parent.parent / "secret").write_text("notes")

    def change(manifest):
        manifest["files"][name] = manifest["files"].pop("notes.md")

    assert "missing or damaged" in changed(folder, change)


def test_a_link_is_no_file_of_an_artifact(folder, tmp_path):
    (tmp_path / "secret").write_text("notes")
    (folder / "notes.md").unlink()
    (folder / "notes.md").symlink_to(tmp_path / "secret")
    assert "'notes.md' is missing, or is a link" in changed(folder, lambda manifest: None)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda manifest: manifest.update(version=1), "of version 1 of artifacts"),
        (lambda manifest: manifest.update(version=2.0), "of version 2.0 of artifacts"),
        (
            lambda manifest: manifest.update(kind="pickle"),
            "is of format 'pickle'; this stugan_tf reads",
        ),
        (lambda manifest: manifest.update(kind=["sparse"]), "missing or damaged"),
        (lambda manifest: manifest.update(kind="tflite"), "missing or damaged"),
        (lambda manifest: manifest.update(kind="saved_model"), "missing or damaged"),
        (lambda manifest: manifest["files"].pop(NAME), "missing or damaged"),
        (lambda manifest: manifest["files"][NAME].update(bytes=2**35), "missing or damaged"),
        (lambda manifest: manifest["files"][NAME].update(bytes=10**4000), "missing or damaged"),
        (
            lambda manifest: manifest["files"].update({"x" * 300: NOTHING}),
            "missing, or is a link",
        ),
        (
            lambda manifest: manifest["files"].update({"x/" * 3000: NOTHING}),
            "missing, or is a link",
        ),
        (lambda manifest: manifest["files"][NAME].update(bytes=5), "bytes, not 5"),
        (lambda manifest: manifest["files"][NAME].update(sha256="0" * 64), "as it was written"),
        (lambda manifest: manifest["interface"].update(latent_dim=2**40), "description"),
        (lambda manifest: manifest["interface"].update(latent_dim=9), "another generator"),
        (lambda manifest: manifest["interface"].update(extra=1), "description"),
        (lambda manifest: manifest.pop("interface"), "description"),
    ],
)
def test_a_wrong_manifest_is_told(folder, change, told):
    assert told in changed(folder, change)


def test_any_change_of_the_manifest_is_noticed(folder):
    text = (folder / artifact.MANIFEST).read_text()
    for position, character in enumerate(text):
        if character.isalnum():
            changed = f"{text[:position]}{chr(ord(character) ^ 1)}{text[position + 1 :]}"
            (folder / artifact.MANIFEST).write_text(changed)
            with pytest.raises(InputError, match=r"of artifacts|missing or damaged"):
                artifact.read_manifest(folder)


def test_a_pipe_is_not_waited_for(folder):
    (folder / artifact.MANIFEST).unlink()
    os.mkfifo(folder / artifact.MANIFEST)
    with pytest.raises(InputError, match="missing or damaged"):
        load(folder.parent)


def test_only_digits_that_int_writes_number_a_version(folder):
    (folder.parent / "1٣").mkdir()  # int() reads this as 13.
    assert artifact.versions(folder.parent) == [1]


@pytest.mark.parametrize("text", ["", "{", "[]", "[" * 200_000, '"' + "x" * 2**23 + '"'])
def test_a_manifest_that_is_none_is_told(folder, text):
    (folder / artifact.MANIFEST).write_text(text)
    with pytest.raises(InputError, match="missing or damaged"):
        load(folder)


def test_a_damaged_file_is_told_whatever_it_is_for(folder):
    (folder / "notes.md").write_text("nOtes")
    with pytest.raises(InputError, match="as it was written"):
        load(folder)


def test_no_artifact_is_told(tmp_path):
    with pytest.raises(InputError, match="There is no artifact"):
        load(tmp_path / "nothing")
    with pytest.raises(InputError, match="is not an artifact"):
        load(tmp_path)


@pytest.fixture(scope="module")
def lite(tmp_path_factory):
    """The bytes of a .tflite file with a sparse constant."""
    path = tmp_path_factory.mktemp("lite") / "generator.tflite"
    weights = lite_module.write(path, model(), INTERFACE, "float32", (1,))
    assert any(weight.sparse for weight in weights)
    return path.read_bytes()


def lite_artifact(data, folder):
    folder.mkdir()
    (folder / FORMATS["tflite"].file).write_bytes(data)
    artifact.write_manifest(folder, "tflite", INTERFACE)
    return folder


def test_classes_that_a_tflite_file_does_not_have_are_told(lite, tmp_path):
    path = tmp_path / "x.tflite"
    path.write_bytes(lite)
    interface = dataclasses.replace(INTERFACE, num_classes=4)
    with pytest.raises(InputError, match="cannot be run by TensorFlow Lite"):
        lite_module.read(path, interface)


def test_a_tflite_file_of_any_size_is_not_read_whole(tmp_path):
    path = tmp_path / FORMATS["tflite"].file
    path.write_bytes(b"")
    os.truncate(path, 2**42)  # It takes nothing on the disk.
    with pytest.raises(InputError, match="has more than 2,147,483,647 bytes"):
        lite_module.read(path, INTERFACE)


def test_what_fails_in_tflite_is_told(lite, tmp_path):
    """ADD of one operand: nothing that its own checks before the first run would notice."""
    model = schema.Model.GetRootAsModel(bytearray(lite), 0)
    graph = model.Subgraphs(0)
    changed = bytearray(lite)
    for operation in map(graph.Operators, range(graph.OperatorsLength())):
        if operation.InputsLength() == 2:
            start = operation._tab.Vector(operation._tab.Offset(6))
            changed[start - 4 : start] = struct.pack("<I", 1)
    with pytest.raises(InputError, match="cannot be run by TensorFlow Lite"):
        load(lite_artifact(bytes(changed), tmp_path / "1"))
