# SPDX-License-Identifier: Apache-2.0
"""M4-Instruct (LLaVA-NeXT-Interleave): LLaVA's turns over several pictures.

{"sample_id": "nlvr2_17", "image": ["a.jpg", "b.jpg"], "choice_list": ["yes", "no"],
 "metadata": {"dataset": "NLVR2", "question_type": "multi-choice"},
 "conversations": [{"from": "human", "value": "<image> <image> Same?"}, ...]}
"""

from typing import Any

from owl.data.converters import llava
from owl.data.converters.fields import required, string_list, typed
from owl.data.converters.pictures import PictureStore
from owl.data.converters.records import Draft, OpenedSample, SourceRecord

FAMILY = "m4"


def to_draft(record: SourceRecord, store: PictureStore) -> Draft:
    """Read one conversation over a list of pictures. Raises DataError."""
    value = typed(record.value, dict, "the record")
    if "image" in value:
        string_list(value["image"], "image")
    draft = llava.to_draft(record, store)
    name = required(value, "sample_id", object)
    draft.id = name if isinstance(name, str) and name else None
    return draft


def to_source(sample: OpenedSample) -> dict[str, Any]:
    """Give the record back."""
    return llava.to_source(sample)
