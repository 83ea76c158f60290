"""The library for other processors and the WebAssembly module draw what the one of this one does.

What this machine lacks (Node.js; Zig and qemu-aarch64) is skipped, in words.
"""

import json
import shutil
import subprocess

import numpy as np
import pytest

import build_wasm
import stugan_runtime
from conftest import ROOT
from sparse_files import served, write
from stugan_runtime.generator import PRECISIONS

FAMILIES = ["sngan", "biggan", "biggan_imagenet"]
TESTS = ROOT / "tests"
WEB = ROOT.parent / "stugan_tf" / "serving" / "web"


def needed(program, package):
    """Path of a program; without it the test is skipped."""
    path = shutil.which(program)
    if path is None:
        pytest.skip(f"There is no {program} on the path. Debian: apt-get install {package}")
    return path


@pytest.fixture
def compare(tmp_path):
    """`(command, family) -> instruction set`: compares what a program draws with what we draw."""

    def compare(command, family):
        file, output = tmp_path / "generator.safetensors", tmp_path / "images"
        write(file, *served(family))
        generator = stugan_runtime.load(file, 1)
        for truncation, label in ((None, None), (0.7, 3 if generator.conditional else None)):
            given = (20, 3, truncation or 0, -1 if label is None else label)  # More than one batch.
            done = subprocess.run(
                [*command, file, *map(str, given), output], capture_output=True, text=True
            )
            assert done.returncode == 0, done.stderr
            expected = generator(20, seed=3, truncation=truncation, labels=label, dtype="float32")
            found = np.fromfile(output, np.float32).reshape(expected.shape)
            np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
        return done.stdout.strip()

    return compare


def in_node(module):
    """Command that draws by a module."""
    return [needed("node", "nodejs"), TESTS / "draw.js", WEB / "generator.js", module]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_module_of_pages_draws_the_same_images(compare, family):
    assert compare(in_node(build_wasm.MODULE), family) == "simd128"


@pytest.mark.parametrize("cut", [0, 8, 100, 1000, -1])
def test_the_module_refuses_a_damaged_file_in_words(tmp_path, cut):
    file = tmp_path / "generator.safetensors"
    file.write_bytes(write(file, *served("sngan"))[:cut])
    command = [*in_node(build_wasm.MODULE), file, "1", "0", "0", "-1", tmp_path / "images"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert "Copy or export it again" in done.stderr


def test_the_module_of_pages_is_that_of_the_sources():
    """`make wasm` builds it again, and writes down of what."""
    assert not build_wasm.changed()
    assert json.loads(build_wasm.RECORD.read_text())["size"] == build_wasm.MODULE.stat().st_size


@pytest.fixture(scope="module")
def build(tmp_path_factory):
    """`(target) -> library`. The first build for a target takes minutes: that of Zig's own."""
    if build_wasm.zig() is None:
        pytest.skip("There is no Zig: pip install ziglang")
    return lambda target: build_wasm.build(target, tmp_path_factory.mktemp(target))


@pytest.mark.slow
def test_the_module_is_built_again_byte_for_byte(build):
    record = json.loads(build_wasm.RECORD.read_text())
    version = subprocess.run([build_wasm.zig(), "version"], capture_output=True, text=True).stdout
    if record["compiler"] != f"zig {version.strip()}":
        pytest.skip(f"The module was built by {record['compiler']}, this is {version.strip()}.")
    assert build_wasm.digest(build("wasm32-wasi")) == record["sha256"]


@pytest.mark.slow
def test_aarch64_draws_the_same_images(build, compare, tmp_path):
    emulator = needed("qemu-aarch64", "qemu-user")
    folder = build("aarch64-linux-musl").parent
    # Linked in, because an emulated program finds no libraries of its own here.
    objects = [path for path in folder.rglob("*.o") if path.name.endswith(".cc.o")]
    program = tmp_path / "draw"
    command = [build_wasm.zig(), "c++", "-target", "aarch64-linux-musl", "-std=c++17", "-O1"]
    command += [f"-I{ROOT / 'include'}", TESTS / "draw.cc", *objects, "-o", program]
    subprocess.run(command, check=True)
    for family in FAMILIES:
        assert compare([emulator, program], family) == "neon"
    for family in ("sngan", "biggan_imagenet"):
        check_half_precision([emulator, program], family, tmp_path)


def check_half_precision(command, family, tmp_path):
    """Images in half precision are near those in single precision, and others."""
    file, output = tmp_path / "generator.safetensors", tmp_path / "images"
    write(file, *served(family))
    float16 = str(PRECISIONS["float16"])
    command = [*command, file, "20", "3", "0", "-1", output, float16]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "neon-fp16"
    expected = stugan_runtime.load(file, 1, "float32")(20, seed=3, dtype="float32")
    steps = 127.5 * (np.fromfile(output, np.float32).reshape(expected.shape) - expected)
    assert 0 < np.sqrt(np.mean(steps**2)) <= 0.5
