# SPDX-License-Identifier: Apache-2.0
"""A preview as one HTML file: no other file, no network, and readable without JavaScript."""

from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from owl.curate.preview.view import PageView, TokenView

HERE = Path(__file__).parent
HUES = (212, 152, 28, 282, 352, 182, 62, 322)
"""Colours for neighbouring samples, and for the parts of the work."""
MATRIX_PIXELS = 180


def render_page(view: PageView) -> str:
    """Return the complete page. What it shows is arranged in page.html.j2."""
    return (
        _environment()
        .get_template("page.html.j2")
        .render(
            view=view,
            data=_script_data(view),
            style=Markup((HERE / "style.css").read_text(encoding="utf-8")),
            script=Markup((HERE / "script.js").read_text(encoding="utf-8")),
        )
    )


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined
    )
    environment.policies["json.dumps_kwargs"] = {"ensure_ascii": False}
    environment.filters |= {
        "count": lambda number: f"{number:,.0f}",
        "percent": lambda share: f"{share:.1%}",
        "hue": lambda number: HUES[number % len(HUES)],
        "literal": lambda text: repr(text)[1:-1],
        "matrix_pixels": lambda tiles: max(24, min(MATRIX_PIXELS, 10 * tiles)),
        "operations": _operations,
        "tooltip": _tooltip,
        "visible": _visible,
    }
    return environment


def _script_data(view: PageView) -> list[dict[str, object]]:
    """What the script needs: per sample its first row and where its tiles begin to be seen."""
    return [
        {
            "first": sample.tokens[0].row,
            "key": sample.key,
            "offsets": [tile.offset for tile in sample.tiles],
            "positions": [tile.position for tile in sample.tiles],
            "tokens": [[t.id, t.label, t.weight, t.text, t.label_text] for t in sample.tokens],
        }
        for sample in view.samples
    ]


def _operations(amount: float) -> str:
    for unit, size in (("PFLOP", 1e15), ("TFLOP", 1e12), ("GFLOP", 1e9)):
        if amount >= size:
            return f"{amount / size:.3g} {unit}"
    return f"{amount / 1e6:.3g} MFLOP"


def _tooltip(token: TokenView) -> str:
    learns = (
        f"predicts {token.label_text!r} ({token.label}), weight {token.weight:g}"
        if token.label is not None
        else "predicts nothing that is learned"
    )
    place = "" if token.placeholder is None else f"\nplaceholder of tile {token.placeholder}"
    return (
        f"{token.text!r} id {token.id}\nposition {token.position}, row {token.row}\n{learns}\n"
        f"{_sees(token)}{place}"
    )


def _sees(token: TokenView) -> str:
    if not token.sees:
        return "sees no tile"
    return "sees tile 0" if token.sees == 1 else f"sees tiles 0 to {token.sees - 1}"


def _visible(text: str) -> Markup:
    """Mark what would be invisible: line ends, tabs, and tokens without a character."""
    marked = escape(text).replace("\n", Markup("<s>↵</s>\n")).replace("\t", Markup("<s>⇥</s>\t"))
    return marked or Markup("<s>∅</s>")
