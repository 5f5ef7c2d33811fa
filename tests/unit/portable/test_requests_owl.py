# SPDX-License-Identifier: Apache-2.0
"""Content entries as transformers, Qwen and OpenAI write them."""

import pytest

from owl.hf import Owl3Processor
from owl.portable.pictures_owl import Clip
from owl.portable.requests_owl import Ending, RequestError, read_conversation


def read(*entries):
    messages = [{"role": "user", "content": list(entries)}]
    return read_conversation(messages, Ending.closed, Owl3Processor.chat, need_media=True)


@pytest.mark.parametrize(
    ("entry", "source"),
    [
        ({"type": "image", "image": "a.jpg"}, "a.jpg"),
        ({"type": "image", "base64": "AAAA"}, "data:;base64,AAAA"),
        ({"type": "image_url", "image_url": {"url": "https://a.org/1.png"}}, "https://a.org/1.png"),
        ({"type": "image_url", "image_url": "data:image/png;base64,AA=="}, None),
        ({"type": "input_image", "image_url": "https://a.org/1.png"}, "https://a.org/1.png"),
    ],
)
def test_pictures_of_any_api(entry, source):
    assert read(entry).images == [source or entry["image_url"]]


@pytest.mark.parametrize(
    ("entry", "source"),
    [
        ({"type": "video", "video": "a.mp4", "max_pixels": 100}, "a.mp4"),
        ({"type": "video_url", "video_url": {"url": "https://a.org/1"}}, "https://a.org/1"),
        (
            {"type": "video", "video": "a.mp4", "video_start": 2, "video_end": 4.5},
            Clip("a.mp4", start=2, end=4.5),
        ),
        (
            {"type": "video", "path": "a.mp4", "fps": 2.0, "max_frames": 8},
            Clip("a.mp4", fps=2.0, max_frames=8),
        ),
    ],
)
def test_videos_of_any_api(entry, source):
    assert read(entry).videos == [source]


@pytest.mark.parametrize("wrong", [{"fps": 0}, {"max_frames": 0}, {"video_start": -1}])
def test_a_wrong_choice_of_frames_is_named(wrong):
    with pytest.raises(RequestError, match=next(iter(wrong))):
        read({"type": "video", "video": "a.mp4"} | wrong)
