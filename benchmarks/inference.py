"""A race of runtimes: how fast each draws from the same sparse generators.

    python -m benchmarks.inference [--deepsparse_python=PATH] [--minutes=15]
    python -m benchmarks.inference --errors     how far images are from those of TensorFlow
    python -m benchmarks.inference --table      prints what was measured

Without other flags it measures all of `PLANS`. `--models`, `--sparsities`, `--batches`,
`--threads`, `--runners` and `--rounds` measure less.

The networks have random weights and are sparse by ERK: times do not depend on their values.
Runners that multiply all zeros run on the sparsest network only. Each runner is a process of its
own that opens the exported file and keeps it. Calls are made in turn: one of each runner, and
again. A call goes from latents in memory to float images in memory. Time to the first image counts
from the start of the process, interpreter and imports included. Memory is the most that the process
took, after all batches. Errors are those of a trained generator (docs/results/paper_size).

Measurements are kept in `--folder`, so the command can be killed and started again. It first
exports what it needs, which takes some minutes, too; `--minutes=0` does only that. When `--minutes`
of measuring are over it stops by itself, and says so. Tables are printed, and written to tables.md
in the folder. Runners whose package is not installed are left out, and said to be:

    pip install ./runtime openvino ai-edge-litert
    python3.11 -m venv other && other/bin/pip install deepsparse==1.8.0 absl-py

DeepSparse needs a Python of its own (at most 3.11): `--deepsparse_python=other/bin/python`.
`--processor` prints processor time of all threads in place of time on the clock. It needs an idle
machine less, but threads that wait by spinning count, too.
"""

import contextlib
import dataclasses
import importlib.metadata
import importlib.util
import json
import os
import pathlib
import resource
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence

import numpy as np
from absl import app, flags

from benchmarks import race_tables
from benchmarks.race_tables import Entrant, Measurements, counted

_MODELS = flags.DEFINE_list("models", None, "Generators; by default all of the plans.")
_SPARSITIES = flags.DEFINE_list("sparsities", ["0.8", "0.9", "0.95"], "Fractions of zeros.")
_BATCHES = flags.DEFINE_list("batches", None, "Images of a call; by default those of the plan.")
_THREADS = flags.DEFINE_list("threads", None, "Threads of a runner; by default as planned.")
_RUNNERS = flags.DEFINE_list("runners", None, "By default all that are installed.")
_ROUNDS = flags.DEFINE_integer("rounds", None, "At most so many calls of each runner.", 1)
_MINUTES = flags.DEFINE_float("minutes", 15, "How long to measure.", 0)
_FOLDER = flags.DEFINE_string("folder", "runs/inference", "Where files and measurements are kept.")
_DEEPSPARSE_PYTHON = flags.DEFINE_string("deepsparse_python", None, "A Python with DeepSparse.")
_ERRORS = flags.DEFINE_bool("errors", False, "Compare images instead of times.")
_TABLE = flags.DEFINE_bool("table", False, "Only print the tables.")
_PROCESSOR = flags.DEFINE_bool("processor", False, "Print processor time.")
_SERVE = flags.DEFINE_string("serve", None, "Internal: be this runner, of the only model.")
_EXPORT = flags.DEFINE_list("export", None, "Internal: write these, MODEL_SPARSITY/KIND_PRECISION.")

PAUSE = 0.02  # Seconds between calls: the threads of the runner before come to rest.
PATIENCE = 300  # Seconds after which a call counts as hung.
LITE_BATCHES = (1, 16, 64)
IMAGES_COMPARED = 64
STARTS_OF_PROGRAM = 11
ROOT = pathlib.Path(__file__).parents[1]
TRAINED = "sngan_256_trained"
TRAINED_FILE = ROOT / "docs/results/paper_size/generators/stu/generator.safetensors"
Draw = Callable[[np.ndarray, "np.ndarray | None"], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is measured of a model, by default.

    Attributes:
        rounds: calls of each runner, by the size of the batch.
        threads: numbers of threads, each a race of its own.
        starts: how often each process is started.
        left_out: runners that do not take part.
    """

    rounds: dict[int, int]
    threads: tuple[int, ...]
    starts: int
    left_out: tuple[str, ...] = ()


PLANS = {
    "sngan_256": Plan({1: 31, 16: 15, 64: 7}, (2, 1), 2),
    "biggan_cifar10": Plan({1: 15, 16: 5}, (2,), 1, ("operation",)),
    "biggan_imagenet_128": Plan({1: 7, 16: 3}, (2,), 1, ("operation",)),
}


def network(model: str):
    """A generator before it is made sparse, the same in each process."""
    import keras

    from stugan_tf.models.biggan import biggan_generator
    from stugan_tf.models.sngan import sngan_generator

    keras.utils.set_random_seed(0)
    if model == "sngan_256":
        return sngan_generator((32, 32, 3), width=256, latent_dim=128)
    if model == "biggan_cifar10":
        return biggan_generator((32, 32, 3), 10)
    large = {"width": 96, "latent_dim": 120, "shared_dim": 128, "hierarchical": True}
    return biggan_generator((128, 128, 3), 1000, attention_sizes=(64,), **large)


# Runners: (folder of a model, threads) -> draw. What they import counts as part of their start.


def runtime(precision):
    def make(folder, threads):
        import stugan_runtime

        path = folder / "sparse_float32/generator.safetensors"
        generator = stugan_runtime.load(path, threads, precision=precision)
        return lambda latents, labels: generator(latents=latents, labels=labels, dtype="float32")

    return make


def tensorflow(folder, threads):
    limit_tensorflow(threads)
    from stugan_tf.serving.formats import read_sparse_file

    return batches_of(read_sparse_file(folder / "sparse_float32/generator.safetensors"))


def operation(folder, threads):
    """The network as training executes it, with the weights that it was made with."""
    import functools

    tf = limit_tensorflow(threads)
    from stugan_tf.layers.fusion import fuse
    from stugan_tf.layers.masked import set_execution
    from stugan_tf.sparsity.sparsify import sparsify

    model, sparsity = folder.name.rsplit("_", 1)
    fused = fuse(set_execution(sparsify(network(model), float(sparsity), seed=0), "sparse"))
    call = tf.function(functools.partial(fused, training=False))
    return lambda latents, labels: call(
        tf.constant(latents) if labels is None else [tf.constant(latents), tf.constant(labels)]
    ).numpy()


def onnx_runtime(folder, threads):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    session = onnxruntime.InferenceSession(
        str(folder / "onnx_float32/generator.onnx"), options, providers=["CPUExecutionProvider"]
    )
    return lambda latents, labels: session.run(None, named(latents, labels))[0]


def openvino(precision):
    def make(folder, threads):
        import openvino

        core = openvino.Core()
        compiled = core.compile_model(
            core.read_model(str(folder / "onnx_float32/generator.onnx")),
            "CPU",
            {
                "INFERENCE_PRECISION_HINT": precision,
                "INFERENCE_NUM_THREADS": threads,
                "PERFORMANCE_HINT": "LATENCY",
                "NUM_STREAMS": 1,
            },
        )
        request = compiled.create_infer_request()
        return lambda latents, labels: request.infer(named(latents, labels))[0]

    return make


def deepsparse(folder, threads):
    os.environ["NM_DISABLE_ANALYTICS"] = "True"
    import deepsparse

    engines = {}  # For each size of a batch.

    def draw(latents, labels):
        size = len(latents)
        if size not in engines:
            engines[size] = deepsparse.Engine(str(folder / ONNX), size, num_cores=threads)
        return engines[size].run(list(named(latents, labels).values()))[0]

    return draw


def lite(precision):
    def make(folder, threads):
        if importlib.util.find_spec("ai_edge_litert"):
            from ai_edge_litert.interpreter import Interpreter
        else:
            Interpreter = limit_tensorflow(threads).lite.Interpreter
        path = folder / f"tflite_{precision}" / "generator.tflite"
        runners = {}

        def draw(latents, labels):
            size = len(latents)
            if size not in runners:  # One interpreter each: memory is of the batches that were run.
                interpreter = Interpreter(model_path=str(path), num_threads=threads)
                runners[size] = interpreter, interpreter.get_signature_runner(f"batch_{size}")
            return runners[size][1](**named(latents, labels))["images"]

        return draw

    return make


def limit_tensorflow(threads):
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    return tf


def batches_of(generator):
    return lambda latents, labels: np.concatenate(list(generator.batches(latents, labels)))


def named(latents, labels):
    return {"latents": latents} if labels is None else {"latents": latents, "labels": labels}


def flags_of_processor():
    path = pathlib.Path("/proc/cpuinfo")
    return set(path.read_text().split()) if path.exists() else set()


@dataclasses.dataclass(frozen=True)
class Runner(Entrant):
    """One entry of the race, and how it runs.

    Attributes:
        make: `(folder, threads) -> draw`.
        package: Python package that it needs.
        distribution: name of the package in a registry.
        file: what it opens, in the model's folder.
        needs: flags of which the processor must have one; empty for none.
        also_dense: whether it runs on a network without zeros, too.
        starts_once: whether it starts too slowly to be started again.
    """

    make: Callable[[pathlib.Path, int], Draw] | None = None
    package: str = ""
    distribution: str = ""
    file: str = ""
    needs: tuple[str, ...] = ()
    also_dense: bool = False
    starts_once: bool = False


SPARSE, ONNX = "sparse_float32/generator.safetensors", "onnx_float32/generator.onnx"
LITE = "ai_edge_litert" if importlib.util.find_spec("ai_edge_litert") else "tensorflow"
_TENSORFLOW = {"package": "tensorflow", "distribution": "tensorflow", "file": SPARSE}
_OURS = {"package": "stugan_runtime", "distribution": "stugan-runtime", "file": SPARSE}
_OPENVINO = {"package": "openvino", "distribution": "openvino", "file": ONNX}
_LITE = {"package": LITE, "distribution": LITE.replace("_", "-")}
RUNNERS = {
    "runtime": Runner("ours", "float32", False, True, runtime("float32"), **_OURS),
    "runtime_half": Runner(
        "ours",
        "float16",
        False,
        True,
        runtime("float16"),
        needs=("avx512_fp16", "asimdhp"),
        **_OURS,
    ),
    "program": Runner("ours: C program", "float32", False, True, **_OURS),
    "operation": Runner(
        "ours inside TensorFlow",
        "float32",
        is_rival=False,
        skips_zeros=True,
        make=operation,
        starts_once=True,
        **_TENSORFLOW,
    ),
    "deepsparse": Runner(
        "DeepSparse",
        skips_zeros=True,
        make=deepsparse,
        package="deepsparse",
        distribution="deepsparse",
        file=ONNX,
        also_dense=True,
    ),
    "onnx_runtime": Runner(
        "ONNX Runtime",
        make=onnx_runtime,
        package="onnxruntime",
        distribution="onnxruntime",
        file=ONNX,
    ),
    "openvino": Runner("OpenVINO", make=openvino("f32"), **_OPENVINO),
    "openvino_bf16": Runner(
        "OpenVINO bf16",
        "bfloat16",
        make=openvino("bf16"),
        needs=("amx_bf16", "avx512_bf16"),
        **_OPENVINO,
    ),
    "lite": Runner("LiteRT", make=lite("float32"), file="tflite_float32/generator.tflite", **_LITE),
    "lite_int8": Runner(
        "LiteRT int8", "int8", make=lite("int8"), file="tflite_int8/generator.tflite", **_LITE
    ),
    "tensorflow": Runner("TensorFlow, dense", make=tensorflow, **_TENSORFLOW),
}


def folder_of(model, sparsity):
    return pathlib.Path(_FOLDER.value) / f"{model}_{sparsity}"


def entries(names: Sequence[str], sparsities: Sequence[str]) -> list[tuple[str, str]]:
    """`(runner, sparsity)` of all that take part: runners that skip zeros several times."""
    sparsest = max(sparsities, key=float)
    found = []
    for name in names:
        runner = RUNNERS[name]
        found += [(name, each) for each in (sparsities if runner.skips_zeros else [sparsest])]
        if runner.also_dense and "0.0" not in sparsities:
            found.append((name, "0.0"))
    return found


def graph_of(model, sparsity):
    """`(graph, interface)` of a folded generator."""
    from stugan_tf.serving import compact
    from stugan_tf.serving.folding import fold_into_plain_layers
    from stugan_tf.serving.interface import Interface
    from stugan_tf.sparsity.sparsify import sparsify

    if model == TRAINED:
        graph, manifest = compact.read(TRAINED_FILE)
        return graph, Interface.from_json(manifest["interface"])
    made = sparsify(network(model), float(sparsity), seed=0)
    classes = {"biggan_cifar10": 10, "biggan_imagenet_128": 1000}.get(model, 10)
    shape = tuple(made.output_shape[1:])
    interface = Interface(made.inputs[0].shape[1], shape, classes, len(made.inputs) > 1)
    return fold_into_plain_layers(made), interface


def export(paths):
    """Writes files of generators, MODEL_SPARSITY/KIND_PRECISION."""
    from stugan_tf.serving.formats import FORMATS, Settings

    for made in sorted({path.split("/")[0] for path in paths}):
        model, sparsity = made.rsplit("_", 1)
        folder = folder_of(model, sparsity)
        graph, interface = graph_of(model, sparsity)
        for target in [folder / path.split("/")[1] for path in paths if path.split("/")[0] == made]:
            target.mkdir(parents=True, exist_ok=True)
            kind, precision = target.name.split("_")
            FORMATS[kind].write(target, graph, interface, Settings(precision, LITE_BATCHES))
            (target / "done").touch()
        (folder / "interface.json").write_text(json.dumps(interface.to_json()))


def export_missing(model, taking_part):
    """Exports what these entries open, in a process of its own."""
    wanted = {
        (folder_of(model, sparsity) / RUNNERS[name].file).parent for name, sparsity in taking_part
    }
    missing = [path for path in sorted(wanted) if not (path / "done").exists()]
    if missing:
        paths = ",".join(f"{path.parent.name}/{path.name}" for path in missing)
        print(f"Exports {paths}", file=sys.stderr)
        command = [sys.executable, "-m", "benchmarks.inference", f"--export={paths}"]
        subprocess.run([*command, f"--folder={_FOLDER.value}"], check=True, cwd=ROOT)


def serve(name, model, sparsity, threads):
    """Is one runner: reads orders, draws, and answers with times."""
    folder, runner = folder_of(model, sparsity), RUNNERS[name]
    interface = json.loads((folder / "interface.json").read_text())
    random = np.random.default_rng(0)
    latents = random.standard_normal([max(LITE_BATCHES), interface["latent_dim"]], np.float32)
    labels = None
    if interface["conditional"]:
        labels = (np.arange(len(latents)) % interface["num_classes"]).astype(np.int32)
    channel = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # What libraries print must not be taken for answers.
    draw = runner.make(folder, threads)
    images = draw(latents[:1], None if labels is None else labels[:1])
    assert images.shape == (1, *interface["image_shape"])
    try:
        version = importlib.metadata.version(runner.distribution)
    except importlib.metadata.PackageNotFoundError:
        version = ""  # A checkout.
    print(json.dumps({"version": version}), file=channel, flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        size = order["batch"]
        some = latents[:size], None if labels is None else labels[:size]
        start, used = time.perf_counter(), time.process_time()
        images = draw(*some)
        answer = {
            "ms": 1e3 * (time.perf_counter() - start),
            "processor_ms": 1e3 * (time.process_time() - used),
            "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        }
        if "path" in order:
            np.save(order["path"], images)
        print(json.dumps(answer), file=channel, flush=True)


class Process:
    """A runner's process.

    Attributes:
        works: whether it still answers.
        version: of the runner's package.
        first_ms: time from its start to its first image.
    """

    def __init__(self, name, model, sparsity, threads):
        """Starts it and waits for its first image."""
        python = sys.executable
        if name == "deepsparse" and _DEEPSPARSE_PYTHON.value:
            python = _DEEPSPARSE_PYTHON.value
        command = [python, "-m", "benchmarks.inference", f"--serve={name}"]
        command += [f"--models={model}", f"--sparsities={sparsity}", f"--threads={threads}"]
        command += [f"--folder={pathlib.Path(_FOLDER.value).resolve()}"]
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
        self._path = folder_of(model, sparsity) / f"{name}.log"
        self._log = self._path.open("wb")
        start = time.perf_counter()
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            env=environment,
            cwd=ROOT,
        )
        self.works = True
        self.version = (self._answer() or {}).get("version", "")
        self.first_ms = 1e3 * (time.perf_counter() - start)

    def _answer(self):
        """What it answers; None if it has ended or hangs. Then it is closed."""
        ready, _, _ = select.select([self._process.stdout], [], [], PATIENCE)
        line = self._process.stdout.readline() if ready else ""
        if line:
            return json.loads(line)
        self.close()
        said = self._path.read_text(errors="replace").strip().splitlines() or ["nothing"]
        why = "It said" if ready else f"There was no answer for {PATIENCE} s. It last said"
        print(
            f"{self._path.stem} does not run. {why}: {said[-1][:200]} See {self._path}.",
            file=sys.stderr,
        )
        return None

    def draw(self, size, path=None):
        """Draws a batch; returns the answer, None if it has ended.

        Args:
            size: number of images.
            path: where they are kept, as .npy; None for nowhere.
        """
        order = {"batch": size} if path is None else {"batch": size, "path": str(path)}
        with contextlib.suppress(BrokenPipeError):  # Then there is no answer, either.
            print(json.dumps(order), file=self._process.stdin, flush=True)
        answer = self._answer()
        time.sleep(PAUSE)
        return answer

    def close(self):
        """Ends the process."""
        self.works = False
        self._process.kill()  # It has nothing to finish.
        self._process.wait()
        self._log.close()


def available(names):
    """The runners that can run here; says which cannot."""
    processor = flags_of_processor()
    found = []
    for name in names:
        runner = RUNNERS[name]
        elsewhere = name == "deepsparse" and _DEEPSPARSE_PYTHON.value
        if not elsewhere and importlib.util.find_spec(runner.package) is None:
            print(f"Left out: {runner.title}. {runner.package} is not installed.", file=sys.stderr)
        elif runner.needs and not processor & set(runner.needs):
            lacks = " or ".join(runner.needs)
            print(f"Left out: {runner.title}. This processor has no {lacks}.", file=sys.stderr)
        elif runner.make is None and not shutil.which("c++"):
            print(f"Left out: {runner.title}. There is no C++ compiler.", file=sys.stderr)
        else:
            found.append(name)
    return found


def race(model, threads, taking_part, rounds, starts, kept, deadline):
    """Measures what is missing of one model and number of threads.

    Args:
        model: name of the model.
        threads: number of threads of each runner.
        taking_part: `(runner, sparsity)` of all.
        rounds: calls of each, by the size of the batch.
        starts: how often each process is started.
        kept: `Measurements`.
        deadline: a time of `time.monotonic`, after which no call begins.
    """

    def cell(entry):
        name, sparsity = entry
        return {"model": model, "sparsity": sparsity, "threads": threads, "runner": name}

    def missing(entry, size):
        return rounds[size] - kept.count("ms", batch=size, **cell(entry))

    processes = {}
    for entry in taking_part:
        if not any(missing(entry, size) > 0 for size in rounds):
            continue
        runner = RUNNERS[entry[0]]
        file = folder_of(model, entry[1]) / runner.file
        wanted = 1 if runner.starts_once else starts
        while entry not in processes or kept.count("first_ms", **cell(entry)) < wanted:
            if time.monotonic() > deadline:
                break
            if entry in processes:
                processes.pop(entry).close()
            process = Process(entry[0], model, entry[1], threads)
            if not process.works:
                break
            processes[entry] = process
            start = {"first_ms": process.first_ms, "bytes": file.stat().st_size}
            kept.keep(cell(entry) | start | {"version": process.version})
    print(f"{model}, {counted(threads, 'thread')}: {len(processes)} processes", file=sys.stderr)
    for size in sorted(rounds):
        for process in processes.values():
            if process.works and time.monotonic() < deadline:
                process.draw(size)  # Compiles.
        for number in range(rounds[size], 0, -1):
            for entry, process in processes.items():
                if not process.works or missing(entry, size) < number:
                    continue
                if time.monotonic() > deadline:
                    break
                if answer := process.draw(size):
                    kept.keep(cell(entry) | {"batch": size, **answer})
    for process in processes.values():
        if process.works:
            process.close()


def race_program(model, sparsities, kept, deadline):
    """Measures a C program that opens a file with two threads, draws one image and ends."""
    import stugan_runtime

    beside = pathlib.Path(stugan_runtime.__file__).parent / "libstugan.so"
    library = pathlib.Path(os.environ.get("STUGAN_RUNTIME_LIBRARY") or beside).resolve()
    program = pathlib.Path(_FOLDER.value).resolve() / "draw"
    source = ROOT / "runtime" / "tests" / "draw.cc"
    command = ["c++", "-O2", "-std=c++17", f"-I{ROOT / 'runtime' / 'include'}", source, library]
    subprocess.run([*command, f"-Wl,-rpath,{library.parent}", "-o", program], check=True)
    for _ in range(STARTS_OF_PROGRAM):
        for sparsity in sparsities:
            cell = {"model": model, "sparsity": sparsity, "threads": 2, "runner": "program"}
            if kept.count("first_ms", **cell) >= STARTS_OF_PROGRAM or time.monotonic() > deadline:
                continue
            file = folder_of(model, sparsity) / SPARSE
            arguments = [file, "1", "0", "0", "-1", "/dev/null"]
            start = time.perf_counter()
            subprocess.run([program, *arguments], check=True, stdout=subprocess.DEVNULL)
            first_ms = 1e3 * (time.perf_counter() - start)
            kept.keep(cell | {"first_ms": first_ms, "bytes": file.stat().st_size})


def race_all(models, names, threads, sizes, sparsities, kept):
    """Exports what is missing, then measures what is missing.

    Args:
        models: names of models.
        names: runners.
        threads: numbers of threads; None for those of the plans.
        sizes: sizes of batches that may be measured.
        sparsities: as texts.
        kept: `Measurements`.
    """
    racing = {
        model: [name for name in names if name not in PLANS[model].left_out] for model in models
    }
    for model in models:
        export_missing(model, entries(racing[model], sparsities))
    deadline = time.monotonic() + 60 * _MINUTES.value
    for model in models:
        plan = PLANS[model]
        most = _ROUNDS.value or max(plan.rounds.values())
        rounds = {size: min(n, most) for size, n in plan.rounds.items() if size in sizes}
        taking_part = [one for one in entries(racing[model], sparsities) if one[0] != "program"]
        for number in threads or plan.threads:
            race(model, number, taking_part, rounds, plan.starts, kept, deadline)
        if "program" in names:
            race_program(model, sparsities, kept, deadline)
    if time.monotonic() > deadline:
        print("Time is up. The same command goes on from here.", file=sys.stderr)


def compare(names, kept):
    """Measures how far the images of a trained generator are from those of TensorFlow."""
    taking_part = [(name, "0.95") for name in names if name not in ("operation", "program")]
    if "tensorflow" not in names:
        raise app.UsageError("--errors compares with `tensorflow`; name it in --runners, too.")
    export_missing(TRAINED, taking_part)
    images = {}
    for name, sparsity in taking_part:
        process = Process(name, TRAINED, sparsity, 2)
        path = folder_of(TRAINED, sparsity).resolve() / f"{name}.npy"
        if process.works and process.draw(IMAGES_COMPARED, path):
            images[name] = np.load(path)
            process.close()
    if "tensorflow" not in images:
        raise SystemExit("TensorFlow drew no images, so there is nothing to compare with.")
    for name in images:
        levels = 127.5 * np.abs(images[name].astype(np.float64) - images["tensorflow"])
        cell = {"model": TRAINED, "sparsity": "0.95", "threads": 2, "runner": name}
        found = {
            "rms": np.sqrt(np.mean(levels**2)),
            "most_999": np.quantile(levels, 0.999),
            "most": levels.max(),
        }
        if name != "tensorflow":
            kept.keep(cell | {what: float(value) for what, value in found.items()})


def processor():
    """What the processor is, in words."""
    path = pathlib.Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    known = {"avx2", "avx512f", "avx512_vnni", "avx512_fp16", "avx512_bf16", "amx_bf16", "amx_int8"}
    features = " ".join(sorted(flags_of_processor() & known))
    return f"{names[0] if names else 'unknown processor'}, {os.cpu_count()} processors, {features}"


def tables(rows, what):
    """All measurements as Markdown."""
    parts = [processor()]
    versions = {
        f"{RUNNERS[row['runner']].distribution} {row['version']}"
        for row in rows
        if row.get("version")
    }
    parts.append(", ".join(sorted(versions)))
    for model in [*PLANS, TRAINED]:
        of_model = [row for row in rows if row["model"] == model]
        most = max((row["threads"] for row in of_model), default=0)
        with_most = [row for row in of_model if row["threads"] == most]
        for title, table in (
            ("milliseconds", race_tables.times(of_model, RUNNERS, what)),
            ("times as long as ours", race_tables.ratios(of_model, RUNNERS, "runtime")),
            ("one thread to two", race_tables.scaling(of_model, RUNNERS)),
            (f"at {counted(most, 'thread')}", race_tables.resources(with_most, RUNNERS)),
            ("levels of 1/255", race_tables.errors(of_model, RUNNERS)),
        ):
            if table.count("\n") > 1:  # More than titles.
                parts.append(f"{model}: {title}\n\n{table}")
    return "\n\n".join(part for part in parts if part)


def chosen(name, given, allowed):
    """Values of a flag; `app.UsageError` if one is not allowed."""
    if given is None:
        return list(allowed)
    if unknown := [value for value in given if value not in allowed]:
        words = ", ".join(map(str, allowed))
        raise app.UsageError(f"--{name}: there is no {unknown[0]}. Choose from {words}.")
    return given


def integers(name, given):
    """Values of a flag, as integers above 0; None if it was not given."""
    if given is None:
        return None
    if not given or not all(value.isdecimal() and int(value) > 0 for value in given):
        raise app.UsageError(f"--{name} takes integers above 0, got {','.join(given)}.")
    return [int(value) for value in given]


def is_fraction(text):
    """Whether a text is a number in [0, 1)."""
    try:
        return 0 <= float(text) < 1
    except ValueError:
        return False


def main(_):
    if _EXPORT.value:
        export(_EXPORT.value)
        return
    threads = integers("threads", _THREADS.value)
    if _SERVE.value:
        serve(_SERVE.value, _MODELS.value[0], _SPARSITIES.value[0], threads[0])
        return
    models = chosen("models", _MODELS.value, PLANS)
    names = chosen("runners", _RUNNERS.value, RUNNERS)
    sizes = chosen("batches", integers("batches", _BATCHES.value), LITE_BATCHES)
    sparsities = _SPARSITIES.value
    if not sparsities or not all(map(is_fraction, sparsities)):
        raise app.UsageError(f"--sparsities takes numbers in [0, 1), got {','.join(sparsities)}.")
    other = _DEEPSPARSE_PYTHON.value
    if other and not shutil.which(other):
        raise app.UsageError(f"--deepsparse_python must be a Python's path, got {other}.")
    folder = pathlib.Path(_FOLDER.value)
    kept = Measurements(folder / "measurements.jsonl")
    if not _TABLE.value:
        folder.mkdir(parents=True, exist_ok=True)
        names = available(names)
        if _ERRORS.value:
            compare(names, kept)
        else:
            race_all(models, names, threads, sizes, sparsities, kept)
    text = tables(kept.rows, "processor_ms" if _PROCESSOR.value else "ms")
    if folder.exists():
        (folder / "tables.md").write_text(f"{text}\n")
    print(text)


if __name__ == "__main__":
    app.run(main)
