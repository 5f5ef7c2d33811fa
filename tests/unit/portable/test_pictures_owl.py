# SPDX-License-Identifier: Apache-2.0
"""owl.hf decodes pictures as owl.data does, from any source."""

import base64
import io
import shutil
import subprocess
import sys
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import torch
from PIL import Image

from owl.data.encode import images
from owl.portable import pictures_owl
from owl.portable.media import animation_owl
from owl.portable.media.fetch_owl import ALLOW_PRIVATE
from owl.portable.media.frames_owl import FrameSampling, SamplingMode
from owl.portable.pictures_owl import (
    Clip,
    MediaError,
    load_frames,
    load_picture,
)
from tests.unit.curate.converters.test_video import (
    VARYING,
    convert,
    frames_seen,
    stored_frames,
    write_animation,
    write_timed,
)
from tests.unit.data.shard_factory import picture


@pytest.mark.parametrize(
    ("codec", "mode", "options"),
    [
        ("JPEG", "RGB", {}),
        ("JPEG", "L", {}),
        ("JPEG", "CMYK", {}),
        ("PNG", "RGBA", {}),
        ("PNG", "LA", {}),
        ("PNG", "P", {}),
        ("PNG", "1", {}),
        ("WEBP", "RGB", {"lossless": True}),
    ],
)
def test_pictures_are_decoded_as_for_training(codec, mode, options):
    data = picture(codec=codec, mode=mode, **options)
    np.testing.assert_array_equal(np.asarray(load_picture(data)), images.decode_picture(data))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_turned_upright_as_for_training(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = picture(exif=exif.tobytes())
    np.testing.assert_array_equal(np.asarray(load_picture(data)), images.decode_picture(data))


def test_sixteen_bit_pictures_are_scaled_as_for_training():
    stream = io.BytesIO()
    Image.fromarray(np.arange(0, 65536, 512, dtype=np.uint16).reshape(8, 16)).save(stream, "PNG")
    data = stream.getvalue()
    np.testing.assert_array_equal(np.asarray(load_picture(data)), images.decode_picture(data))


@pytest.fixture
def server(tmp_path):
    """Serve a folder on this machine."""
    handler = partial(SimpleHTTPRequestHandler, directory=str(tmp_path))
    handler.func.log_message = lambda *_: None
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as http:
        threading.Thread(target=http.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{http.server_port}"
        http.shutdown()


def test_a_picture_may_come_in_any_form(tmp_path, server, monkeypatch):
    monkeypatch.setenv(ALLOW_PRIVATE, "1")
    data = picture(codec="PNG")
    (tmp_path / "a.png").write_bytes(data)
    opened = Image.open(io.BytesIO(data))
    pixels = np.asarray(opened)
    sources = [
        data,
        tmp_path / "a.png",
        str(tmp_path / "a.png"),
        f"file://{tmp_path}/a.png",
        f"{server}/a.png",
        f"data:image/png;base64,{base64.b64encode(data).decode()}",
        opened,
        pixels,
        torch.tensor(pixels),
        torch.tensor(pixels).permute(2, 0, 1),
    ]
    for source in sources:
        np.testing.assert_array_equal(np.asarray(load_picture(source)), pixels)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("no/such/file.png", "no/such/file.png cannot be read"),
        ("http://127.0.0.1:1/a.png", "cannot be read"),
        (b"not a picture", "the bytes given cannot be decoded"),
        (picture()[:200], "cannot be decoded"),
        (None, "a NoneType is no path, address or bytes"),
        (np.zeros((4, 4, 3)), "float64 has no defined range"),
        (np.zeros((2, 4, 4, 5), np.uint8), r"shape \[2, 4, 4, 5\]"),
        (Image.new("F", (4, 4)), "mode F"),
        (picture(codec="EPS"), "none of JPEG, PNG"),
        (Image.open(io.BytesIO(picture(codec="EPS"))), "Ghostscript would run"),
        (picture(codec="ICNS"), "none of JPEG, PNG"),
    ],
)
def test_a_picture_that_cannot_be_used_is_named(source, message):
    with pytest.raises(MediaError, match=message):
        load_picture(source)


def test_a_video_may_be_frames_an_array_or_an_animation(tmp_path):
    shades = [10, 120, 240]
    frames = [Image.new("RGB", (8, 8), (shade,) * 3) for shade in shades]
    frames[0].save(
        tmp_path / "a.gif", save_all=True, append_images=frames[1:], duration=1000, loop=0
    )
    array = np.stack([np.asarray(frame) for frame in frames])
    for source in (frames, [np.asarray(frame) for frame in frames], array, tmp_path / "a.gif"):
        loaded = load_frames(source, 16)
        assert [frame.getpixel((0, 0))[0] for frame in loaded] == pytest.approx(shades, abs=4)
    assert len(load_frames(array, 2)) == 2


def test_a_video_without_frames_or_decoder_is_named(tmp_path):
    with pytest.raises(MediaError, match="holds no frame"):
        load_frames([], 16)
    (tmp_path / "a.mp4").write_bytes(b"not a video")
    with pytest.raises(MediaError, match=r"a\.mp4 (needs PyAV|cannot be decoded)"):
        load_frames(tmp_path / "a.mp4", 16)


def test_a_video_file_gives_one_frame_a_second(tmp_path):
    av = pytest.importorskip("av")
    with av.open(tmp_path / "a.mp4", "w") as container:
        stream = container.add_stream("mpeg4", rate=5)
        stream.width = stream.height = 32
        for shade in range(20, 220, 10):  # 20 frames, four seconds
            pixels = np.full((32, 32, 3), shade, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())

    shades = [frame.getpixel((5, 5))[0] for frame in load_frames(tmp_path / "a.mp4", 16)]

    assert shades == pytest.approx([20, 70, 120, 170], abs=8)
    assert len(load_frames(str(tmp_path / "a.mp4"), 2)) == 2


def test_frames_are_those_that_conversion_stores(tmp_path):
    pytest.importorskip("av")
    path = write_timed(tmp_path / "videos/a.webm", VARYING)
    for mode, options in ((SamplingMode.fps, {}), (SamplingMode.time, {"fps": 1.0})):
        record = {"video": "a.webm", "text": "!"}
        shard = convert(tmp_path, record, sampling=FrameSampling(mode=mode), quality=100)
        loaded = load_frames(path, 16, **options)
        assert frames_seen(loaded) == stored_frames(shard.samples[0])
        shutil.rmtree(tmp_path / "shards")


def test_a_clip_chooses_its_own_frames(tmp_path):
    path = write_animation(tmp_path / "a.gif")  # ten frames, two a second
    assert frames_seen(load_frames(Clip(path, start=2.0, end=4.0))) == [4, 6]
    assert frames_seen(load_frames(Clip(path, fps=2.0), 16, 1.0)) == list(range(10))
    assert frames_seen(load_frames(Clip(path.read_bytes(), max_frames=1), 16)) == [4]
    with pytest.raises(MediaError, match=r"a\.gif: it lasts 5.000 s, but a segment goes from 1"):
        load_frames(Clip(path, start=1, end=9))
    with pytest.raises(MediaError, match="of single frames has no times"):
        load_frames([np.zeros((4, 4, 3), np.uint8)], fps=2.0)


@pytest.mark.parametrize("suffix", ["gif", "webp", "png"])
def test_an_animation_is_in_memory_one_frame_at_a_time(tmp_path, suffix):
    path = write_animation(tmp_path / f"a.{suffix}", frames=60, size=(1000, 1000))
    code = (
        "import resource, sys; from owl.portable.pictures_owl import load_frames\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "assert len(load_frames(sys.argv[1], 2)) == 2\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True
    )
    assert int(ran.stdout) < 60_000  # kilobytes; all frames have 180 MB


def test_an_animation_of_endless_frames_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(animation_owl, "MAX_ANIMATED_PIXELS", 1000)
    with pytest.raises(MediaError, match="10 frames of 64x48, more than 1000 pixels in all"):
        load_frames(write_animation(tmp_path / "a.gif"))


def test_a_video_that_names_other_files_is_refused(tmp_path):
    pytest.importorskip("av")
    script = tmp_path / "script.mp4"
    script.write_text("ffconcat version 1.0\nfile other.mp4\n")
    with pytest.raises(pictures_owl.MediaError, match="cannot be decoded"):
        pictures_owl.load_frames(str(script))
