# SPDX-License-Identifier: Apache-2.0
"""Which fields of a record name its pictures and videos, and which look as if they did.

A field that looks like a picture and is read by nobody would give a sample that speaks of something
it does not show. Such a record is rejected, and the message says how to name the field.
"""

import re
from collections.abc import Collection, Mapping
from typing import Any

from owl.errors import DataError

FIELDS = {
    "image": (
        ("images", "image"),
        ("image_path", "image_paths", "img_path", "file_name", "file_names"),
    ),
    "video": (("videos", "video"), ("video_path", "video_paths")),
}
"""Kind -> the fields that name its media, and those that do so only where none of the first is
there: beside pictures they say where these came from."""

MEDIA_WORDS = r"(?:image|img|picture|photo|pic|figure|screenshot|video|clip|frame|movie)"
MEDIA_FIELD = re.compile(
    rf"(?:.*[_-])?{MEDIA_WORDS}s?(?:[_-]?\d+)?(?:[_-]?(?:path|file|data|b64|base64|bytes)s?)?"
)
ORIGIN_FIELD = re.compile(rf"(?:.*[_-])?{MEDIA_WORDS}s?[_-]?(?:file_?)?(?:name|ur[li]|src|root)s?")
PICTURES = r"jpe?g|png|webp|gif|bmp|tiff?|svg|avif|heic"
VIDEOS = r"mp4|m4v|mkv|mov|avi|webm|mpe?g|wmv"
PICTURE_FILE = re.compile(rf"\S.{{0,1000}}\.(?:{PICTURES})", re.IGNORECASE)
VIDEO_FILE = re.compile(rf"\S.{{0,1000}}\.(?:{VIDEOS})", re.IGNORECASE)
MEDIA_FILE = re.compile(rf"\S.{{0,1000}}\.(?:{PICTURES}|{VIDEOS})(?:\?\S*)?", re.IGNORECASE)
MEDIA_NAME = re.compile(r"(?=\S*[A-Za-z])\S*[./\\]\S*|\S{64,}")
"""A path, a url, or base64: not a number, a word or a sentence."""


def find_field(value: Mapping[str, Any], kind: str) -> str | None:
    """Return the field that names the media of a kind; None if no field does.

    Raises:
        DataError: E305 two fields do.
    """
    for names in FIELDS[kind]:
        found = [name for name in names if _names_some(name, value.get(name))]
        if len(found) > 1:
            raise DataError(
                "E305",
                f"{found[0]} and {found[1]} both name media. Remove one, or give "
                f"--ignore-field {found[1]} to keep it in meta.raw only.",
            )
        if found:
            return found[0]
    return None


def _names_some(name: str, value: object) -> bool:
    """Whether a field is there; `file_name` names other files too, such as those of code."""
    if name in ("file_name", "file_names"):
        return _mentions(value, PICTURE_FILE)
    return value not in (None, [])


def listed(value: object) -> list[Any]:
    """A list as it is, anything else as the only element of one; None gives an empty one."""
    if value is None:
        return []
    return value if isinstance(value, list) else [value]


def check_all_read(
    rest: Mapping[str, Any], *, has_media: bool, ignored: Collection[str] = (), where: str = ""
) -> None:
    """Refuse fields that look like media and that nobody has read.

    Args:
        rest: the fields of a record, message or part that its layout does not read.
        has_media: whether the record has other pictures or videos: names of files and urls beside
            them tell where those came from.
        ignored: fields of which the user said that they are not to be shown.
        where: path of these fields in the record, for the message.

    Raises:
        DataError: E305.
    """
    for name, value in rest.items():
        if name in ignored or not _looks_unread(name, value, has_media=has_media):
            continue
        is_video = re.search("video|clip|movie", name) or _mentions(value, VIDEO_FILE)
        kind = "videos" if is_video else "images"
        raise DataError(
            "E305",
            f"{where}{name}={value!r:.60} looks like a picture or video, but no layout reads this "
            f"field. Give --map {kind}={name} to show it, or --ignore-field {name} to learn the "
            "text without it.",
        )


def _looks_unread(name: str, value: object, *, has_media: bool) -> bool:
    lower = name.lower()
    if MEDIA_FIELD.fullmatch(lower):
        return _mentions(value, MEDIA_NAME)
    if has_media:
        return False
    return _mentions(value, MEDIA_NAME if ORIGIN_FIELD.fullmatch(lower) else MEDIA_FILE)


def _mentions(value: object, pattern: re.Pattern[str], depth: int = 3) -> bool:
    """Whether a value is, or contains, bytes or a string of the pattern."""
    if isinstance(value, str):
        return pattern.fullmatch(value) is not None
    if isinstance(value, bytes):
        return bool(value)
    if not depth or not isinstance(value, list | dict):
        return False
    inner = value.values() if isinstance(value, dict) else value
    return any(_mentions(item, pattern, depth - 1) for item in inner)
