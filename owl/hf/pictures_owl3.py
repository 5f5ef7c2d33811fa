# SPDX-License-Identifier: Apache-2.0
"""Pictures and videos from wherever a user has them, and tiles from pictures.

What owl/data/images.py makes for training, with Pillow alone, for a folder that travels without
the rest of owl (tests/unit/hf/test_pictures_owl3.py holds the two together).
"""

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps, ImageSequence
from torch import Tensor

URL_TIMEOUT_SECONDS = 30
DEFAULT_MAX_FRAMES = 16  # of the model cards
ANIMATED = {".gif", ".webp", ".png", ".apng"}

Grid = tuple[int, int]
"""Rows and columns into which a picture is cut; a global view of it comes on top."""

PUBLISHED_GRIDS: tuple[Grid, ...] = ((2, 2), (1, 3), (1, 4), (3, 1), (4, 1), (2, 3), (3, 2))
"""In their published order; 1x1 is not among them, so even a small picture is cut."""


class MediaError(ValueError):
    """A picture or video cannot be used; the message names it."""


# Pictures.


def load_picture(source: Any) -> Image.Image:
    """Open a picture as upright RGB.

    Args:
        source: path, http(s) or data URL, bytes, PIL picture, or uint8 array or tensor
            [h, w], [h, w, 3] or [3, h, w].

    Raises:
        MediaError: it cannot be read.
    """
    if isinstance(source, Image.Image):
        return to_rgb(source)
    if isinstance(source, np.ndarray | Tensor):
        return _from_array(np.asarray(source))
    data = source if isinstance(source, bytes) else _read(source)
    name = "the bytes given" if isinstance(source, bytes) else shorten(source)
    try:
        with Image.open(io.BytesIO(data)) as image:
            return to_rgb(_upright(image))
    except MediaError:
        raise
    except Exception as error:  # Pillow raises whatever the parsers of damaged files meet
        raise MediaError(f"picture {name} cannot be decoded: {error}.") from error


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert any mode with an obvious meaning to RGB; alpha is laid on white."""
    if image.mode in ("I", "F"):
        raise MediaError(f"a picture of mode {image.mode} has no defined range: give 8 or 16 bit.")
    if image.mode.startswith("I;16"):
        # convert("RGB") would clip at 255 instead of scaling.
        high_byte = (np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8)
        return Image.fromarray(high_byte).convert("RGB")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, "white")
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")


def shorten(source: Any) -> str:
    """Name a source in a message."""
    text = str(source)
    return text if len(text) <= 200 else f"{text[:200]}..."


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image) or image
    except Exception:  # a broken EXIF block: show the picture as it lies, as browsers do
        return image


def _read(source: str | Path) -> bytes:
    """Fetch the bytes of a path or URL."""
    text = str(source)
    try:
        if text.startswith("data:"):
            return base64.b64decode(text.partition(",")[2], validate=True)
        if text.startswith(("http://", "https://")):
            with urlopen(text, timeout=URL_TIMEOUT_SECONDS) as answer:
                data: bytes = answer.read()
                return data
        return Path(text.removeprefix("file://")).read_bytes()
    except (OSError, ValueError) as error:
        raise MediaError(f"{shorten(text)} cannot be read: {error}.") from error


def _from_array(array: np.ndarray) -> Image.Image:
    if array.dtype != np.uint8:
        raise MediaError(
            f"a picture array of {array.dtype} has no defined range: give uint8, 0..255."
        )
    if array.ndim == 3 and array.shape[0] == 3 and array.shape[2] != 3:
        array = array.transpose(1, 2, 0)
    if array.ndim != 2 and (array.ndim != 3 or array.shape[2] not in (3, 4)):
        raise MediaError(
            f"a picture array of shape {list(array.shape)}: give [h, w], [h, w, 3] or [3, h, w]."
        )
    return to_rgb(Image.fromarray(np.ascontiguousarray(array)))


# Tiles.


def choose_grid(width: int, height: int, image_size: int, max_tiles: int | None) -> Grid | None:
    """Pick the published grid whose shape, then size, is closest to the picture's ("docowl").

    Each grid is a box of columns x rows tiles, compared by intersection over union with the
    picture's shape at the box's width (counts 100 times) and with the picture itself.

    Args:
        width: of the picture.
        height: of the picture.
        image_size: side of a tile.
        max_tiles: most tiles that the picture may give, its global view included.

    Returns:
        None where no grid is small enough: the picture is then one tile.
    """

    def score(grid: Grid) -> float:
        box = (grid[1] * image_size, grid[0] * image_size)
        return 100 * _overlap(box, (box[0], box[0] * height / width)) + _overlap(
            box, (width, height)
        )

    allowed = [
        grid for grid in PUBLISHED_GRIDS if max_tiles is None or count_tiles(grid) <= max_tiles
    ]
    return max(allowed, key=score, default=None)  # the first of equals, as published


def count_tiles(grid: Grid | None) -> int:
    """Tiles that a grid gives, the global view included."""
    return grid[0] * grid[1] + 1 if grid else 1


def _overlap(box: tuple[float, float], other: tuple[float, float]) -> float:
    """Intersection over union of two boxes that share a corner (published: union + 1e-5)."""
    shared = min(box[0], other[0]) * min(box[1], other[1])
    return shared / (box[0] * box[1] + other[0] * other[1] - shared + 1e-5)


def make_tiles(picture: Image.Image, image_size: int, grid: Grid | None) -> Tensor:
    """Resize a picture, without keeping its aspect ratio, to one tile or to a grid of tiles.

    Args:
        picture: RGB.
        image_size: side of a tile, s.
        grid: None for a single tile.

    Returns:
        [m, 3, s, s] uint8; the cells row by row, then the global view.
    """
    pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None]  # [1, 3, h, w]
    whole = _resize(pixels, image_size, image_size)
    if grid is None:
        return whole
    rows, columns = grid
    large = _resize(pixels, rows * image_size, columns * image_size)[0]
    cells = large.unflatten(2, (columns, image_size)).unflatten(1, (rows, image_size))
    return torch.cat([cells.permute(1, 3, 0, 2, 4).flatten(0, 1), whole])


def _resize(pixels: Tensor, height: int, width: int) -> Tensor:
    return F.interpolate(
        pixels, size=(height, width), mode="bicubic", antialias=True, align_corners=False
    ).contiguous()


# Videos.


def load_frames(source: Any, max_frames: int) -> list[Image.Image]:
    """Open a video as frames.

    Args:
        source: a list of pictures, taken as it is; a uint8 array [frames, h, w, 3]; a path or URL
            of an animated picture or, with PyAV installed, of a video.
        max_frames: most frames; of more, the middles of that many equal parts are taken.

    Raises:
        MediaError: it cannot be read, or holds no frame.
    """
    if isinstance(source, list | tuple):
        frames = [load_picture(frame) for frame in source]
    elif isinstance(source, np.ndarray | Tensor):
        array = np.asarray(source)
        frames = [_from_array(array[index]) for index in spread(len(array), max_frames)]
    elif Path(str(source)).suffix.lower() in ANIMATED:
        frames = _animation(source, max_frames)
    else:
        frames = _video(source, max_frames)
    if not frames:
        raise MediaError(f"video {shorten(source)} holds no frame.")
    return frames


def spread(count: int, most: int) -> list[int]:
    """Choose frames: all of them, or the middles of `most` equal parts (published)."""
    if count <= most:
        return list(range(count))
    gap = count / most
    return [int(part * gap + gap / 2) for part in range(most)]


def one_a_second(count: int, frames_per_second: float, most: int) -> list[int]:
    """Choose one frame a second, then at most `most` of those (published)."""
    step = max(round(frames_per_second), 1)
    seconds = range(0, count, step)
    return [seconds[index] for index in spread(len(seconds), most)]


def _animation(source: str | Path, max_frames: int) -> list[Image.Image]:
    data = _read(source)
    try:
        with Image.open(io.BytesIO(data)) as image:
            frames = [to_rgb(frame) for frame in ImageSequence.Iterator(image)]
            milliseconds = image.info.get("duration") or 100
    except Exception as error:  # Pillow raises whatever the parsers of damaged files meet
        raise MediaError(f"video {shorten(source)} cannot be decoded: {error}.") from error
    chosen = one_a_second(len(frames), 1000 / milliseconds, max_frames)
    return [frames[index] for index in chosen]


def _video(source: str | Path, max_frames: int) -> list[Image.Image]:
    try:
        import av
    except ImportError as error:
        raise MediaError(
            f"video {shorten(source)} needs PyAV: pip install av, or give the frames as a list of "
            "pictures."
        ) from error
    data = _read(source)
    try:
        with av.open(io.BytesIO(data)) as container:
            stream = container.streams.video[0]
            rate = float(stream.average_rate or 1)
            count = int(stream.frames) or len(list(container.decode(stream)))
        wanted = one_a_second(count, rate, max_frames)
        with av.open(io.BytesIO(data)) as container:
            return _pick(container.decode(container.streams.video[0]), wanted)
    except Exception as error:  # ffmpeg's errors have no common base worth naming
        raise MediaError(f"video {shorten(source)} cannot be decoded: {error}.") from error


def _pick(frames: Any, wanted: Sequence[int]) -> list[Image.Image]:
    """Keep the frames at the wanted, increasing indices."""
    left, chosen = set(wanted), []
    for index, frame in enumerate(frames):
        if index in left:
            chosen.append(frame.to_image())
            left.discard(index)
        if not left:
            break
    return chosen
