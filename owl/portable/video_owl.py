# SPDX-License-Identifier: Apache-2.0
"""What conversion and owl.hf agree on about video files: which may be opened, and which way is up.

PyAV is imported by the callers, which need it only where a video is read.
"""

from typing import Any, BinaryIO

from PIL import Image

CONTAINERS = (
    "mov,mp4,m4a,3gp,3g2,mj2",
    "matroska,webm",
    "avi",
    "mpegts",
    "mpeg",
    "ogg",
    "flv",
    "asf",
)
"""Formats that contain their frames. With playlists and concatenations, FFmpeg would open any file
or address that they name."""
OPEN_OPTIONS = {
    "format_whitelist": ",".join(CONTAINERS),
    "protocol_whitelist": "none",  # a second barrier: there is no such protocol
}
INDEXED = CONTAINERS[:2]
"""Formats that store each frame's time, so that a frame is found without decoding the others."""


def open_video(av: Any, file: BinaryIO) -> Any:
    """Open a video with PyAV, of the containers above only; unreadable metadata is no problem.

    Args:
        av: the module.
        file: at its start.
    """
    return av.open(file, options=OPEN_OPTIONS, metadata_errors="replace")


def upright_frame(frame: Any) -> Image.Image:
    """Return a decoded frame as its display matrix wants it: phones write 90 degrees."""
    image: Image.Image = frame.to_image()
    return image.rotate(frame.rotation, expand=True) if frame.rotation else image
