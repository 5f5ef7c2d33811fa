# SPDX-License-Identifier: Apache-2.0
"""OBELICS and the same layout (OmniCorpus, MINT-1T): pictures and texts in parallel lists.

    {"images": ["https://a/1.jpg", null], "texts": [null, "An owl."],
     "metadata": "[{...}, null]", "general_metadata": "{...}"}

An entry of `images` is a path under --images, or a url for which --url-map has a path.
"""

from owl.curate.converters.fields import typed
from owl.curate.converters.formats.layouts import interleaved_draft
from owl.curate.converters.formats.turns import RecordReader
from owl.curate.converters.pictures import PictureStore
from owl.curate.converters.records import Draft, SourceRecord


def to_draft(record: SourceRecord, store: PictureStore) -> Draft:
    """Read one web document. Raises DataError."""
    return interleaved_draft(typed(record.value, dict, "the record"), RecordReader(store, store))
