# SPDX-License-Identifier: Apache-2.0
import io
import json
import sys
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from owl.curate.converters.job import ConvertJob
from owl.curate.converters.pictures import SourceFolder
from owl.curate.converters.records import ConvertOptions
from owl.curate.converters.video.video_file import open_video_file
from owl.curate.converters.video.video_frames import VideoClips, video_format
from owl.curate.tools import video_frames as tool
from owl.errors import DataError
from owl.portable.media.animation_owl import _stored_milliseconds
from owl.portable.media.frames_owl import FrameSampling, SamplingMode
from owl.portable.media.video_owl import CONTAINERS, upright_frame
from tests.unit.curate.converters.converting import run_job, write_lines

FPS = 10


@pytest.fixture
def av():
    return pytest.importorskip("av", reason="PyAV is optional (extra `video`)")


def shade(index: int) -> int:
    """Brightness of frame `index` of a test video: it tells which frame one looks at."""
    return 10 + 4 * index


def write_video(
    path: Path, *, frames=50, size=(96, 64), codec="libx264", layout=None, title=""
) -> Path:
    """Write a video of plain grey frames, with key frames and frames that come out of order."""
    import av

    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", options=layout or {}) as container:
        container.metadata["title"] = title
        stream = container.add_stream(codec, rate=FPS)
        stream.width, stream.height = size
        stream.pix_fmt = "yuv420p"
        stream.codec_context.gop_size = 12
        stream.codec_context.max_b_frames = 2
        for index in range(frames):
            pixels = np.full((size[1], size[0], 3), shade(index), dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    return path


def brightness(image) -> float:
    return float(np.asarray(image).mean())


def frames_seen(images) -> list[int]:
    return [round((brightness(image) - 10) / 4) for image in images]


def convert(tmp_path, *records, sampling=None, **options):
    clips = VideoClips(
        folder=SourceFolder(tmp_path / "videos"),
        sampling=sampling or FrameSampling(),
        **options,
    )
    job = ConvertJob(
        format=video_format(clips),
        input=write_lines(tmp_path / "in", *records),
        images=None,
        output=tmp_path / "shards",
        name="video",
        options=ConvertOptions(),
    )
    return run_job(job)


def stored_frames(sample) -> list[int]:
    files = sample.document["media"][0]["files"]
    return frames_seen(Image.open(io.BytesIO(sample.files[file])) for file in files)


# Which frames.


def evenly(frames: int, fps: float) -> list[float]:
    return [index / fps for index in range(frames)]


@pytest.mark.parametrize(
    ("frames", "fps", "chosen"),
    [
        (50, 10.0, [0, 10, 20, 30, 40]),  # 5 s at one a second
        (75, 29.97, [0, 30, 60]),
        (1, 25.0, [0]),
        (3, 0.4, [0, 1, 2]),  # slower than one a second: all of them
    ],
)
def test_the_published_rule_takes_one_frame_a_second(frames, fps, chosen):
    assert FrameSampling().choose(evenly(frames, fps), fps) == chosen


def test_too_many_candidates_are_thinned_from_the_middle_of_equal_parts():
    # 32 candidates a second apart, 16 parts of 2: int(2 i + 1) is the second of each.
    assert FrameSampling().choose(evenly(320, 10.0), 10.0) == [
        10 * index for index in range(1, 32, 2)
    ]


def test_uniform_sampling_takes_the_middles_of_all_frames():
    sampling = FrameSampling(mode=SamplingMode.uniform, max_frames=4)
    assert sampling.choose(evenly(40, 10.0), 10.0) == [5, 15, 25, 35]
    assert sampling.choose(evenly(3, 10.0), 10.0) == [0, 1, 2]


@pytest.mark.parametrize(
    ("seconds", "fps", "chosen"),
    [
        (evenly(50, 10.0), 1.0, [0, 10, 20, 30, 40]),
        (evenly(60, 30000 / 1001), 1.0, [0, 29]),  # the 31st comes a millisecond after 1 s
        ([0.0, 0.1, 0.2, 0.3, 5.0, 9.0], 0.5, [0, 3, 4]),  # frame 3 stays until second 5
        ([2.0, 2.5, 4.0], 1.0, [0, 1, 2]),  # a segment: times count from its first frame
        ([0.0], 2.0, [0]),
    ],
)
def test_sampling_by_time_takes_what_is_shown_then(seconds, fps, chosen):
    assert FrameSampling(mode=SamplingMode.time, fps=fps).choose(seconds, 7.0) == chosen


# Video files.


@pytest.mark.parametrize("codec", ["libx264", "mpeg4"])
def test_the_frames_asked_for_are_the_frames_decoded(av, tmp_path, codec):
    path = write_video(tmp_path / "a.mp4", codec=codec)
    with open_video_file(path) as video:
        assert len(video.times.seconds) == 50
        assert video.times.fps == pytest.approx(FPS)
        assert video.times.duration == pytest.approx(5.0)
        indices = [0, 3, 4, 17, 30, 49]
        assert frames_seen(video.decode(indices)) == indices


def test_a_playlist_that_names_other_files_is_not_opened(av, tmp_path):
    write_video(tmp_path / "secret.mp4")
    playlist = tmp_path / "list.mp4"
    playlist.write_text(f"ffconcat version 1.0\nfile '{tmp_path / 'secret.mp4'}'\n")
    with av.open(str(playlist), options={"safe": "0"}) as opened:  # what PyAV does if it may
        assert opened.format.name == "concat"
    with pytest.raises(DataError, match="E307"), open_video_file(playlist):
        pass


def test_only_the_named_containers_are_opened(av, tmp_path):
    assert "mov,mp4,m4a,3gp,3g2,mj2" in CONTAINERS
    write_video(tmp_path / "a.mp4")
    (tmp_path / "a.y4m").write_bytes(b"YUV4MPEG2 W2 H2 F25:1 C420jpeg\nFRAME\n" + bytes(6))
    with pytest.raises(DataError, match="E307"), open_video_file(tmp_path / "a.y4m"):
        pass


def test_a_torn_video_is_rejected_not_shortened(av, tmp_path):
    path = write_video(tmp_path / "a.mp4", layout={"movflags": "faststart"})
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 9 // 10])
    with pytest.raises(DataError, match=r"E308.*of 50 frames"), open_video_file(path):
        pass


def test_frames_that_cannot_be_decoded_reject_the_video(av, tmp_path):
    path = write_video(tmp_path / "a.mp4", size=(320, 240), layout={"movflags": "faststart"})
    data = bytearray(path.read_bytes())
    middle = (data.index(b"mdat") + len(data)) // 2
    data[middle:] = bytes(len(data) - middle)
    path.write_bytes(data)
    with pytest.raises(DataError, match="E308"), open_video_file(path) as video:
        list(video.decode(range(50)))


@pytest.mark.parametrize(
    ("name", "codec"), [("a.ts", "libx264"), ("a.avi", "mpeg4"), ("a.mpg", "mpeg2video")]
)
def test_containers_without_an_index_are_read_frame_by_frame(av, tmp_path, name, codec):
    path = write_video(tmp_path / name, codec=codec)
    with open_video_file(path) as video:
        assert len(video.times.seconds) == 50
        assert video.times.fps == pytest.approx(FPS, rel=0.01)
        every = list(video.decode(range(50)))
        some = list(video.decode([0, 7, 25, 49]))
    # These codecs move a grey by a few levels, up to one frame's step.
    assert all(abs(seen - index) <= 1 for index, seen in enumerate(frames_seen(every)))
    assert some == [every[index] for index in (0, 7, 25, 49)]


def test_frames_are_turned_upright():
    image = Image.new("RGB", (8, 4))
    image.putpixel((0, 0), (255, 0, 0))
    frame = SimpleNamespace(to_image=lambda: image, rotation=90, width=8, height=4)
    turned = upright_frame(frame)
    assert turned.size == (4, 8)
    assert turned.getpixel((0, 7)) == (255, 0, 0)  # counter-clockwise: top left to bottom left
    frame.rotation = 0
    assert upright_frame(frame) is image


# Records.


def test_a_video_with_a_text_becomes_a_document_of_its_frames(av, tmp_path):
    write_video(tmp_path / "videos/a.mp4", size=(320, 240))
    record = {"video": "a.mp4", "text": "It grows light.", "id": 7}
    (sample,) = convert(tmp_path, record, short_side=60).samples
    media = sample.document["media"][0]
    assert stored_frames(sample) == [0, 10, 20, 30, 40]
    assert media["t"] == pytest.approx([0.0, 1.0, 2.0, 3.0, 4.0])
    assert (media["w"], media["h"], media["duration"], media["of"]) == (80, 60, 5.0, "a.mp4")
    assert sample.document["turns"][0]["content"] == [{"media": 0}, {"text": "It grows light."}]
    assert sample.document["meta"]["raw"] == {"id": 7}


def test_each_segment_shows_its_own_frames_before_its_text(av, tmp_path):
    write_video(tmp_path / "videos/a.mp4")
    segments = [
        {"start": 0, "end": 1.0, "text": "Dark.", "score": 1},
        {"start": 1.0, "end": 4, "text": "Light."},
    ]
    record = {"video": "a.mp4", "segments": segments}
    sampling = FrameSampling(mode=SamplingMode.uniform, max_frames=2)
    (sample,) = convert(tmp_path, record, sampling=sampling).samples
    assert stored_frames(sample) == [2, 7, 17, 32]
    assert sample.document["turns"][0]["content"] == [
        {"media": 0, "frames": [0, 2]},
        {"text": "Dark."},
        {"media": 0, "frames": [2, 4]},
        {"text": "Light."},
    ]
    raw = [{"start": 0, "end": 1.0, "score": 1}, {"start": 1.0, "end": 4}]
    assert sample.document["meta"]["raw"] == {"segments": raw}


def test_conversations_and_captions_work_as_with_folders_of_frames(av, tmp_path):
    write_video(tmp_path / "videos/a.mp4")
    turns = [{"from": "human", "value": "<video>?"}, {"from": "gpt", "value": "Light."}]
    records = [
        {"video": "a.mp4", "conversations": turns},
        {"video_id": "a", "captions": [{"idx": "-1", "content": "Light."}]},
    ]
    samples = convert(tmp_path, *records).samples
    assert [sample.document["kind"] for sample in samples] == ["chat", "document"]
    assert [sample.document["turns"][-1]["content"][-1] for sample in samples] == [
        {"text": "Light."},
        {"text": "Light."},
    ]


@pytest.mark.parametrize(
    ("record", "code", "words"),
    [
        ({"video": "gone.mp4", "text": "!"}, "E302", "is not a file"),
        ({"video": "../a.mp4", "text": "!"}, "E302", "leads out of"),
        ({"video": "text.mp4", "text": "!"}, "E307", "not a video in a known container"),
        ({"video": 7, "text": "!"}, "E203", "video=7 must be a string"),
        ({"video": "a.mp4"}, "E203", "the fields of no layout"),
        ({"video": "a.mp4", "segments": []}, "E203", "segments is empty"),
        (
            {
                "video": "a.mp4",
                "images": ["a.jpg"],
                "segments": [{"start": 0, "end": 1, "text": "!"}],
            },
            "E305",
            "images=['a.jpg'] looks like a picture",
        ),
        (
            {"video": "a.mp4", "segments": [{"start": 2, "end": 1, "text": "!"}]},
            "E203",
            "segments[0] goes from 2.0 to 1.0",
        ),
        (
            {"video": "a.mp4", "segments": [{"start": 9, "end": 10, "text": "!"}]},
            "E313",
            "it lasts 5.000 s",
        ),
        (
            {"video": "a.mp4", "segments": [{"start": 4, "end": 7, "text": "!"}]},
            "E313",
            "it lasts 5.000 s, but a segment goes from 4.0 to 7.0",
        ),
        (
            {
                "video": "a.mp4",
                "segments": [
                    {"start": 0, "end": 2, "text": "!"},
                    {"start": 1, "end": 3, "text": "!"},
                ],
            },
            "E312",
            "segments[1] starts at 1.0, before segments[0] ends at 2.0",
        ),
    ],
)
def test_a_bad_record_is_rejected(av, tmp_path, record, code, words):
    write_video(tmp_path / "a.mp4", frames=2)
    write_video(tmp_path / "videos/a.mp4")
    (tmp_path / "videos/text.mp4").write_text("not found")
    reject = convert(tmp_path, record).reject
    assert reject["code"] == code
    assert words in reject["message"]


# The tool.


def test_the_tool_converts_with_workers_and_prints_what_it_did(av, tmp_path, capsys):
    write_video(tmp_path / "videos/a.mp4")
    source = write_lines(tmp_path / "in", {"video": "a.mp4", "text": "!"}, {"video": "a.mp4"})
    code = tool.main(
        [
            *("--input", str(source), "--videos", str(tmp_path / "videos")),
            *("--output", str(tmp_path / "out"), "--workers", "2", "--shard-samples", "1"),
        ]
    )
    captured = capsys.readouterr()
    assert code == 1
    assert "wrote 1 samples into 1 shards" in captured.out
    assert "rejected 1: E203 1" in captured.err


def test_without_pyav_the_tool_says_what_to_install(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "av", None)
    source = write_lines(tmp_path / "in", {"video": "a.mp4", "text": "!"})
    code = tool.main(
        ["--input", str(source), "--videos", str(tmp_path), "--output", str(tmp_path / "out")]
    )
    assert code == 2
    assert "pip install 'owl3-megatron[video]'" in capsys.readouterr().err


@pytest.mark.parametrize("size", [0, 1, 100])
def test_an_empty_or_tiny_video_is_rejected_and_the_others_are_converted(av, tmp_path, size):
    write_video(tmp_path / "videos/a.mp4", frames=2)
    (tmp_path / "videos/tiny.mp4").write_bytes(b"\0" * size)
    records = [{"video": f"{name}.mp4", "text": "!"} for name in ("a", "tiny", "a")]
    converted = convert(tmp_path, *records)
    assert (converted.report.samples, converted.reject["code"]) == (2, "E307")
    assert "'tiny.mp4'" in converted.reject["message"]


def test_a_title_in_another_encoding_is_no_fault_of_the_video(av, tmp_path):
    path = write_video(tmp_path / "videos/a.mp4", frames=2, title="A" * 16)
    path.write_bytes(path.read_bytes().replace(b"A" * 16, b"\xd6\xd0\xce\xc4" * 4))
    assert convert(tmp_path, {"video": "a.mp4", "text": "!"}).report.samples == 1


def test_a_codec_that_nobody_knows_is_rejected(av, tmp_path):
    path = write_video(tmp_path / "videos/a.mp4", frames=2)
    path.write_bytes(path.read_bytes().replace(b"avc1", b"zz99"))
    reject = convert(tmp_path, {"video": "a.mp4", "text": "!"}).reject
    assert (reject["code"], "codec" in reject["message"]) == ("E307", True)


def test_a_video_that_was_replaced_under_its_name_is_converted_again(av, tmp_path):
    write_video(tmp_path / "videos/a.mp4", frames=20)
    record = {"video": "a.mp4", "text": "!"}
    assert len(convert(tmp_path, record).document["media"][0]["files"]) == 2
    write_video(tmp_path / "videos/a.mp4", frames=40)
    assert len(convert(tmp_path, record).document["media"][0]["files"]) == 4


@pytest.mark.parametrize(
    "record",
    [
        {"query": "What?", "response": "It flies.", "videos": ["a.mp4"]},
        {
            "videos": ["a.mp4"],
            "messages": [
                {"role": "user", "content": "<video>What?"},
                {"role": "assistant", "content": "It flies."},
            ],
        },
        {
            "messages": [
                {
                    "role": "user",
                    "content": [
                        {"type": "video", "video": "file://a.mp4"},
                        {"type": "text", "text": "What?"},
                    ],
                },
                {"role": "assistant", "content": "It flies."},
            ],
        },
    ],
)
def test_chats_of_any_layout_show_videos(av, tmp_path, record):
    write_video(tmp_path / "videos/a.mp4", frames=20)
    turns = convert(tmp_path, record).document["turns"]
    assert turns[0]["content"] == [{"media": 0}, {"text": "What?"}]


# Videos as they are.


def test_a_segment_may_end_where_its_seconds_were_rounded(av, tmp_path):
    write_video(tmp_path / "videos/a.mp4")
    segments = [{"start": 4, "end": 5.4, "text": "!"}]
    (sample,) = convert(tmp_path, {"video": "a.mp4", "segments": segments}).samples
    assert stored_frames(sample) == [40]


@pytest.mark.parametrize("names", [("start", "end"), ("video_start", "video_end")])
@pytest.mark.parametrize("place", ["record", "part"])
def test_a_record_may_show_a_part_of_a_video(av, tmp_path, names, place):
    write_video(tmp_path / "videos/a.mp4")
    span = dict(zip(names, (1.5, 4), strict=True))
    part = {"type": "video", "video": "a.mp4"} | (span if place == "part" else {})
    record = {"video": "a.mp4", "text": "!"} | span
    if place == "part":
        asked = {"role": "user", "content": [part, {"type": "text", "text": "?"}]}
        record = {"messages": [asked, {"role": "assistant", "content": "!"}]}
    (sample,) = convert(tmp_path, record).samples
    assert stored_frames(sample) == [15, 25, 35]
    assert json.dumps(span)[1:-1] in json.dumps(sample.document["meta"]["raw"])


def test_the_end_of_a_part_of_a_video_may_be_left_out_but_not_be_wrong(av, tmp_path):
    write_video(tmp_path / "videos/a.mp4")
    records = [{"video": "a.mp4", "text": "!", "start": start} for start in (4, 5, "a", -1)]
    converted = convert(tmp_path, *records)
    assert [stored_frames(sample) for sample in converted.samples] == [[40], [0, 10, 20, 30, 40]]
    assert [reject["code"] for reject in converted.rejects] == ["E313", "E203"]


def write_timed(path: Path, milliseconds: list[int], sizes=((96, 64),), codec="libvpx") -> Path:
    """Write grey frames at these times, in equal parts of each size."""
    import av

    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        written = container.add_stream(codec, rate=1000)
        written.width, written.height = sizes[0]
        part = len(milliseconds) // len(sizes)
        for number, (width, height) in enumerate(sizes):
            encoder = av.CodecContext.create(codec, "w")
            encoder.width, encoder.height, encoder.pix_fmt = width, height, "yuv420p"
            encoder.time_base, encoder.options = Fraction(1, 1000), {"crf": "4", "b": "10M"}
            for index in range(number * part, (number + 1) * part):
                pixels = np.full((height, width, 3), shade(index), dtype=np.uint8)
                frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
                frame.pts, frame.time_base = milliseconds[index], encoder.time_base
                mux(container, written, encoder.encode(frame))
            mux(container, written, encoder.encode(None))
    return path


def mux(container, stream, packets) -> None:
    for packet in packets:
        packet.stream = stream
        container.mux(packet)


VARYING = [0, 100, 200, 300, 400, 500, 600, 700, 800, 4000]
"""Milliseconds of a screen recording: ten frames in 4 s, of which the last 3.2 s show one."""


@pytest.mark.parametrize(
    ("mode", "frames", "times"),
    [
        (SamplingMode.fps, [0, 2, 4, 6, 8], [0.0, 0.2, 0.4, 0.6, 0.8]),  # 2.25 a second on average
        (SamplingMode.time, [0, 8, 9], [0.0, 0.8, 4.0]),
    ],
)
def test_a_variable_rate_is_sampled_by_the_time_stamps(av, tmp_path, mode, frames, times):
    write_timed(tmp_path / "videos/a.webm", VARYING)
    record = {"video": "a.webm", "text": "!"}
    (sample,) = convert(tmp_path, record, sampling=FrameSampling(mode=mode)).samples
    assert stored_frames(sample) == frames
    assert sample.document["media"][0]["t"] == times


@pytest.mark.parametrize("name", ["a.webm", "a.mkv"])
def test_pictures_whose_size_changes_are_shown_in_the_size_of_the_first(av, tmp_path, name):
    write_timed(tmp_path / "videos" / name, [1000 * i for i in range(4)], [(96, 64), (48, 80)])
    (sample,) = convert(tmp_path, {"video": name, "text": "!"}).samples
    assert stored_frames(sample) == [0, 1, 2, 3]
    media = sample.document["media"][0]
    assert (media["w"], media["h"]) == (96, 64)
    pictures = [Image.open(io.BytesIO(sample.files[file])) for file in media["files"]]
    assert {picture.size for picture in pictures} == {(96, 64)}


def write_animation(path: Path, *, frames=10, milliseconds=500, size=(64, 48)) -> Path:
    """Write grey frames as GIF, WebP or PNG, by the suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    first, *others = [Image.new("RGB", size, (shade(index),) * 3) for index in range(frames)]
    first.save(path, save_all=True, append_images=others, duration=milliseconds, lossless=True)
    return path


@pytest.mark.parametrize("suffix", ["gif", "webp", "png"])
def test_animated_pictures_are_videos(tmp_path, suffix):
    write_animation(tmp_path / f"videos/a.{suffix}")
    (sample,) = convert(tmp_path, {"video": f"a.{suffix}", "text": "!"}).samples
    assert stored_frames(sample) == [0, 2, 4, 6, 8]
    media = sample.document["media"][0]
    assert (media["t"], media["duration"]) == ([0.0, 1.0, 2.0, 3.0, 4.0], 5.0)


def test_each_frame_of_an_animation_is_shown_for_its_own_time(tmp_path):
    shades = [Image.new("RGB", (8, 8), (shade(index),) * 3) for index in range(4)]
    (tmp_path / "videos").mkdir()
    shades[0].save(
        tmp_path / "videos/a.gif",
        save_all=True,
        append_images=shades[1:],
        duration=[100, 2000, 0, 1000],  # browsers show 0 for 100
    )
    record = {"video": "a.gif", "text": "!"}
    sampling = FrameSampling(mode=SamplingMode.time)
    (sample,) = convert(tmp_path, record, sampling=sampling).samples
    assert stored_frames(sample) == [0, 1]
    media = sample.document["media"][0]
    assert (media["t"], media["duration"]) == ([0.0, 0.1], 3.2)


@pytest.mark.parametrize("suffix", ["gif", "webp", "png"])
def test_times_are_read_from_headers_as_pillow_reads_them_by_decoding(tmp_path, suffix):
    frames = [Image.effect_noise((40, 30), 90).convert("RGB") for _ in range(5)]
    shown = [100, 2000, 250, 40, 1000]
    path = tmp_path / f"a.{suffix}"
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=shown)
    assert _stored_milliseconds(path.read_bytes()) == shown
    assert len(_stored_milliseconds(path.read_bytes()[:60])) < 5  # then Pillow counts


@pytest.mark.parametrize("start", [b"GIF89a", b"\x89PNG\r\n\x1a\n", b"RIFF\0\0\0\0WEBP"])
def test_a_damaged_animation_is_rejected(tmp_path, start):
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos/a.gif").write_bytes(start + bytes(100))
    reject = convert(tmp_path, {"video": "a.gif", "text": "!"}).reject
    assert reject["code"] in ("E307", "E308", "E309")
    assert "'a.gif'" in reject["message"]
