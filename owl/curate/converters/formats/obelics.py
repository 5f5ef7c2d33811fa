# SPDX-License-Identifier: Apache-2.0
"""OBELICS, and what is laid out like it (OmniCorpus, MINT-1T): pictures and texts in parallel.

    {"images": ["https://a/1.jpg", null], "texts": [null, "An owl."],
     "metadata": "[{...}, null]", "general_metadata": "{...}"}

An entry of `images` is a path under --images, or a url that --url-map gives a path for.
"""

from typing import Any

from owl.curate.converters.fields import leftovers, required, typed
from owl.curate.converters.missing import add_or_leave_out
from owl.curate.converters.pictures import PictureStore
from owl.curate.converters.records import Draft, MediaList, OpenedSample, SourceRecord
from owl.errors import DataError

FAMILY = "obelics"


def to_draft(record: SourceRecord, store: PictureStore) -> Draft:
    """Read one web document. Raises DataError."""
    value = typed(record.value, dict, "the record")
    images = required(value, "images", list)
    texts = required(value, "texts", list)
    check_parallel(images, texts)
    media = MediaList()
    left_out: dict[str, Any] = {}
    content: list[dict[str, Any]] = []
    for index, (image, text) in enumerate(zip(images, texts, strict=True)):
        if text is not None:
            content.append({"text": typed(text, str, f"texts[{index}]")})
            continue
        name = typed(image, str, f"images[{index}]")
        shown = add_or_leave_out(store, media, name)
        content += [{"media": shown}] if shown is not None else []
        if shown is None:
            left_out[str(index)] = name
    return Draft(
        kind="document",
        turns=[{"role": "document", "content": content}],
        media=media,
        raw=leftovers(value, {"images", "texts"}),
        form={"left_out": left_out} if left_out else {},
    )


def to_source(sample: OpenedSample) -> dict[str, Any]:
    """Give the record back."""
    images, texts = _columns(sample)
    return {**sample.raw, "images": images, "texts": texts}


def check_parallel(images: list[Any], texts: list[Any]) -> None:
    """Raise DataError E305 unless exactly one of the two lists has an entry at each place."""
    if len(images) != len(texts):
        raise DataError(
            "E305",
            f"images has {len(images)} entries but texts {len(texts)}; they run in parallel.",
        )
    for index, (image, text) in enumerate(zip(images, texts, strict=True)):
        if (image is None) == (text is None):
            raise DataError(
                "E305", f"place {index} has {'no' if image is None else 'both a'} picture and text."
            )


def _columns(sample: OpenedSample) -> tuple[list[str | None], list[str | None]]:
    left_out = sample.form.get("left_out", {})
    parts = iter(sample.turns[0]["content"])
    images: list[str | None] = []
    texts: list[str | None] = []
    for index in range(len(sample.turns[0]["content"]) + len(left_out)):
        name = left_out.get(str(index))
        part = {} if name is not None else next(parts)
        images.append(sample.media[part["media"]]["uri"] if "media" in part else name)
        texts.append(part.get("text"))
    return images, texts
