"""A race in Node.js and in Chromium: the module of pages, onnxruntime-web and LiteRT.js.

    npm install --prefix=PACKAGES onnxruntime-web @litertjs/core
    python -m benchmarks.browser_inference --npm=PACKAGES [--hosts=node,chromium] [--rounds=11]
    python -m benchmarks.browser_inference --table      prints what was measured

All draw from SNGAN's generator for 32x32 pixels at full width by WebAssembly with SIMD and one
thread. Rivals multiply all zeros, so they run on the sparsest network only. Each has a process or
a tab of its own; calls are made in turn. A call goes from a Float32Array of latents to one of
images. Time to the first image counts from the start of the process (in Node.js) or of loading the
page, all files included, which a server on this machine serves. The images of all runners in
float32 must be the same up to a level of 1/255.

LiteRT.js loads itself by script tags, so it runs in the browser only. Files are exported into
`--folder`, which `benchmarks.inference` shares; measurements are kept there, and the command goes
on from them. It needs Node.js, or Chromium and playwright.
"""

import contextlib
import functools
import http.server
import json
import pathlib
import shutil
import subprocess
import sys
import threading
import time

import numpy as np
from absl import app, flags

from benchmarks import race_tables
from benchmarks.race_tables import Entrant, Measurements

_NPM = flags.DEFINE_string("npm", None, "Folder that has `node_modules`.")
_HOSTS = flags.DEFINE_multi_enum("hosts", ["node", "chromium"], ["node", "chromium"], "Where.")
_SPARSITIES = flags.DEFINE_list("sparsities", ["0.9", "0.95"], "Fractions of zeros.")
_ROUNDS = flags.DEFINE_integer("rounds", 11, "Calls of each runner.", 1)
_FOLDER = flags.DEFINE_string("folder", "runs/inference", "Where files and measurements are kept.")
_TABLE = flags.DEFINE_bool("table", False, "Only print the tables.")

ROOT = pathlib.Path(__file__).parents[1]
MODEL = "sngan_256"
BATCHES = (1, 16)
RUNNERS = {
    "ours": Entrant("ours", is_rival=False, skips_zeros=True),
    "onnxruntime_web": Entrant("onnxruntime-web"),
    "litert": Entrant("LiteRT.js"),
    "litert_int8": Entrant("LiteRT.js int8", "int8"),
}
FILES = {
    "ours": "sparse_float32/generator.safetensors",
    "onnxruntime_web": "onnx_float32/generator.onnx",
    "litert": "tflite_float32/generator.tflite",
    "litert_int8": "tflite_int8/generator.tflite",
}
IN_NODE = ("ours", "onnxruntime_web")
TYPES = {
    **dict.fromkeys((".js", ".mjs"), "text/javascript"),
    ".wasm": "application/wasm",
}
PAGE = """<!doctype html><link rel="icon" href="data:,"><script type="importmap">{"imports": {
"@litertjs/wasm-utils": "/npm/@litertjs/wasm-utils/dist/index.js"}}</script>"""


class Handler(http.server.SimpleHTTPRequestHandler):
    """Serves a page and what lies under the roots; scripts may measure time finely."""

    def __init__(self, *arguments, roots):
        """`roots`: folder of each first part of a path."""
        self._roots = roots
        super().__init__(*arguments)

    def translate_path(self, path):
        """The file of a path."""
        first, _, rest = path.lstrip("/").partition("/")
        return str(self._roots.get(first, pathlib.Path("nowhere")) / rest)

    def guess_type(self, path):
        """What browsers insist on."""
        return TYPES.get(pathlib.Path(path).suffix, "application/octet-stream")

    def do_GET(self):
        """The page, or a file."""
        if self.path != "/":
            super().do_GET()
            return
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(PAGE.encode())

    def end_headers(self):
        """Isolated pages have a clock of 5 us in place of 100 us."""
        self.send_header("Cross-Origin-Opener-Policy", "same-origin")
        self.send_header("Cross-Origin-Embedder-Policy", "require-corp")
        super().end_headers()

    def log_message(self, *_):
        """Says nothing."""


class Node:
    """A runner in a process of Node.js."""

    def __init__(self, name, roots):
        """Starts it and waits for its first image."""
        urls = json.dumps({root: path.resolve().as_uri() for root, path in roots.items()})
        start = time.perf_counter()
        self._process = subprocess.Popen(
            ["node", pathlib.Path(__file__).with_suffix(".mjs"), name, urls],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._process.stdout.readline()
        self.first_ms = 1e3 * (time.perf_counter() - start)

    def draw(self, size):
        """Draws a batch; returns the answer."""
        print(json.dumps({"batch": size}), file=self._process.stdin, flush=True)
        return json.loads(self._process.stdout.readline())

    def close(self):
        """Ends the process."""
        self._process.stdin.close()
        self._process.wait()


class Tab:
    """A runner in a tab of Chromium."""

    def __init__(self, browser, address, name):
        """Opens a page and waits for its first image."""
        self._tab = browser.new_page()
        start = time.perf_counter()
        self._tab.goto(f"{address}/")
        self._tab.evaluate(
            """async ([name, roots]) => {
                const {open} = await import("/code/browser_inference.mjs");
                globalThis.call = await open(name, roots);
            }""",
            [name, {root: f"{address}/{root}" for root in ("npm", "files", "web")}],
        )
        self.first_ms = 1e3 * (time.perf_counter() - start)

    def draw(self, size):
        """Draws a batch; returns the answer."""
        return self._tab.evaluate("order => call(order)", {"batch": size})

    def close(self):
        """Closes the tab."""
        self._tab.close()


@contextlib.contextmanager
def chromium():
    """Yields a browser of Playwright."""
    from playwright.sync_api import sync_playwright

    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))))
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@contextlib.contextmanager
def server(roots):
    """Yields the address of a server of these folders."""
    handler = functools.partial(Handler, roots=roots)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as serving:
        threading.Thread(target=serving.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{serving.server_port}"
        serving.shutdown()


def roots_of(sparsity):
    """Folders that runners read."""
    return {
        "npm": pathlib.Path(_NPM.value) / "node_modules",
        "files": pathlib.Path(_FOLDER.value) / f"{MODEL}_{sparsity}",
        "web": ROOT / "stugan_tf" / "serving" / "web",
        "code": ROOT / "benchmarks",
    }


def entries(host):
    """`(runner, sparsity)` of all that take part."""
    sparsest = max(_SPARSITIES.value, key=float)
    return [
        (name, sparsity)
        for name, entrant in RUNNERS.items()
        if host == "chromium" or name in IN_NODE
        for sparsity in (_SPARSITIES.value if entrant.skips_zeros else [sparsest])
    ]


def export_missing():
    """Exports the files that runners open."""
    taking_part = {entry for host in _HOSTS.value for entry in entries(host)}
    paths = {f"{MODEL}_{sparsity}/{FILES[name].split('/')[0]}" for name, sparsity in taking_part}
    folder = pathlib.Path(_FOLDER.value)
    missing = [path for path in sorted(paths) if not (folder / path / "done").exists()]
    if missing:
        command = [sys.executable, "-m", "benchmarks.inference", f"--folder={folder}"]
        subprocess.run([*command, f"--export={','.join(missing)}"], check=True, cwd=ROOT)


def race(host, kept):
    """Measures what is missing on one host."""

    def cell(entry):
        return {"model": host, "sparsity": entry[1], "threads": 1, "runner": entry[0]}

    with contextlib.ExitStack() as stack:
        running = {}
        browser = stack.enter_context(chromium()) if host == "chromium" else None
        for entry in entries(host):
            name, sparsity = entry
            roots = roots_of(sparsity)
            if all(kept.count("ms", batch=b, **cell(entry)) >= _ROUNDS.value for b in BATCHES):
                continue
            if browser:
                process = Tab(browser, stack.enter_context(server(roots)), name)
            else:
                process = Node(name, roots)
            running[entry] = process
            stack.callback(process.close)
            size = (roots["files"] / FILES[name]).stat().st_size
            kept.keep(cell(entry) | {"first_ms": process.first_ms, "bytes": size})
        for size in BATCHES:
            images = {entry: process.draw(size)["image"] for entry, process in running.items()}
            check(images)
            for number in range(_ROUNDS.value, 0, -1):
                for entry, process in running.items():
                    done = kept.count("ms", batch=size, **cell(entry))
                    if _ROUNDS.value - done >= number:
                        kept.keep(cell(entry) | {"batch": size, "ms": process.draw(size)["ms"]})


def check(images):
    """Raises if two runners in float32 draw different images from one network."""
    sparsest = max(_SPARSITIES.value, key=float)
    exact = {
        name: np.array(image)
        for (name, sparsity), image in images.items()
        if sparsity == sparsest and RUNNERS[name].precision == "float32"
    }
    for name, image in exact.items():
        difference = 127.5 * np.abs(image - next(iter(exact.values()))).max()
        if not difference <= 1:
            raise ValueError(
                f"Images of {name} and {next(iter(exact))} differ by {difference:.3g} levels of "
                "255. Remove the folder, if its files are of several versions."
            )


def tables(rows):
    """All measurements as Markdown."""
    parts = []
    for host in ("node", "chromium"):
        of_host = [row for row in rows if row["model"] == host]
        if of_host:
            parts += [
                f"{host}:",
                race_tables.times(of_host, RUNNERS),
                race_tables.ratios(of_host, RUNNERS, "ours"),
                race_tables.resources(of_host, RUNNERS),
            ]
    return "\n\n".join(parts)


def main(_):
    folder = pathlib.Path(_FOLDER.value)
    kept = Measurements(folder / "browser_measurements.jsonl")
    if not _TABLE.value:
        if _NPM.value is None or not (pathlib.Path(_NPM.value) / "node_modules").is_dir():
            raise app.UsageError(
                f"--npm must be a folder with `node_modules`, got {_NPM.value}. Make it: "
                "npm install --prefix=FOLDER onnxruntime-web @litertjs/core"
            )
        export_missing()
        for host in _HOSTS.value:
            if host == "node" and not shutil.which("node"):
                print("Left out: Node.js. There is no `node` on the path.", file=sys.stderr)
                continue
            race(host, kept)
    print(tables(kept.rows))


if __name__ == "__main__":
    app.run(main)
