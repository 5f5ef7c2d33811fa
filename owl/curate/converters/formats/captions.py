# SPDX-License-Identifier: Apache-2.0
"""Image-caption tars as img2dataset and webdataset write them: LAION, COYO, DataComp, CC12M.

    000000017.jpg  000000017.txt  000000017.json

The caption is the txt, character for character, or else `caption` or `text` of the json; `--map
caption=NAME` takes another member or field. The json is kept in meta.raw. Other members are not
read, unless they are pictures or videos, which nobody would see.
"""

from collections.abc import Mapping
from typing import Any

from owl.curate.converters.fields import required, typed
from owl.curate.converters.formats.media_fields import MEDIA_FILE
from owl.curate.converters.pictures import PictureStore
from owl.curate.converters.records import Draft, MediaList, SourceRecord
from owl.curate.converters.sources.json_text import parse_json
from owl.errors import DataError
from owl.portable.picture_reader_owl import SUFFIXES

PICTURES = tuple(suffix for suffixes in SUFFIXES.values() for suffix in suffixes)
CAPTIONS = ("caption", "text")
"""Fields of the json that may hold it."""


def to_draft(record: SourceRecord, store: PictureStore) -> Draft:
    """Read one picture and its caption.

    Args:
        record: {"key": name in the tar, "files": suffix -> bytes}.
        store: checks the picture; has the options.

    Raises:
        DataError.
    """
    key, files = record.value["key"], record.value["files"]
    media = MediaList()
    suffix = _picture_suffix(files)
    store.add_bytes(media, files[suffix], f"{key}.{suffix}")
    details = typed(parse_json(files["json"]), dict, "the json") if "json" in files else {}
    name = store.options.field_map.get("caption")
    caption = _caption(files, details, name)
    unread = sorted(files.keys() - {suffix, "txt", "json", name})
    raw = {"key": key, "json": details, "members": unread}
    return Draft(
        kind="document",
        turns=[{"role": "document", "content": [{"media": 0}, {"text": caption}]}],
        media=media,
        raw={field: value for field, value in raw.items() if value},
    )


def _picture_suffix(files: Mapping[str, bytes]) -> str:
    found = [suffix for suffix in PICTURES if suffix in files]
    if len(found) != 1:
        raise DataError("E305", f"one picture is needed, but there are {found}.")
    if others := sorted(s for s in files.keys() - set(found) if MEDIA_FILE.fullmatch(f"x.{s}")):
        raise DataError("E303", f"members {others} would not be shown. Remove them from the tar.")
    return found[0]


def _caption(files: Mapping[str, bytes], details: Mapping[str, Any], name: str | None) -> str:
    """Return the caption: of the member or field that the user named, or where it mostly is."""
    member = "txt" if name is None else name
    if member in files and member != "json":
        try:
            return files[member].decode("utf-8")
        except UnicodeDecodeError as error:
            raise DataError("E201", f"the {member} is not UTF-8: {error}.") from error
    if name is not None:
        return required(details, name, str, of="the json")
    found = [field for field in CAPTIONS if isinstance(details.get(field), str)]
    if len(found) != 1:
        raise DataError(
            "E305",
            f"there is a picture but no txt with its caption, and of {CAPTIONS} the json has "
            f"{found}. Give --map caption=NAME for another member or field of the json "
            f"({sorted(details)!r:.120}).",
        )
    return str(details[found[0]])
