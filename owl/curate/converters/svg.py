# SPDX-License-Identifier: Apache-2.0
"""Draw SVG as PNG with resvg, which is imported only when there is one to draw.

A drawing that would load another file is refused, and so is one whose texts no font can show: it
would look complete without them.
"""

import io
import re
from functools import cache
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from PIL import Image

from owl.errors import DataError
from owl.portable.picture_reader_owl import PictureError, check_size

MAX_SIDE = 2048
"""Pixels; a larger drawing is shrunk."""
MAX_NODES = 200_000
"""Elements, each counted as often as `use` repeats it."""
UNITS = {"": 1.0, "px": 1.0, "pt": 4 / 3, "pc": 16.0, "in": 96.0, "cm": 96 / 2.54, "mm": 96 / 25.4}
LENGTH = re.compile(r"\s*([0-9.]+(?:e[+-]?\d+)?)\s*(px|pt|pc|in|cm|mm|)\s*", re.IGNORECASE)
FONT = "DejaVu Sans"
"""Where a drawing names a font that is not installed; nearly every Linux has it, and matplotlib."""
FAMILIES = ("font", "serif", "sans_serif", "monospace", "cursive", "fantasy")


def is_svg(data: bytes) -> bool:
    """Whether a file is an SVG, told from its first bytes."""
    start = data[:4096].lstrip(b"\xef\xbb\xbf \t\r\n")
    return start.startswith(b"<") and re.search(rb"<(?:\w+:)?svg[\s>]", start) is not None


def draw_svg(data: bytes) -> bytes:
    """Draw an SVG on white, in its own size or with a long side of MAX_SIDE.

    Returns:
        The bytes of a PNG.

    Raises:
        DataError: E307 resvg is not installed, or it needs other files or fonts; E308 it is no
            valid SVG; E309 its size.
    """
    text = _checked_text(data)
    width, height, has_text = _measure(text)
    if has_text and not _has_font():
        raise DataError("E307", f"the svg has text, but no font {FONT} is installed to show it.")
    shrink = min(1.0, MAX_SIDE / max(width, height))
    size = (max(1, round(width * shrink)), max(1, round(height * shrink)))
    try:
        check_size(*size)
        png = _render(text, *size)
        with Image.open(io.BytesIO(png)) as image:
            image.load()
    except PictureError as error:
        raise DataError(error.code, error.message) from error
    except (KeyboardInterrupt, SystemExit, DataError):
        raise
    except BaseException as error:  # a panic of Rust is no Exception
        raise DataError("E308", f"the svg cannot be drawn: {error}.") from error
    return png


def _checked_text(data: bytes) -> str:
    if re.search(rb"<!ENTITY|<!DOCTYPE[^>]*\[", data):
        # Entities may stand for anything, however large; Illustrator's are only namespaces.
        raise DataError("E307", "the svg defines entities. Save it as plain SVG, or as PNG.")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError("E308", f"the svg is not UTF-8: {error}.") from error


def _measure(text: str) -> tuple[float, float, bool]:
    """Width, height, and whether it has text. Raises DataError."""
    try:
        root = ElementTree.fromstring(text)
    except (ElementTree.ParseError, RecursionError, ValueError) as error:
        raise DataError("E308", f"the svg is not well-formed: {error}.") from error
    nodes = list(root.iter())
    for node in nodes:
        target = next((v for k, v in node.attrib.items() if k.rpartition("}")[2] == "href"), "")
        is_inside = not target.strip() or target.strip().startswith(("#", "data:"))
        if node.tag.rpartition("}")[2] in ("image", "feImage", "use") and not is_inside:
            raise DataError("E307", f"the svg shows another file, {target!r:.80}. Embed it.")
    _check_repetition(root, nodes)
    box = [float(n) for n in re.findall(r"[-+0-9.eE]+", root.get("viewBox", "")) if _is_number(n)]
    width, height = _length(root.get("width")), _length(root.get("height"))
    if len(box) == 4 and min(box[2:]) > 0:
        width = width or (height * box[2] / box[3] if height else box[2])
        height = height or width * box[3] / box[2]
    if not width or not height:
        raise DataError("E307", "the svg says no size: give it width and height, or a viewBox.")
    return width, height, any(node.tag.rpartition("}")[2] == "text" for node in nodes)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _length(text: str | None) -> float:
    """A length in pixels; 0 for none, or for a share of the page."""
    found = LENGTH.fullmatch(text or "")
    return float(found[1]) * UNITS[found[2].lower()] if found and _is_number(found[1]) else 0.0


def _check_repetition(root: ElementTree.Element, nodes: list[ElementTree.Element]) -> None:
    """Refuse a drawing of a few lines that repeats itself into billions of shapes."""
    named = {node.get("id"): node for node in nodes if node.get("id")}
    counts: dict[ElementTree.Element, int] = {}
    open_: set[ElementTree.Element] = set()

    def count(node: ElementTree.Element) -> int:
        if node in counts or node in open_:
            return counts.get(node, 0)
        open_.add(node)
        found = 1 + sum(count(child) for child in node)
        for name, value in node.attrib.items():
            if name.rpartition("}")[2] == "href" and value.strip()[1:] in named:
                found += count(named[value.strip()[1:]])
        counts[node] = found
        return found

    try:
        total = count(root)
    except RecursionError:
        total = MAX_NODES + 1
    if total > MAX_NODES:
        raise DataError("E309", f"the svg draws more than {MAX_NODES} shapes.")


def _render(text: str, width: int, height: int) -> bytes:
    try:
        import resvg_py
    except ImportError as error:
        raise DataError(
            "E307",
            "this is an SVG drawing: pip install 'owl3-megatron[svg]' to have it drawn, or convert "
            "it to PNG.",
        ) from error
    families: dict[str, Any] = {f"{name}_family": FONT for name in FAMILIES}
    drawn: bytes = resvg_py.svg_to_bytes(
        svg_string=text,
        width=width,
        height=height,
        background="white",
        dpi=96,
        font_dirs=[str(folder) for folder in _font_folders()],
        **families,
    )
    return drawn


def _font_folders() -> list[Path]:
    """Folders with fonts beside those of the system: matplotlib brings DejaVu."""
    try:
        from matplotlib import get_data_path  # type: ignore[attr-defined]
    except ImportError:
        return []
    return [Path(get_data_path(), "fonts", "ttf")]


@cache
def _has_font() -> bool:
    """Whether a text without a font of its own leaves anything on the picture."""
    svg = '<svg xmlns="http://www.w3.org/2000/svg"><text x="2" y="20">Owl</text></svg>'
    with Image.open(io.BytesIO(_render(svg, 40, 30))) as image:
        return image.convert("L").getextrema()[0] != 255
