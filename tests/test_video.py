"""Videos: what is in the file, and what an encoder is given."""

import os
import stat
import sys

import numpy as np
import pytest
from PIL import Image

from stugan_tf import video
from stugan_tf.errors import InputError
from stugan_tf.video import check_encoder, check_size, write_video

FRAMES = np.repeat(np.uint8([0, 90, 255])[:, None, None, None], 66, axis=1).repeat(70, axis=2)


@pytest.mark.parametrize("suffix", [".webp", ".gif"])
def test_an_animation_has_the_frames_and_takes_its_time(tmp_path, suffix):
    path = tmp_path / "new" / f"walk{suffix}"
    write_video(path, iter(FRAMES), fps=7)
    with Image.open(path) as image:
        assert (image.n_frames, image.size) == (3, (70, 66))
        durations = []
        for number, expected in enumerate([0, 90, 255]):
            image.seek(number)
            pixels = np.asarray(image.convert("RGB")).astype(int)
            assert np.abs(pixels - expected).max() <= 2
            durations.append(image.info["duration"])
    assert sum(durations) == pytest.approx(3000 / 7, abs=5)
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def encoder(folder, body):
    """A program named ffmpeg, in Python, which is the only one that can be found."""
    folder.mkdir()
    program = folder / "ffmpeg"
    program.write_text(f"#!{sys.executable}\nimport sys\n{body}\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return folder


@pytest.fixture
def path_alone(monkeypatch):
    """No package brings an encoder."""
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)


@pytest.mark.usefixtures("path_alone")
def test_an_encoder_gets_size_speed_and_all_pixels(tmp_path, monkeypatch):
    body = "open(sys.argv[-1], 'wb').write(repr(sys.argv).encode() + sys.stdin.buffer.read())"
    monkeypatch.setenv("PATH", str(encoder(tmp_path / "bin", body)))
    write_video(tmp_path / "walk.mp4", iter(FRAMES), fps=30)
    written = (tmp_path / "walk.mp4").read_bytes()
    assert b"'-s', '70x66', '-r', '30'" in written
    assert written.endswith(FRAMES.repeat(3, axis=-1).tobytes())
    assert sorted(os.listdir(tmp_path)) == ["bin", "walk.mp4"]


@pytest.mark.usefixtures("path_alone")
@pytest.mark.parametrize(
    "body", ["sys.exit('no such codec')", "sys.stdin.buffer.read(); sys.exit('no such codec')"]
)
def test_an_encoder_that_fails_is_quoted_and_leaves_nothing(tmp_path, monkeypatch, body):
    monkeypatch.setenv("PATH", str(encoder(tmp_path / "bin", body)))
    frames = [np.zeros([512, 512, 3], np.uint8)] * 4
    with pytest.raises(InputError, match=r"ffmpeg failed: no such codec\. Write an animation"):
        write_video(tmp_path / "walk.mp4", frames, fps=30)
    assert os.listdir(tmp_path) == ["bin"]


@pytest.mark.usefixtures("path_alone")
def test_frames_that_fail_end_the_encoder(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(encoder(tmp_path / "bin", "sys.stdin.buffer.read()")))

    def frames():
        yield FRAMES[0]
        raise InputError("The generator makes images in [-9, 9]")

    with pytest.raises(InputError, match="The generator makes images"):
        write_video(tmp_path / "walk.mp4", frames(), fps=30)
    assert os.listdir(tmp_path) == ["bin"]


@pytest.mark.usefixtures("path_alone")
def test_a_missing_encoder_is_told_with_what_needs_none(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match=r"stugan_tf\[video\].*walk.webp or walk.gif"):
        check_encoder(tmp_path / "walk.MP4")
    check_encoder(tmp_path / "walk.webp")


def test_an_mp4_can_be_read_back(tmp_path):
    imageio_ffmpeg = pytest.importorskip("imageio_ffmpeg")
    write_video(tmp_path / "walk.mp4", iter(np.repeat(FRAMES, 10, axis=0)), fps=30)
    about, *frames = imageio_ffmpeg.read_frames(str(tmp_path / "walk.mp4"))
    assert (about["size"], about["fps"], len(frames)) == ((70, 66), 30, 30)
    for number, expected in ((5, 0), (15, 90), (25, 255)):
        pixels = np.frombuffer(frames[number], np.uint8).astype(int)
        assert np.abs(pixels - expected).max() <= 3


def test_frames_that_do_not_fit_in_memory_are_refused(tmp_path):
    check_size(tmp_path / "walk.mp4", 10**6, (512, 512))
    check_size(tmp_path / "walk.webp", 300, (512, 512))
    with pytest.raises(InputError, match=r"GiB of memory as .webp; at most 2 .* Write an .mp4"):
        check_size(tmp_path / "walk.webp", video.MAX_IN_MEMORY // 512, (512, 512))
