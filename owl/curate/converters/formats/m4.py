# SPDX-License-Identifier: Apache-2.0
"""M4-Instruct (LLaVA-NeXT-Interleave): LLaVA's turns over several pictures.

{"sample_id": "nlvr2_17", "image": ["a.jpg", "b.jpg"], "choice_list": ["yes", "no"],
 "metadata": {"dataset": "NLVR2", "question_type": "multi-choice"},
 "conversations": [{"from": "human", "value": "<image> <image> Same?"}, ...]}
"""

from collections.abc import Mapping
from typing import Any

from owl.curate.converters.fields import required, string_list, typed
from owl.curate.converters.formats import llava
from owl.curate.converters.pictures import PictureStore
from owl.curate.converters.prompt_endings import PromptEnding
from owl.curate.converters.records import Draft, SourceRecord

MULTIPLE_CHOICE = "multi-choice"
"""Its `question_type`."""


def to_draft(record: SourceRecord, store: PictureStore) -> Draft:
    """Read one conversation over a list of pictures. Raises DataError."""
    value = typed(record.value, dict, "the record")
    if "image" in value:
        string_list(value["image"], "image")
    draft = llava.to_draft(record, store)
    name = required(value, "sample_id", object)
    draft.id = name if isinstance(name, str) and name else None
    if draft.prompt_ending is PromptEnding.by_question_type:
        draft.prompt_ending = _ending_of(value)
    return draft


def _ending_of(value: Mapping[str, Any]) -> PromptEnding | None:
    """The ending for a record's kind of question; mPLUG-Owl3's evaluation has only this one."""
    metadata = required(value, "metadata", dict)
    kind = required(metadata, "question_type", str, of="metadata")
    return PromptEnding.multiple_choice if kind == MULTIPLE_CHOICE else None
