"""The wheel is the product: in a new environment, outside of a checkout, without a compiler."""

import os
import pathlib
import shutil
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
SHORT = (
    "Algorithm.total_steps = 4",
    "train.steps_per_execution = 2",
    "train.log_every = 2",
    *(f"train.{what}_every = 4" for what in ("sample", "evaluate", "checkpoint")),
)
# Others than the one at hand are tried where they are installed.
PYTHONS = [sys.executable, "python3.10", "python3.13"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    place = tmp_path_factory.mktemp("wheel")
    source = place / "source"
    names = subprocess.check_output(["git", "ls-files", "-z"], cwd=ROOT, text=True).split("\0")
    for name in filter(None, names):
        if name.startswith(("stugan_tf/", "gin/")) or "/" not in name:
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, source / name)
    operation = source / "build" / "prebuilt"
    compile_it = [sys.executable, "-m", "stugan_tf.kernels.library", operation]
    subprocess.run(compile_it, check=True, cwd=ROOT)
    build = [sys.executable, "-m", "pip", "wheel", "--no-deps", f"--wheel-dir={place}", source]
    prebuilt = {**os.environ, "STUGAN_TF_PREBUILT": str(operation)}
    subprocess.run(build, check=True, env=prebuilt)
    (path,) = place.glob("*.whl")
    assert path.name.endswith("-py3-none-linux_x86_64.whl")
    return path


@pytest.fixture(scope="module", params=PYTHONS)
def installed(request, wheel, tmp_path_factory):
    """(an environment with the wheel and what it requires, a folder to work in)."""
    place = tmp_path_factory.mktemp("installed")
    # A command of this name may be a version manager's that refuses to run.
    create = [request.param, "-m", "venv", place / "venv"]
    if shutil.which(request.param) is None or subprocess.run(create).returncode:
        pytest.skip(f"there is no {request.param}")
    python = place / "venv" / "bin" / "python"
    constraint = f"--constraint={ROOT / 'constraints.txt'}"
    subprocess.run([python, "-m", "pip", "install", constraint, wheel], check=True)
    (place / "work").mkdir()
    yield python.parent, place / "work"
    shutil.rmtree(place)  # It has gigabytes.


@pytest.fixture(scope="module")
def start(installed):
    """Runs a program of the environment, which is all that is on the PATH."""
    scripts, work = installed

    def run(name, *arguments):
        environment = {
            "PATH": str(scripts),
            "HOME": str(work),
            "TF_ENABLE_ONEDNN_OPTS": "0",
        }
        done = subprocess.run(
            [scripts / name, *arguments],
            cwd=work,
            env=environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


@pytest.mark.slow
def test_a_wheel_trains_draws_exports_and_loads(start, installed):
    _, work = installed
    assert "methods/static.gin" in start("stugan", "list")
    files = ("quickstart.gin", "methods/static.gin", "sparse_execution.gin")
    flags = [f"--gin_file={file}" for file in files]
    flags += [f"--gin_param={binding}" for binding in SHORT]
    start("stugan", "train", *flags, "--workdir=run")
    start("stugan", "sample", "--workdir=run", "--output=grid.png")
    assert (work / "grid.png").stat().st_size > 0
    start("stugan", "export", "--workdir=run", "--output=exported", "--format=sparse")
    program = "import stugan_tf as st; print(st.load('exported')(2, seed=0).shape)"
    assert start("python", "-c", program) == "(2, 16, 16, 1)\n"


@pytest.mark.slow
def test_a_wheel_has_the_operation(start):
    program = "from stugan_tf.kernels import library; library.load(); print(library.build())"
    assert "/stugan_tf/kernels/prebuilt/" in start("python", "-c", program)


@pytest.mark.slow
def test_a_wheel_installs_one_package_and_lists_cells(start):
    listed = "import importlib.metadata as m; print(*m.files('stugan_tf'), sep='\\n')"
    files = [name for name in start("python", "-c", listed).split() if not name.startswith("..")]
    assert {name.split("/")[0].split("-")[0] for name in files} == {"stugan_tf"}
    smoke = ("--name=figure5", "--preset=smoke", "--output=cells", "--line=STU-GAN", "--dry_run")
    assert "not started" in start("stugan", "experiments", *smoke)
