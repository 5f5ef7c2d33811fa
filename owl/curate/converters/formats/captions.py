# SPDX-License-Identifier: Apache-2.0
"""Image-caption tars as img2dataset writes them: LAION, COYO, DataComp, CC12M.

    000000017.jpg  000000017.txt  000000017.json

The caption is the txt, character for character; the json is kept in meta.raw.
"""

from collections.abc import Mapping
from typing import Any

from owl.curate.converters.fields import typed
from owl.curate.converters.pictures import PictureStore
from owl.curate.converters.records import Draft, MediaList, SourceRecord
from owl.curate.converters.sources.json_text import parse_json
from owl.errors import DataError

PICTURES = ("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff")
TEXTS = ("txt", "json")


def to_draft(record: SourceRecord, store: PictureStore) -> Draft:
    """Read one picture and its caption.

    Args:
        record: {"key": name in the tar, "files": suffix -> bytes}.
        store: checks the picture.

    Raises:
        DataError.
    """
    key, files = record.value["key"], record.value["files"]
    media = MediaList()
    suffix = _picture_suffix(files)
    store.add_bytes(media, files[suffix], f"{key}.{suffix}")
    return Draft(
        kind="document",
        turns=[
            {"role": "document", "content": [{"media": 0}, {"text": _caption(files)}]},
        ],
        media=media,
        raw={"key": key, **_details(files)},
    )


def _picture_suffix(files: Mapping[str, bytes]) -> str:
    strange = sorted(files.keys() - {*PICTURES, *TEXTS})
    if strange:
        # Among these are pickled members (.pkl, .pyd, .pth), which are never loaded.
        raise DataError(
            "E303", f"members {strange} are not a picture, txt or json. Remove them from the tar."
        )
    found = [suffix for suffix in PICTURES if suffix in files]
    if len(found) != 1:
        raise DataError("E305", f"one picture is needed, but there are {found}.")
    return found[0]


def _caption(files: Mapping[str, bytes]) -> str:
    if "txt" not in files:
        raise DataError("E305", "there is a picture but no txt with its caption.")
    try:
        return files["txt"].decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError("E201", f"the txt is not UTF-8: {error}.") from error


def _details(files: Mapping[str, bytes]) -> dict[str, Any]:
    if "json" not in files:
        return {}
    return {"json": typed(parse_json(files["json"]), dict, "the json")}
