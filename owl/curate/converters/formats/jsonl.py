# SPDX-License-Identifier: Apache-2.0
"""Your own data, in one of the layouts of layouts.py, which are distinguished by their fields.

Messages, whose content is a text with a mark for each picture, or a list of parts:

    {"images": ["a.jpg"], "messages": [{"role": "user", "content": "<image>What is it?"},
                                       {"role": "assistant", "content": "An owl."}]}
    {"messages": [{"role": "user", "content": [{"type": "image", "image": "a.jpg"},
                                               {"type": "text", "text": "What is it?"}]}, ...]}

Question and answer, or query and response, instruction and output, prompt and completion. Without
marks the pictures come first. With --turns-of FIELD, consecutive lines that agree in that field
(and in their pictures) are the turns of one conversation:

    {"image": "a.jpg", "question": "What is it?", "answer": "An owl."}

A caption, or a text with marks, or parts, all of which is learned:

    {"image": "a.jpg", "text": "An owl."}
    {"images": ["a.jpg"], "text": "An owl: <image>"}
    {"content": [{"type": "text", "text": "An owl:"}, {"type": "image", "image": "a.jpg"}]}
"""

from owl.curate.converters.formats.layouts import read_record
from owl.curate.converters.pictures import PictureStore
from owl.curate.converters.records import Draft, SourceRecord


def to_draft(record: SourceRecord, store: PictureStore) -> Draft:
    """Read a record of any layout. Raises DataError."""
    return read_record(record, store, store)
