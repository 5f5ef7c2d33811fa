# SPDX-License-Identifier: Apache-2.0
"""MMC4: a list of sentences, and pictures that are assigned to sentences but not placed.

    {"text_list": ["An owl.", "It hoots."], "similarity_matrix": [[0.3, 0.1]], "url": ...,
     "image_info": [{"image_name": "b9040a.jpg", "matched_text_index": 0, "matched_sim": 0.3}]}

A picture is shown before the sentence it is matched to, several in the order of `image_info`.
"""

from collections import defaultdict
from typing import Any

from owl.curate.converters.fields import leftovers, required, string_list, typed
from owl.curate.converters.pictures import PictureStore
from owl.curate.converters.records import Draft, LeftOut, MediaList, SourceRecord
from owl.errors import DataError

SEPARATOR = " "
"""Put before every sentence but the first: without it ("owl.It") sentences would be joined into one
word."""


def to_draft(record: SourceRecord, store: PictureStore) -> Draft:
    """Read one web document. Raises DataError."""
    value = typed(record.value, dict, "the record")
    sentences = string_list(required(value, "text_list", list), "text_list")
    infos = required(value, "image_info", list)
    media = MediaList()
    before: dict[int, list[int]] = defaultdict(list)
    left_out: list[LeftOut] = []
    for index, info in enumerate(infos):
        name, sentence = _match(info, f"image_info[{index}]", len(sentences))
        picture = store.add_unless_missing(media, name, name, left_out)
        if picture is not None:
            before[sentence].append(picture)
    return Draft(
        kind="document",
        turns=[{"role": "document", "content": _content(sentences, before)}],
        media=media,
        raw=leftovers(value, {"text_list"}),  # image_info is kept: it has scores
        left_out=left_out,
    )


def _match(info: object, name: str, sentences: int) -> tuple[str, int]:
    """Return the file name of a picture, and the index of its sentence."""
    fields = typed(info, dict, name)
    index = required(fields, "matched_text_index", int, of=name)
    if not 0 <= index < sentences:
        raise DataError(
            "E305", f"{name}.matched_text_index={index}, but text_list has {sentences} entries."
        )
    return required(fields, "image_name", str, of=name), index


def _content(sentences: list[str], before: dict[int, list[int]]) -> list[dict[str, Any]]:
    content: list[dict[str, Any]] = []
    for index, sentence in enumerate(sentences):
        content += [{"media": picture} for picture in before.get(index, [])]
        content.append({"text": sentence if index == 0 else SEPARATOR + sentence})
    return content
