# SPDX-License-Identifier: Apache-2.0
"""Parquet files of Hugging Face data sets, in the layouts of layouts.py.

A picture is stored in the table, `{"bytes": ..., "path": ...}`, or a path or url as in json. Tables
have two layouts of their own. Interleaved (OBELICS): `images` and `texts` in parallel. Chat (The
Cauldron): `images`, and `texts` as question and answer:

    images: [{"bytes": ..., "path": null}]
    texts:  [{"user": "What is it?", "assistant": "An owl.", "source": "vqa"}]

All pictures of such a chat are shown before its first question: the table has no places for them.
"""

from owl.curate.converters.formats.layouts import read_record
from owl.curate.converters.pictures import PictureStore
from owl.curate.converters.records import Draft, SourceRecord


def to_draft(record: SourceRecord, store: PictureStore) -> Draft:
    """Read one row of any layout. Raises DataError."""
    return read_record(record, store, store)
