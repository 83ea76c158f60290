"""Videos for people: MP4 by an encoder that is installed, WebP and GIF by Pillow."""

import contextlib
import itertools
import os
import pathlib
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from typing import IO, Any

import numpy as np
from PIL import Image

from stugan_tf.errors import InputError

SUFFIXES = (".mp4", ".webp", ".gif")
MAX_IN_MEMORY = 2**31  # Bytes of the frames of a WebP or GIF, which Pillow holds all at once.


def check_encoder(path: pathlib.Path) -> None:
    """Raises InputError if nothing is installed that can write a video of this name."""
    if path.suffix.lower() == ".mp4":
        _ffmpeg()


def check_size(path: pathlib.Path, num_frames: int, size: tuple[int, int]) -> None:
    """Raises InputError if the frames of a WebP or GIF would take too much memory.

    Args:
        path: of the video.
        num_frames: number of frames.
        size: (height, width) of a frame.
    """
    num_bytes = 3 * num_frames * size[0] * size[1]
    if path.suffix.lower() != ".mp4" and num_bytes > MAX_IN_MEMORY:
        raise InputError(
            f"{num_frames:,} frames of {size[1]} x {size[0]} pixels take {num_bytes / 2**30:.1f} "
            f"GiB of memory as {path.suffix}; at most {MAX_IN_MEMORY / 2**30:.0f} are allowed. "
            "Write an .mp4, or fewer or smaller frames."
        )


def write_video(path: pathlib.Path, frames: Iterable[np.ndarray], fps: float) -> None:
    """Writes a video that is played again and again. Readers see the whole file or none of it.

    Args:
        path: of the file; its ending is one of `SUFFIXES`.
        frames: uint8 [H, W, 1 or 3], all of one shape; at least one.
        fps: frames a second.

    Raises:
        InputError: if there is no encoder, or it fails.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # An encoder knows the format by the ending.
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".writing_") as scratch:
        temporary = pathlib.Path(scratch) / f"video{path.suffix.lower()}"
        if path.suffix.lower() == ".mp4":
            _encode(temporary, map(_colours, frames), fps)
        else:
            _save(temporary, map(_colours, frames), fps)
        os.replace(temporary, path)


def _colours(frame: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(np.broadcast_to(frame, (*frame.shape[:2], 3)))


def _save(path: pathlib.Path, frames: Iterator[np.ndarray], fps: float) -> None:
    """Writes a WebP or a GIF, whose frames last whole milliseconds or hundredths of a second."""
    unit = 10 if path.suffix == ".gif" else 1  # Milliseconds.
    first, *others = map(Image.fromarray, frames)
    options: dict[str, Any] = {"quality": 90} if path.suffix == ".webp" else {}
    ends = [round(1000 / unit * count / fps) * unit for count in range(len(others) + 2)]
    first.save(
        path,
        save_all=True,
        append_images=others,
        duration=[end - begin for begin, end in itertools.pairwise(ends)],
        loop=0,  # For ever.
        **options,
    )


def _encode(path: pathlib.Path, frames: Iterator[np.ndarray], fps: float) -> None:
    """Writes an MP4 by ffmpeg, which gets the pixels through a pipe."""
    first = next(frames)
    height, width = first.shape[:2]
    pixels = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", f"{fps:g}"]
    # Players want colours at half the resolution, and with that sizes that are even.
    looks = ["-vf", "pad=ceil(iw/2)*2:ceil(ih/2)*2:color=white", "-pix_fmt", "yuv420p"]
    command = [_ffmpeg(), "-y", "-loglevel", "error", *pixels, "-i", "-", "-an", *looks]
    command += ["-c:v", "libx264", "-crf", "16", "-movflags", "+faststart", str(path)]
    with (
        tempfile.TemporaryFile() as errors,
        subprocess.Popen(command, stdin=subprocess.PIPE, stderr=errors) as process,
    ):
        assert process.stdin is not None
        try:
            process.stdin.write(first.data)
            for frame in frames:
                process.stdin.write(frame.data)
            process.stdin.close()
        except BrokenPipeError:
            _close(process.stdin)  # The encoder has ended, and says why below.
        except BaseException:
            process.kill()
            _close(process.stdin)
            raise
        if process.wait() or not path.is_file():
            errors.seek(0)
            said = errors.read().decode(errors="replace").strip().splitlines()
            raise InputError(
                f"The encoder {command[0]} failed: {said[-1] if said else 'it said nothing'}. "
                "Write an animation, such as walk.webp, instead, or install another: pip install "
                "'stugan_tf[video]'."
            )


def _close(pipe: IO[bytes]) -> None:
    """Closes a pipe whose reader is gone."""
    with contextlib.suppress(OSError):
        pipe.close()


def _ffmpeg() -> str:
    """The path of ffmpeg: that of the package imageio-ffmpeg, else the one on the PATH."""
    try:
        import imageio_ffmpeg

        return imageio_ffmpeg.get_ffmpeg_exe()
    except (ImportError, RuntimeError):
        found = shutil.which("ffmpeg")
    if found is None:
        raise InputError(
            "An .mp4 needs an encoder: pip install 'stugan_tf[video]', or put ffmpeg on the PATH. "
            "An animation needs none: give a name such as walk.webp or walk.gif."
        )
    return found
