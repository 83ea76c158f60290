"""A picture of the same seed's images, each computed elsewhere, side by side.

    python -m benchmarks.same_images --workdir=runs/quickstart --output=same_images.png \
        [--seed=0] [--aarch64=PROGRAM]

Panels: the checkpoint as trained, the exported sparse file in TensorFlow and in the runtime
(`pip install ./runtime`), the page in Chromium, and the runtime on AArch64 in an emulator.
PROGRAM is runtime/tests/draw.cc, built for AArch64 and linked with the library's objects, as
runtime/tests/test_targets.py does; without it that panel is left out. Below each panel stands how
far its images are from those of the checkpoint, in levels of 255.
"""

import pathlib
import subprocess
import tempfile

import numpy as np
from absl import app, flags
from playwright.sync_api import sync_playwright

_WORKDIR = flags.DEFINE_string("workdir", None, "A trained run, unconditional.", required=True)
_OUTPUT = flags.DEFINE_string("output", None, "Path of the .png.", required=True)
_SEED = flags.DEFINE_integer("seed", 0, "Seed of the images.", 0)
_AARCH64 = flags.DEFINE_string("aarch64", None, "Program that draws on AArch64.")
_CHROMIUM = flags.DEFINE_string("chromium", "/usr/bin/chromium", "Path of the browser.")

COUNT = 16
# uint8 values of a canvas, RGBA.
_PIXELS = """canvas => [...canvas.getContext("2d")
    .getImageData(0, 0, canvas.width, canvas.height).data]"""


def in_browser(page, shape):
    """uint8 [COUNT, H, W, C] of what a page shows."""
    height, width, channels = shape
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=_CHROMIUM.value, args=["--no-sandbox"])
        tab = browser.new_page()
        tab.set_default_timeout(300_000)
        tab.goto(page.resolve().as_uri())
        tab.get_by_label("Seed", exact=True).fill(str(_SEED.value))
        images = []
        for number in range(COUNT):
            tile = tab.locator(f'[data-number="{number}"] canvas')
            tile.wait_for()
            values = np.array(tile.evaluate(_PIXELS), np.uint8).reshape(height, width, 4)
            images.append(values[..., :channels])
        browser.close()
    return np.stack(images)


def on_aarch64(program, file, shape, folder):
    """uint8 [COUNT, H, W, C] of a program in an emulator."""
    from stugan_tf.images import to_uint8

    output = folder / "images"
    command = ["qemu-aarch64", program, file, COUNT, _SEED.value, 0, -1, output]
    subprocess.run(list(map(str, command)), check=True, stdout=subprocess.DEVNULL)
    return to_uint8(np.fromfile(output, np.float32).reshape(COUNT, *shape))


def panels(folder):
    """Title and images of each panel."""
    import stugan_tf as st
    from stugan_tf.serving import load
    from stugan_tf.serving.folding import fold_into_plain_layers
    from stugan_tf.serving.formats import FORMATS, Settings

    run = st.open_run(_WORKDIR.value)
    if run.interface.conditional:
        raise app.UsageError("--workdir must be of a GAN without labels.")
    yield "checkpoint", run.generate(COUNT, seed=_SEED.value)
    graph = fold_into_plain_layers(run.average)
    for kind in ("sparse", "html"):
        FORMATS[kind].write(folder, graph, run.interface, Settings())
    file = folder / FORMATS["sparse"].file
    for by in ("TensorFlow", "runtime"):
        generator = load(file, by=by.lower())
        yield f"sparse file, {by}", generator(COUNT, seed=_SEED.value)
    shape = run.interface.image_shape
    yield "page, Chromium", in_browser(folder / FORMATS["html"].file, shape)
    if _AARCH64.value:
        yield "runtime, AArch64 (QEMU)", on_aarch64(_AARCH64.value, file, shape, folder)


def main(_):
    from matplotlib import pyplot

    from stugan_tf.images import image_grid

    with tempfile.TemporaryDirectory() as folder:
        found = list(panels(pathlib.Path(folder)))
    figure, axes = pyplot.subplots(1, len(found), figsize=(2.4 * len(found), 2.7), dpi=100)
    reference = found[0][1].astype(int)
    for axis, (title, images) in zip(axes, found, strict=True):
        grid = np.broadcast_to(image_grid(images), (*image_grid(images).shape[:2], 3))
        axis.imshow(grid, interpolation="nearest")
        axis.set_title(title, fontsize=10)
        difference = np.abs(images.astype(int) - reference)
        words = f"{(difference > 0).sum()} of {difference.size:,} differ, by {difference.max()}"
        axis.set_xlabel("the reference" if images is found[0][1] else words, fontsize=9)
        axis.set_xticks([])
        axis.set_yticks([])
        print(f"{title}: {words}")
    figure.tight_layout()
    figure.savefig(_OUTPUT.value)


if __name__ == "__main__":
    app.run(main)
