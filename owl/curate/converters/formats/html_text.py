# SPDX-License-Identifier: Apache-2.0
"""Text and figures of an HTML page, in the order in which a browser shows them."""

import re
from html.parser import HTMLParser

from owl.curate.converters.formats.figures import Figure

HIDDEN = ("head", "script", "style", "template", "noscript")
LINES = (
    *("address", "article", "aside", "body", "br", "caption", "dd", "details", "div", "dl", "dt"),
    *("fieldset", "figcaption", "footer", "form", "header", "hr", "html", "li", "main", "nav"),
    *("section", "summary", "tbody", "tfoot", "thead", "tr"),
)
"""Tags that begin and end a line."""
PARAGRAPHS = (
    *("blockquote", "figure", "h1", "h2", "h3", "h4", "h5", "h6", "ol", "p", "pre", "table", "ul"),
)
"""Tags that stand between empty lines."""
CELLS = ("td", "th")
FIGURES = {
    "img": ("data-src", "src", "srcset"),
    "object": ("data",),
    "embed": ("src",),
    "video": ("src",),
    "source": ("src",),
}
"""Tag -> its attributes that may name what it shows; lazy pages have only a filler in `src`."""
SVG = re.compile(r"<svg\b.*?</svg\s*>", re.DOTALL | re.IGNORECASE)
INLINE = "inline-svg:"


def split_html(text: str) -> list[str | Figure]:
    """Read a page as texts and figures; spaces and line ends are those of its layout."""
    drawings: list[str] = []

    def name(found: re.Match[str]) -> str:
        drawings.append(found[0])
        return f'<img src="{INLINE}{len(drawings) - 1}">'

    page = _Page(drawings)
    page.feed(SVG.sub(name, text))
    page.close()
    return page.tidy()


class _Page(HTMLParser):
    def __init__(self, drawings: list[str]) -> None:
        super().__init__()
        self._drawings = drawings
        self._pieces: list[str | Figure] = []
        self._hidden: list[str] = []
        self._exact = 0  # inside <pre>

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if self._hidden or tag in HIDDEN:
            self._hidden += [tag] if tag in HIDDEN else []
            return
        self._exact += tag == "pre"
        self._write_break(tag)
        if tag == "li":
            self._write("- ")
        if tag in FIGURES:
            self._show(tag, dict(attrs))

    def handle_endtag(self, tag: str) -> None:
        if self._hidden:
            if tag in self._hidden:  # an unclosed one inside ends with it
                del self._hidden[self._hidden.index(tag) :]
            return
        self._exact = max(self._exact - (tag == "pre"), 0)
        self._write_break(tag)

    def handle_data(self, data: str) -> None:
        if not self._hidden:
            self._write(data if self._exact else re.sub(r"[ \t\r\n\f]+", " ", data))

    def _write_break(self, tag: str) -> None:
        if tag in LINES or tag in PARAGRAPHS:
            self._write("\n\n" if tag in PARAGRAPHS else "\n")
        elif tag in CELLS:
            self._write(" ")

    def _write(self, text: str) -> None:
        if self._pieces and isinstance(self._pieces[-1], str):
            self._pieces[-1] += text
        else:
            self._pieces.append(text)

    def _show(self, tag: str, attributes: dict[str, str | None]) -> None:
        found = [attributes[name] for name in FIGURES[tag] if attributes.get(name)]
        if not found:
            return
        source = (found[0] or "").strip()
        if attributes.get("srcset") == found[0]:
            source = source.split(",")[0].split()[0]
        if source.startswith(INLINE):
            drawing = self._drawings[int(source.removeprefix(INLINE))]
            if "xmlns=" not in drawing:  # HTML needs none
                drawing = drawing.replace("<svg", '<svg xmlns="http://www.w3.org/2000/svg"', 1)
            self._pieces.append(Figure("inline svg", drawing=drawing.encode()))
        else:
            self._pieces.append(Figure(source, attributes.get("alt") or ""))

    def tidy(self) -> list[str | Figure]:
        """Return the pieces without the spaces that a browser would not show."""
        pieces = [_tidy(piece) if isinstance(piece, str) else piece for piece in self._pieces]
        for place, strip in ((0, str.lstrip), (-1, str.rstrip)):
            if pieces and isinstance(piece := pieces[place], str):
                pieces[place] = strip(piece)
        return [piece for piece in pieces if piece]


def _tidy(text: str) -> str:
    return re.sub(r"\n{3,}", "\n\n", re.sub(r"[ \t]*\n ?(?! )", "\n", text))
