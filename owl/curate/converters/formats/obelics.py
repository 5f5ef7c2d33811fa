# SPDX-License-Identifier: Apache-2.0
"""OBELICS and the same layout (OmniCorpus, MINT-1T): pictures and texts in parallel lists.

    {"images": ["https://a/1.jpg", null], "texts": [null, "An owl."],
     "metadata": "[{...}, null]", "general_metadata": "{...}"}

An entry of `images` is a path under --images, or a url for which --url-map has a path.
"""

from typing import Any

from owl.curate.converters.fields import leftovers, required, typed
from owl.curate.converters.pictures import PictureStore
from owl.curate.converters.records import Draft, MediaList, SourceRecord
from owl.errors import DataError


def to_draft(record: SourceRecord, store: PictureStore) -> Draft:
    """Read one web document. Raises DataError."""
    value = typed(record.value, dict, "the record")
    images = required(value, "images", list)
    texts = required(value, "texts", list)
    check_parallel(images, texts)
    media = MediaList()
    left_out: list[str] = []
    content: list[dict[str, Any]] = []
    for index, (image, text) in enumerate(zip(images, texts, strict=True)):
        if text is not None:
            content.append({"text": typed(text, str, f"texts[{index}]")})
            continue
        name = typed(image, str, f"images[{index}]")
        picture = store.add_unless_missing(media, name)
        if picture is None:
            left_out.append(name)
        else:
            content.append({"media": picture})
    return Draft(
        kind="document",
        turns=[{"role": "document", "content": content}],
        media=media,
        raw=leftovers(value, {"images", "texts"}),
        left_out=left_out,
    )


def check_parallel(images: list[Any], texts: list[Any]) -> None:
    """Raise DataError E305 unless at each index exactly one of the two lists has an entry."""
    if len(images) != len(texts):
        raise DataError(
            "E305",
            f"images has {len(images)} entries but texts {len(texts)}; both need the same number.",
        )
    for index, (image, text) in enumerate(zip(images, texts, strict=True)):
        if (image is None) == (text is None):
            raise DataError(
                "E305", f"place {index} has {'no' if image is None else 'both a'} picture and text."
            )
