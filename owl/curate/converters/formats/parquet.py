# SPDX-License-Identifier: Apache-2.0
"""Parquet files of Hugging Face data sets, in their two layouts.

Interleaved (OBELICS): `images` and `texts` in parallel, see obelics.py; an image is a url, a path
or a picture stored in the table. Chat (The Cauldron): `images`, and `texts` as question and answer:

    images: [{"bytes": ..., "path": null}]
    texts:  [{"user": "What is it?", "assistant": "An owl.", "source": "vqa"}]

All pictures of a chat are shown before its first question, since the table does not place them.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from owl.curate.converters.fields import leftovers, required, typed
from owl.curate.converters.formats import obelics
from owl.curate.converters.pictures import PictureStore
from owl.curate.converters.records import Draft, MediaList, OpenedSample, SourceRecord
from owl.errors import DataError

FAMILY = "parquet"


def to_draft(record: SourceRecord, store: PictureStore) -> Draft:
    """Read one row of either layout. Raises DataError."""
    row = typed(record.value, dict, "the row")
    texts = required(row, "texts", list)
    if any(isinstance(text, dict) for text in texts):
        return _chat_draft(row, store)
    if any(isinstance(image, dict) for image in required(row, "images", list)):
        return _stored_draft(row, store)
    return obelics.to_draft(record, store)


def to_source(sample: OpenedSample) -> dict[str, Any]:
    """Give the row back."""
    if sample.form.get("layout") == "chat":
        return _chat_source(sample)
    if sample.form.get("layout") == "stored":
        return _stored_source(sample)
    return obelics.to_source(sample)


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
            said = required(pair, role, str, of=name)
            turns.append({"role": role, "content": [{"text": said}]})
    turns[0]["content"] = [{"media": index} for index in range(len(images))] + turns[0]["content"]
    return Draft(
        kind="chat",
        turns=turns,
        media=media,
        raw=leftovers(row, {"images", "texts"})
        | {"texts": [leftovers(text, {"user", "assistant"}) for text in row["texts"]]},
        form={"layout": "chat", "images": _details(images)},
        prompt_ending=store.options.prompt_ending,
    )


def _chat_source(sample: OpenedSample) -> dict[str, Any]:
    said = [
        next((part["text"] for part in turn["content"] if "text" in part), "")
        for turn in sample.turns
    ]
    texts = [
        {"user": question, "assistant": answer} | extra
        for question, answer, extra in zip(said[::2], said[1::2], sample.raw["texts"], strict=True)
    ]
    return {**sample.raw, "images": _stored_images(sample), "texts": texts}


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
        raw=leftovers(row, {"images", "texts"}),
        form={"layout": "stored", "images": _details(images)},
    )


def _stored_source(sample: OpenedSample) -> dict[str, Any]:
    stored = iter(_stored_images(sample))
    content: Sequence[Mapping[str, Any]] = sample.turns[0]["content"]
    return {
        **sample.raw,
        "images": [next(stored) if "media" in part else None for part in content],
        "texts": [part.get("text") for part in content],
    }


def _add_stored(image: object, name: str, media: MediaList, store: PictureStore) -> int:
    """Append a picture of the `datasets` library: its bytes, or a path to it."""
    fields = typed(image, dict, name)
    data = fields.get("bytes")
    if isinstance(data, bytes):
        return store.add_bytes(media, data)
    raise DataError(
        "E302", f"{name} holds no bytes (path={fields.get('path')!r:.80}). Embed the pictures."
    )


def _details(images: Sequence[dict[str, Any] | None]) -> list[dict[str, Any]]:
    """All that the table says of each picture besides its bytes: its path, mostly null."""
    return [leftovers(image, {"bytes"}) for image in images if image is not None]


def _stored_images(sample: OpenedSample) -> list[dict[str, Any]]:
    return [
        {"bytes": sample.files[entry["file"]]} | details
        for entry, details in zip(sample.media, sample.form["images"], strict=True)
    ]
