# SPDX-License-Identifier: Apache-2.0
"""LLaVA instruction data. M4 and ShareGPT4Video have the same turns and use this module.

    {"id": "17", "image": "coco/17.jpg", "conversations": [
        {"from": "human", "value": "<image>\\nWhat is it?"}, {"from": "gpt", "value": "An owl."}]}

`image` is a string, a list, null or absent (text only). The text has a mark for each picture.
"""

from collections.abc import Mapping
from typing import Any

from owl.curate.converters.fields import typed
from owl.curate.converters.formats.layouts import chat_draft
from owl.curate.converters.formats.turns import RecordReader
from owl.curate.converters.pictures import ClipSource, PictureStore
from owl.curate.converters.records import Draft, SourceRecord


def to_draft(record: SourceRecord, store: PictureStore) -> Draft:
    """Read one conversation about pictures. Raises DataError."""
    return conversation_draft(typed(record.value, dict, "the record"), store, store)


def conversation_draft(value: Mapping[str, Any], clips: ClipSource, store: PictureStore) -> Draft:
    """Read one conversation about pictures and videos. Raises DataError."""
    draft = chat_draft(dict(value), "conversations", RecordReader(store, clips))
    draft.id = value["id"] if isinstance(value.get("id"), str) and value["id"] else None
    return draft
