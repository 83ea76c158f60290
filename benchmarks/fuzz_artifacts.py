"""Attacks the readers of artifacts with hostile files, and reports what happened.

    python -m benchmarks.fuzz_artifacts [--minutes=5] [--targets=sparse,manifest] [--seed=0]
        [--keep=DIR]

Each case is a function of its number: a mutation of an intact artifact with a right checksum, so
that the code behind the checksum is tested. Cases run in a child process that may take 4 GiB of
memory beyond what TensorFlow takes at its start. A case is

- `read`; one in ten of these also draws an image;
- `refused` by an InputError;
- or a finding: another exception, a crash, or more than 20 s. Findings are printed with their
  number and kept in --keep, and the exit code is 1.
"""

import collections
import contextlib
import copy
import hashlib
import json
import pathlib
import random
import resource
import struct
import subprocess
import sys
import tempfile
import time

from absl import app, flags

TARGETS = ("sparse", "manifest")  # files of other formats are trusted input

_MINUTES = flags.DEFINE_float("minutes", 5, "Minutes for all targets together.")
_TARGETS = flags.DEFINE_list("targets", list(TARGETS), "What to attack.")
_SEED = flags.DEFINE_integer("seed", 0, "Number of the first case.")
_KEEP = flags.DEFINE_string("keep", None, "Folder for findings.")
_CHILD = flags.DEFINE_string("child", None, "Folder of the intact artifacts; for internal use.")

MEMORY = 4 * 2**30
SECONDS = 20
BATCH = 200  # cases of a child process
VALUES = (
    *(None, True, False, 0, 1, -1, 2, 3, 4, 7, 12, 64, 255, 2**16, 2**20, 2**24, 2**31, 2**53),
    *(2**63, 2**64, -(2**31), 1e308, 0.5, "", "x", "latents", "labels", "Lambda", "TFSMLayer"),
    *("Dense", "Conv2D", "Embedding", "Attention", "Multiply", "relu", "same", "bilinear"),
    *("float32", "int64", "F64", "U8", "BF16", "../x", "/etc/passwd", "a/b"),
    *([], {}, [[]], [None], [2**20] * 4, [2**31, 2**31], [0], [-1], [1, 1, 1], {"x": {}}),
)
NAMES = ("x", "latents", "latents/x", "labels/dtype", "dense/kernel", "sha256", "../x", "x" * 300)


def small_generator():
    """A conditional generator with most kinds of layers, few of each."""
    import keras
    from keras import layers

    latents, labels = keras.Input([4]), keras.Input([], dtype="int32")
    vectors = layers.Concatenate()([latents, layers.Embedding(3, 4)(labels)])
    images = layers.Reshape([2, 2, 16])(layers.Dense(64)(vectors))
    images = layers.UpSampling2D()(layers.ReLU()(layers.BatchNormalization()(images)))
    query = layers.Reshape([-1, 16])(images)
    value = layers.Reshape([-1, 16])(layers.MaxPooling2D()(images))
    attended = layers.Reshape([4, 4, 16])(layers.Attention()([query, value, value]))
    scale = layers.Reshape([1, 1, 16])(layers.Embedding(3, 16)(labels))
    images = layers.Add()([layers.Multiply()([attended, scale]), images])
    images = layers.LeakyReLU()(layers.Conv2D(16, 3, padding="same")(images))
    images = layers.Conv2DTranspose(3, 4, 2, "same", activation="tanh")(images)
    return keras.Model([latents, labels], images)


def interface():
    """The interface of that generator."""
    from stugan_tf.serving.interface import Interface

    return Interface(4, (8, 8, 3), 3, conditional=True)


def write_intact(folder):
    """Writes the artifact whose mutations are the cases."""
    from stugan_tf.serving import artifact
    from stugan_tf.serving.folding import fold_into_plain_layers
    from stugan_tf.serving.formats import FORMATS, Settings
    from stugan_tf.sparsity.sparsify import sparsify

    graph = fold_into_plain_layers(sparsify(small_generator(), 0.8))
    FORMATS["sparse"].write(folder, graph, interface(), Settings())
    artifact.write_manifest(folder, "sparse", interface())


def changed_value(chance, values):
    """Replaces, removes, renames or repeats one value of nested lists and dictionaries."""
    inside = values
    while True:
        keys = list(inside) if isinstance(inside, dict) else list(range(len(inside)))
        key = chance.choice(keys)
        deeper = inside[key]
        if isinstance(deeper, (dict, list)) and deeper and chance.random() < 0.9:
            inside = deeper
            continue
        what = chance.randrange(8)
        if what == 0:
            del inside[key]
        elif what == 1 and isinstance(inside, list):
            inside.insert(key, copy.deepcopy(chance.choice(inside)))
        elif what == 1:
            inside[chance.choice(NAMES)] = inside.pop(key)
        elif what == 2 and isinstance(deeper, int):
            inside[key] = deeper + chance.choice([-1, 1])
        else:
            inside[key] = copy.deepcopy(chance.choice(VALUES))
        return


def changed_bytes(chance, data):
    """Bits flipped, numbers set, pieces cut, moved or repeated."""
    data = bytearray(data)
    for _ in range(chance.choice([1, 1, 2, 4, 16])):
        if len(data) <= 8:
            break
        position = chance.randrange(len(data) - 4)
        what = chance.randrange(6)
        if what == 0:
            data[position] ^= 1 << chance.randrange(8)
        elif what == 1:
            data[position] = chance.choice([0, 1, 127, 128, 255])
        elif what == 2:
            number = chance.choice([0, 1, 2**31 - 1, 2**31, 2**32 - 1, len(data), 2**16])
            data[position : position + 4] = struct.pack("<I", number)
        elif what == 3 and chance.random() < 0.2:
            del data[position:]
        elif what == 4:
            size = chance.randrange(1, 32)
            source = chance.randrange(len(data))
            data[position : position + size] = data[source : source + size]
        else:
            (number,) = struct.unpack("<i", data[position : position + 4])
            number = (number + chance.choice([-4, -1, 1, 4])) % 2**32
            data[position : position + 4] = struct.pack("<I", number)
    return bytes(data)


def hostile_sparse(chance, data):
    """A sparse file whose header, manifest or tensors are changed, with a right checksum."""
    (length,) = struct.unpack("<Q", data[:8])
    header, body = json.loads(data[8 : 8 + length]), data[8 + length :]
    what = chance.choice(["manifest", "manifest", "manifest", "header", "body", "raw"])
    if what == "raw":
        return changed_bytes(chance, data)
    if what == "body":
        body = changed_bytes(chance, body)
    if what == "header":
        changed_value(chance, header)
    metadata = header.get("__metadata__")
    if what == "manifest":
        manifest = json.loads(metadata["manifest"])
        for _ in range(chance.choice([1, 1, 2, 3])):
            changed_value(chance, manifest)
            if not manifest:
                break
        metadata["manifest"] = json.dumps(manifest)
    if isinstance(metadata, dict):
        metadata["sha256"] = "0" * 64
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    data = struct.pack("<Q", len(text)) + text + body
    return data.replace(b"0" * 64, hashlib.sha256(data).hexdigest().encode(), 1)


def attack(target, intact, case, path):
    """Reads one hostile artifact. Returns whether it was accepted."""
    from stugan_tf.errors import InputError
    from stugan_tf.serving import artifact, loading
    from stugan_tf.serving.formats import FORMATS

    name = FORMATS["sparse"].file
    chance = random.Random(f"{target} {case}")
    if target == "manifest":
        manifest = json.loads((intact / artifact.MANIFEST).read_text())
        if chance.random() < 0.9:
            changed_value(chance, manifest)
            if chance.random() < 0.9:
                manifest["sha256"] = artifact.digest_of(manifest)
            data = json.dumps(manifest).encode()
        else:
            data = changed_bytes(chance, json.dumps(manifest).encode())
    else:
        data = hostile_sparse(chance, (intact / name).read_bytes())
    path.write_bytes(data)
    try:
        if target == "sparse":
            generator = loading.load(path)
            if chance.random() < 0.1:  # It takes far longer than all else.
                generator(1, dtype="float32")
        else:
            folder = path.with_name("artifact")
            folder.mkdir(exist_ok=True)
            (folder / name).write_bytes((intact / name).read_bytes())
            path.rename(folder / artifact.MANIFEST)
            loading.load(folder)
    except InputError:
        return False
    return True


def run_child(folder):
    """Runs the cases that its input names, one per line, and answers each."""
    import tensorflow as tf

    tf.zeros([1]).numpy()
    used = int(pathlib.Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
    print("ready", flush=True)
    for line in sys.stdin:
        target, case = line.split()
        try:
            answer = "read" if attack(target, folder, case, folder / "case") else "refused"
        except Exception as error:  # This is a finding.
            answer = f"{type(error).__name__}: {str(error).strip()[:150]!r}"
        print(f"answer {answer}", flush=True)


class Child:
    """A process that runs cases."""

    def __init__(self, folder):
        module = [sys.executable, "-W", "ignore", "-m", "benchmarks.fuzz_artifacts"]
        self._process = subprocess.Popen(
            [*module, f"--child={folder}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self._process.stdout.readline()  # TensorFlow is there now.

    def run(self, target, case):
        """The answer; 'crash' with the exit code if there is none."""
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(f"{target} {case}\n")
            self._process.stdin.flush()
            for line in self._process.stdout:
                if line.startswith("answer "):
                    return line.removeprefix("answer ").strip()
        return f"crash {self._process.wait()}"

    def close(self):
        """Lets it end."""
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.wait()


flags.register_validator(
    "targets",
    lambda targets: set(targets) <= set(TARGETS),
    f"--targets must be some of {', '.join(TARGETS)}.",
)


def main(_):
    if _CHILD.value:
        run_child(pathlib.Path(_CHILD.value))
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = pathlib.Path(scratch)
        write_intact(folder)
        findings = sum(run_target(target, folder) for target in _TARGETS.value)
    sys.exit(bool(findings))


def run_target(target, folder):
    """Attacks one target for its share of the time. Returns the number of findings."""
    end = time.monotonic() + 60 * _MINUTES.value / len(_TARGETS.value)
    counts, findings, case, child = collections.Counter(), 0, _SEED.value, Child(folder)
    while time.monotonic() < end:
        start = time.monotonic()
        answer = child.run(target, case)
        slow = time.monotonic() - start > SECONDS
        if answer in ("read", "refused") and not slow:
            counts[answer] += 1
        else:
            findings += 1
            counts["findings"] += 1
            print(f"{target} {case}: {answer}{' (slow)' if slow else ''}", flush=True)
            if _KEEP.value and (folder / "case").exists():
                keep = pathlib.Path(_KEEP.value)
                keep.mkdir(parents=True, exist_ok=True)
                (keep / f"{target}_{case}").write_bytes((folder / "case").read_bytes())
        case += 1
        if answer.startswith("crash") or (case - _SEED.value) % BATCH == 0:
            child.close()
            child = Child(folder)
    child.close()
    print(f"{target}: {case - _SEED.value} cases, {dict(counts)}", flush=True)
    return findings


if __name__ == "__main__":
    app.run(main)
