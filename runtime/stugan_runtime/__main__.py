"""Draws a grid of images: python -m stugan_runtime generator.safetensors --output=grid.png."""

import argparse
import pathlib
import sys

from stugan_runtime.generator import PRECISIONS, load
from stugan_runtime.library import RuntimeFault
from stugan_runtime.pictures import grid, png


def main(arguments: list[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m stugan_runtime", description="Draws a grid of images as a PNG file."
    )
    parser.add_argument("file", help="a .safetensors file of stugan_tf.export --format=sparse")
    parser.add_argument("--output", required=True, help="path of the PNG file")
    parser.add_argument("--num_images", type=int, default=64)
    parser.add_argument("--columns", type=int, help="images in a row; about square by default")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--label", type=int, help="a class; drawn for each image by default")
    parser.add_argument("--truncation", type=float, help="where latents are cut off")
    parser.add_argument("--num_threads", type=int, help="by default one for each processor")
    parser.add_argument(
        "--precision",
        choices=sorted(PRECISIONS),
        default="auto",
        help="of sparse convolutions; by default float16 where the processor and the file allow it",
    )
    given = parser.parse_args(arguments)
    if given.columns is not None and given.columns < 1:
        parser.error(f"--columns must be at least 1, got {given.columns}.")
    try:
        generator = load(given.file, given.num_threads, given.precision)
        images = generator(given.num_images, given.seed, given.label, given.truncation)
        pathlib.Path(given.output).write_bytes(png(grid(images, given.columns)))
    except (RuntimeFault, ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
