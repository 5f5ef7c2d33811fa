# SPDX-License-Identifier: Apache-2.0
"""Pages with figures, in markdown or HTML: each becomes a document of texts and pictures in turn.

Paths of figures are relative to the page, or begin with / at the folder of all pages. Every figure
is accounted for in `meta.raw.figures`: the file that it became, or the code why it is left out.
"""

from typing import Any

from owl.curate.converters.fields import required, typed
from owl.curate.converters.formats.figures import Figure
from owl.curate.converters.formats.html_text import split_html
from owl.curate.converters.formats.markdown import split_markdown
from owl.curate.converters.formats.turns import RecordReader
from owl.curate.converters.pictures import PictureStore
from owl.curate.converters.records import Draft, SourceRecord
from owl.curate.converters.sources.page_source import HTML


def to_draft(record: SourceRecord, store: PictureStore) -> Draft:
    """Read one page. Raises DataError."""
    page = typed(record.value, dict, "the page")
    name, text = required(page, "name", str), required(page, "text", str)
    pieces = split_html(text) if name.lower().endswith(HTML) else split_markdown(text)
    reader = RecordReader(store, store)
    content: list[dict[str, Any]] = []
    figures: list[dict[str, str]] = []
    for piece in pieces:
        if isinstance(piece, str):
            content.append({"text": piece})
            continue
        shown = reader.read_picture(piece.drawing or piece.file_name(name), piece.source)
        content += shown
        became = reader.media.entries[-1]["file"] if shown else reader.left_out[-1].code
        figures.append(_account(piece) | {"became": became})
    return Draft(
        kind="document",
        turns=[{"role": "document", "content": content}],
        media=reader.media,
        raw={"figures": figures} if figures else {},
        left_out=reader.left_out,
    )


def _account(figure: Figure) -> dict[str, str]:
    source = figure.source if not figure.source.startswith("data:") else figure.source[:40]
    return {"figure": source} | ({"alt": figure.alt} if figure.alt else {})
