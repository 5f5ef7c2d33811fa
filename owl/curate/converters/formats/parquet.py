# SPDX-License-Identifier: Apache-2.0
"""Parquet files of Hugging Face data sets, in their two layouts.

Interleaved (OBELICS): `images` and `texts` in parallel, see obelics.py; an image is a url, a path
or a picture stored in the table. Chat (The Cauldron): `images`, and `texts` as question and answer:

    images: [{"bytes": ..., "path": null}]
    texts:  [{"user": "What is it?", "assistant": "An owl.", "source": "vqa"}]

All pictures of a chat are shown before its first question, since the table has no places for them.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from owl.curate.converters.fields import leftovers, required, typed
from owl.curate.converters.formats import obelics
from owl.curate.converters.pictures import PictureStore
from owl.curate.converters.records import Draft, MediaList, SourceRecord
from owl.errors import DataError


def to_draft(record: SourceRecord, store: PictureStore) -> Draft:
    """Read one row of either layout. Raises DataError."""
    row = typed(record.value, dict, "the row")
    texts = required(row, "texts", list)
    if any(isinstance(text, dict) for text in texts):
        return _chat_draft(row, store)
    if any(isinstance(image, dict) for image in required(row, "images", list)):
        return _stored_draft(row, store)
    return obelics.to_draft(record, store)


# Chat.


def _chat_draft(row: Mapping[str, Any], store: PictureStore) -> Draft:
    media = MediaList()
    images = required(row, "images", list)
    for index, image in enumerate(images):
        _add_stored(image, f"images[{index}]", media, store)
    turns: list[dict[str, Any]] = []
    for index, text in enumerate(row["texts"]):
        name = f"texts[{index}]"
        pair = typed(text, dict, name)
        for role in ("user", "assistant"):
            turns.append({"role": role, "content": [{"text": required(pair, role, str, of=name)}]})
    turns[0]["content"] = [{"media": index} for index in range(len(images))] + turns[0]["content"]
    return Draft(
        kind="chat",
        turns=turns,
        media=media,
        raw=leftovers(row, {"images", "texts"})
        | _details(images)
        | {"texts": [leftovers(text, {"user", "assistant"}) for text in row["texts"]]},
        prompt_ending=store.options.prompt_ending,
    )


# Interleaved, with the pictures in the table.


def _stored_draft(row: Mapping[str, Any], store: PictureStore) -> Draft:
    images, texts = row["images"], row["texts"]
    obelics.check_parallel(images, texts)
    media = MediaList()
    content: list[dict[str, Any]] = []
    for index, (image, text) in enumerate(zip(images, texts, strict=True)):
        if text is None:
            content.append({"media": _add_stored(image, f"images[{index}]", media, store)})
        else:
            content.append({"text": typed(text, str, f"texts[{index}]")})
    return Draft(
        kind="document",
        turns=[{"role": "document", "content": content}],
        media=media,
        raw=leftovers(row, {"images", "texts"}) | _details(images),
    )


def _add_stored(image: object, name: str, media: MediaList, store: PictureStore) -> int:
    """Append a picture of the `datasets` library: its bytes, or a path to it."""
    fields = typed(image, dict, name)
    data = fields.get("bytes")
    if isinstance(data, bytes):
        return store.add_bytes(media, data)
    raise DataError(
        "E302", f"{name} holds no bytes (path={fields.get('path')!r:.80}). Embed the pictures."
    )


def _details(images: Sequence[dict[str, Any] | None]) -> dict[str, Any]:
    """What the table has of each picture besides its bytes, if anything: mostly a null path."""
    details = [leftovers(image, {"bytes"}) for image in images if image is not None]
    is_empty = all(value is None for each in details for value in each.values())
    return {} if is_empty else {"images": details}
