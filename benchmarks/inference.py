"""A race of runtimes: how fast each draws from the same sparse generators.

    python -m benchmarks.inference [--models=sngan_256,biggan_cifar10] [--sparsities=0.8,0.9,0.95]
        [--batches=1,16,64] [--threads=1,2] [--runners=runtime,tensorflow,...] [--rounds=15]
        [--folder=runs/inference]
    python -m benchmarks.inference --table      prints what was measured

The networks have random weights and are sparse by ERK: times do not depend on their values. Each
runner is a process of its own that opens the exported file and keeps it. Calls are made in turn:
one of each runner, and again. A call goes from latents in memory to float images in memory. Time to
the first image counts from the start of the process, interpreter and imports included. Memory is
the most that the process took until then, after all batches.

Measurements are kept in the folder, so the command can be killed and started again; `--rounds` is
how many calls of each there are in the end. Runners whose package is not installed are left out,
and said to be: `pip install openvino ai-edge-litert`, `pip install ./runtime`.

Besides the times on the clock, which need an idle machine, the table has processor seconds of all
threads of a call, which need one less. Threads that wait by spinning count, too.
"""

import dataclasses
import importlib.util
import json
import os
import pathlib
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np
from absl import app, flags

_MODELS = flags.DEFINE_list("models", ["sngan_256", "biggan_cifar10"], "Generators.")
_SPARSITIES = flags.DEFINE_list("sparsities", ["0.8", "0.9", "0.95"], "Fractions of zeros.")
_BATCHES = flags.DEFINE_list("batches", ["1", "16", "64"], "Images of a call.")
_THREADS = flags.DEFINE_list("threads", ["1", "2"], "Threads of each runner.")
_RUNNERS = flags.DEFINE_list("runners", None, "By default all that are installed.")
_ROUNDS = flags.DEFINE_integer("rounds", 15, "Calls of each runner.")
_FOLDER = flags.DEFINE_string("folder", "runs/inference", "Where files and measurements are kept.")
_TABLE = flags.DEFINE_bool("table", False, "Only print the table.")
_SERVE = flags.DEFINE_string("serve", None, "Internal: be this runner, of the only model.")
_EXPORT = flags.DEFINE_bool("export", False, "Internal: write the files of the models.")

PAUSE = 0.02  # Seconds between calls: the threads of the runner before come to rest.
LITE_BATCHES = (1, 16, 64)
MODELS = ("sngan_256", "biggan_cifar10", "biggan_imagenet_128")
Draw = Callable[[np.ndarray, "np.ndarray | None"], np.ndarray]


def network(model: str):
    """A generator before it is made sparse."""
    from stugan_tf.models.biggan import biggan_generator
    from stugan_tf.models.sngan import sngan_generator

    if model == "sngan_256":
        return sngan_generator((32, 32, 3), width=256, latent_dim=128)
    if model == "biggan_cifar10":
        return biggan_generator((32, 32, 3), 10)
    large = {"width": 96, "latent_dim": 120, "shared_dim": 128, "hierarchical": True}
    return biggan_generator((128, 128, 3), 1000, attention_sizes=(64,), **large)


# Runners: (folder of a model, threads) -> draw. What they import counts as part of their start.


def runtime(folder, threads):
    import stugan_runtime

    generator = stugan_runtime.load(folder / "sparse_float32/generator.safetensors", threads)
    return lambda latents, labels: generator(latents=latents, labels=labels, dtype="float32")


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
class Runner:
    """One entry of the race.

    Attributes:
        title: name in the table.
        make: `(folder, threads) -> draw`.
        package: Python package that it needs.
        file: what its bytes are, a file in the model's folder.
        needs: flags of which the processor must have one; empty for none.
    """

    title: str
    make: Callable[[pathlib.Path, int], Draw]
    package: str
    file: str
    needs: tuple[str, ...] = ()


SPARSE, ONNX = "sparse_float32/generator.safetensors", "onnx_float32/generator.onnx"
RUNNERS = {
    "runtime": Runner("ours: runtime", runtime, "stugan_runtime", SPARSE),
    "operation": Runner("ours: inside TensorFlow", operation, "tensorflow", SPARSE),
    "tensorflow": Runner("TensorFlow, dense", tensorflow, "tensorflow", SPARSE),
    "onnx_runtime": Runner("ONNX Runtime f32", onnx_runtime, "onnxruntime", ONNX),
    "openvino": Runner("OpenVINO f32", openvino("f32"), "openvino", ONNX),
    "openvino_bf16": Runner(
        "OpenVINO bf16", openvino("bf16"), "openvino", ONNX, ("amx_bf16", "avx512_bf16")
    ),
    "lite": Runner(
        "LiteRT float32", lite("float32"), "tensorflow", "tflite_float32/generator.tflite"
    ),
    "lite_int8": Runner("LiteRT int8", lite("int8"), "tensorflow", "tflite_int8/generator.tflite"),
}
FORMATS_OF_FILES = {
    "sparse": ("float32",),
    "onnx": ("float32",),
    "tflite": ("float32", "int8"),
}


def folder_of(model, sparsity):
    return pathlib.Path(_FOLDER.value) / f"{model}_{sparsity}"


def export(model, sparsity):
    """Writes the files of a generator, those that are missing."""
    from stugan_tf.serving.folding import fold_into_plain_layers
    from stugan_tf.serving.formats import FORMATS, Settings
    from stugan_tf.serving.interface import Interface
    from stugan_tf.sparsity.sparsify import sparsify

    folder = folder_of(model, sparsity)
    made = sparsify(network(model), float(sparsity), seed=0)
    graph = fold_into_plain_layers(made)
    classes = {"biggan_cifar10": 10, "biggan_imagenet_128": 1000}.get(model, 10)
    interface = Interface(
        made.inputs[0].shape[1], tuple(made.output_shape[1:]), classes, len(made.inputs) > 1
    )
    for kind, precisions in FORMATS_OF_FILES.items():
        for precision in precisions:
            target = folder / f"{kind}_{precision}"
            if (target / "done").exists():
                continue
            target.mkdir(parents=True, exist_ok=True)
            FORMATS[kind].write(target, graph, interface, Settings(precision, LITE_BATCHES))
            (target / "done").touch()
    (folder / "interface.json").write_text(json.dumps(interface.to_json()))


def serve(name, model, sparsity, threads):
    """Is one runner: reads sizes of batches, draws, and answers with times."""
    folder = folder_of(model, sparsity)
    interface = json.loads((folder / "interface.json").read_text())
    random = np.random.default_rng(0)
    latents = random.standard_normal([max(LITE_BATCHES), interface["latent_dim"]], np.float32)
    labels = None
    if interface["conditional"]:
        labels = (np.arange(len(latents)) % interface["num_classes"]).astype(np.int32)
    channel = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # What libraries print must not be taken for answers.
    draw = RUNNERS[name].make(folder, threads)
    images = draw(latents[:1], None if labels is None else labels[:1])
    assert images.shape == (1, *interface["image_shape"])
    print("{}", file=channel, flush=True)
    for line in sys.stdin:
        size = int(line)
        some = latents[:size], None if labels is None else labels[:size]
        start, used = time.perf_counter(), time.process_time()
        draw(*some)
        answer = {
            "ms": 1e3 * (time.perf_counter() - start),
            "processor_ms": 1e3 * (time.process_time() - used),
            "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        }
        print(json.dumps(answer), file=channel, flush=True)


class Process:
    """A runner's process."""

    def __init__(self, name, model, sparsity, threads):
        command = [sys.executable, "-m", "benchmarks.inference", f"--serve={name}"]
        command += [f"--models={model}", f"--sparsities={sparsity}", f"--threads={threads}"]
        command += [f"--folder={_FOLDER.value}"]
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
        start = time.perf_counter()
        self._log = (folder_of(model, sparsity) / f"{name}.log").open("wb")
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            env=environment,
        )
        self.works = bool(self._process.stdout.readline())
        self.first_ms = 1e3 * (time.perf_counter() - start)

    def draw(self, size):
        """Draws a batch; returns the answer."""
        print(size, file=self._process.stdin, flush=True)
        answer = json.loads(self._process.stdout.readline())
        time.sleep(PAUSE)
        return answer

    def close(self):
        """Ends the process."""
        self._process.stdin.close()
        self._process.wait()
        self._log.close()


def available(names):
    """The runners that can run here; says which cannot."""
    processor = flags_of_processor()
    found = []
    for name in names:
        runner = RUNNERS[name]
        if importlib.util.find_spec(runner.package) is None:
            print(f"Left out: {runner.title}. {runner.package} is not installed.", file=sys.stderr)
        elif runner.needs and not processor & set(runner.needs):
            lacks = " or ".join(runner.needs)
            print(f"Left out: {runner.title}. This processor has no {lacks}.", file=sys.stderr)
        else:
            found.append(name)
    return found


def measurements():
    path = pathlib.Path(_FOLDER.value) / "measurements.jsonl"
    return list(map(json.loads, path.read_text().splitlines())) if path.exists() else []


def keep(row):
    with (pathlib.Path(_FOLDER.value) / "measurements.jsonl").open("a") as file:
        print(json.dumps(row), file=file)


def race(model, sparsity, threads, names, batches, rounds):
    """Measures what is missing of one generator and number of threads."""
    cell = {"model": model, "sparsity": sparsity, "threads": threads}
    there = [row for row in measurements() if cell.items() <= row.items()]

    def missing(name, size):
        same = {"runner": name, "batch": size}
        return rounds - sum(same.items() <= row.items() for row in there)

    names = [name for name in names if any(missing(name, size) > 0 for size in batches)]
    if not names:
        return
    print(f"{model}, sparsity {sparsity}, {threads} threads: {', '.join(names)}", file=sys.stderr)
    processes = {name: Process(name, model, sparsity, threads) for name in names}
    for name, process in list(processes.items()):
        if not process.works:
            print(f"{name} does not run; see {name}.log in the folder.", file=sys.stderr)
            processes.pop(name).close()
            continue
        file = folder_of(model, sparsity) / RUNNERS[name].file
        keep(cell | {"runner": name, "first_ms": process.first_ms, "bytes": file.stat().st_size})
    for size in sorted(batches):
        for process in processes.values():
            process.draw(size)  # Compiles.
        for number in range(rounds, 0, -1):
            for name, process in processes.items():
                if missing(name, size) >= number:
                    keep(cell | {"runner": name, "batch": size, **process.draw(size)})
    for process in processes.values():
        process.close()


def in_words(values):
    """Median, and in brackets least and greatest."""

    def short(value):
        return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"

    return f"{short(statistics.median(values))} ({short(min(values))} to {short(max(values))})"


def table():
    """All measurements as Markdown: milliseconds on the clock, then of processors."""
    rows = measurements()
    batches = sorted({row["batch"] for row in rows if "batch" in row})
    titles = ["generator", "threads", "runner", *(f"batch {size}" for size in batches)]
    titles += [f"batch {size}, processor" for size in batches]
    titles += ["first image", "peak MiB", "KiB"]
    lines = [titles, ["---"] * len(titles)]
    cells = {(row["model"], row["sparsity"], row["threads"], row["runner"]): [] for row in rows}
    for row in rows:
        cells[row["model"], row["sparsity"], row["threads"], row["runner"]].append(row)
    order = list(RUNNERS)
    for key in sorted(cells, key=lambda key: (*key[:3], order.index(key[3]))):
        model, sparsity, threads, name = key
        line = [f"{model}, {float(sparsity):.0%}", str(threads), RUNNERS[name].title]
        for what in ("ms", "processor_ms"):
            for size in batches:
                values = [row[what] for row in cells[key] if row.get("batch") == size]
                line.append(in_words(values) if values else "")
        peaks = [row["peak_mib"] for row in cells[key] if "peak_mib" in row]
        starts = [row for row in cells[key] if "first_ms" in row]
        line.append(in_words([row["first_ms"] for row in starts]) if starts else "")
        line.append(f"{max(peaks):,.0f}" if peaks else "")
        line.append(f"{starts[-1]['bytes'] / 1024:,.0f}" if starts else "")
        lines.append(line)
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main(_):
    sizes, threads = list(map(int, _BATCHES.value)), list(map(int, _THREADS.value))
    names = _RUNNERS.value or list(RUNNERS)
    unknown = {*_MODELS.value} - {*MODELS} or {*names} - {*RUNNERS} or {*sizes} - {*LITE_BATCHES}
    if unknown:
        raise app.UsageError(
            f"There is no {unknown.pop()}. Models: {', '.join(MODELS)}; runners: "
            f"{', '.join(RUNNERS)}; batches: {LITE_BATCHES}."
        )
    if _SERVE.value:
        serve(_SERVE.value, _MODELS.value[0], _SPARSITIES.value[0], threads[0])
        return
    if _EXPORT.value:
        for model in _MODELS.value:
            for sparsity in _SPARSITIES.value:
                export(model, sparsity)
        return
    if not _TABLE.value:
        pathlib.Path(_FOLDER.value).mkdir(parents=True, exist_ok=True)
        names = available(names)
        for model in _MODELS.value:
            for sparsity in _SPARSITIES.value:
                if not (folder_of(model, sparsity) / "interface.json").exists():
                    command = [sys.executable, "-m", "benchmarks.inference", "--export"]
                    command += [f"--models={model}", f"--sparsities={sparsity}"]
                    command += [f"--folder={_FOLDER.value}"]
                    subprocess.run(command, check=True)
                for number in threads:
                    race(model, sparsity, number, names, sizes, _ROUNDS.value)
    features = " ".join(
        sorted(flags_of_processor() & {"avx2", "avx512f", "avx512_fp16", "amx_bf16", "avx512_bf16"})
    )
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} processors, {features}")
    print(table())


if __name__ == "__main__":
    app.run(main)
