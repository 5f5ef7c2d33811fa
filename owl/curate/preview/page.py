# SPDX-License-Identifier: Apache-2.0
"""A preview as one HTML file: no other file, no network, and readable without JavaScript."""

import json
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path

from owl.curate.preview.view import PageView, RankView, SampleView, TileView, TokenView

HERE = Path(__file__).parent
HUES = (212, 152, 28, 282, 352, 182, 62, 322)
"""Colours that tell neighbouring samples apart."""
MATRIX_PIXELS = 180
PART_HUES = {
    "vision tower": 262,
    "projector": 292,
    "image keys and values": 322,
    "decoder weights": 212,
    "attention to text": 182,
    "gate": 62,
    "attention to images": 28,
    "head": 152,
}


def render_page(view: PageView) -> str:
    """Write the whole page."""
    body = "\n".join(
        [
            *_header(view),
            *_cost_section(view),
            *_overview(view),
            *(line for sample in view.samples for line in _sample(sample)),
        ]
    )
    hidden = view.num_samples - len(view.samples)
    more = f"<p class=note>{hidden} more samples are not shown: --show N.</p>" if hidden else ""
    return (
        "<!doctype html>\n"
        f"<html lang=en><head><meta charset=utf-8><title>{escape(view.title)}</title>\n"
        '<meta name=viewport content="width=device-width">\n'
        f"<style>\n{(HERE / 'style.css').read_text(encoding='utf-8')}</style></head>\n"
        f"<body>\n{body}\n{more}\n"
        "<aside id=panel hidden></aside>\n"
        f"<script type=application/json id=data>{_data(view)}</script>\n"
        f"<script>\n{(HERE / 'script.js').read_text(encoding='utf-8')}</script>\n"
        "</body></html>\n"
    )


def _data(view: PageView) -> str:
    """What the script needs: per sample its first row and where its tiles begin to be seen."""
    samples = [
        {
            "first": sample.tokens[0].row,
            "key": sample.key,
            "offsets": [tile.offset for tile in sample.tiles],
            "positions": [tile.position for tile in sample.tiles],
            "tokens": [[t.id, t.label, t.weight, t.text, t.label_text] for t in sample.tokens],
        }
        for sample in view.samples
    ]
    # "</script>" in a sample's text must not end the element.
    return json.dumps(samples, ensure_ascii=False).replace("<", "\\u003c")


# What stands above the samples.


def _header(view: PageView) -> Iterator[str]:
    yield f"<header><h1>{escape(view.title)}</h1>"
    yield "<dl class=facts>"
    for label, value in view.facts:
        yield f"<div><dt>{escape(label)}</dt><dd>{escape(value)}</dd></div>"
    yield "</dl>"
    yield "<div class=budgets>"
    yield _budget("text tokens", view.text_tokens, view.text_budget)
    yield _budget("tiles", view.tiles, view.tile_budget)
    yield "</div></header>"


def _budget(name: str, used: int, budget: int) -> str:
    share = used / budget if budget else 0.0
    return (
        f"<div class=budget><span>{name}</span>"
        f'<span class=track><i style="width:{min(share, 1):.1%}"></i></span>'
        f"<b>{used:,}</b> of {budget:,} ({share:.1%})</div>"
    )


def _cost_section(view: PageView) -> Iterator[str]:
    yield "<section class=cost>"
    yield from _work(view)
    if view.ranks:
        yield from _ranks(view)
    yield "</section>"


def _work(view: PageView) -> Iterator[str]:
    """Operations of this micro-batch, part by part."""
    total = sum(view.work.values()) or 1.0
    yield f"<div class=card><h2>Work of this micro-batch: {_operations(total)}</h2>"
    yield "<div class=stack>"
    for part, amount in view.work.items():
        title = f"{part}: {_operations(amount)}, {amount / total:.1%}"
        style = f"flex-grow:{amount / total:.5f};background:hsl({PART_HUES[part]} 55% 55%)"
        yield f'<i title="{title}" style="{style}"></i>'
    yield "</div><table class=parts>"
    for part, amount in view.work.items():
        swatch = f'<i style="background:hsl({PART_HUES[part]} 55% 55%)"></i>'
        yield f"<tr><td>{swatch}{part}<td>{_operations(amount)}<td>{amount / total:.1%}"
    yield "</table><p class=note>forward and backward, recomputation left out</p></div>"


def _operations(amount: float) -> str:
    for unit, size in (("PFLOP", 1e15), ("TFLOP", 1e12), ("GFLOP", 1e9)):
        if amount >= size:
            return f"{amount / size:.3g} {unit}"
    return f"{amount / 1e6:.3g} MFLOP"


def _ranks(view: PageView) -> Iterator[str]:
    """Predicted work of each rank in this step, each pack a segment."""
    loads = [rank.work for rank in view.ranks]
    mean, most = sum(loads) / len(loads), max(loads)
    excess = most / mean - 1 if mean else 0.0
    yield f"<div class=card><h2>Work of the ranks in this step: busiest {excess:+.1%}</h2>"
    yield "<div class=ranks>"
    for rank in view.ranks:
        yield _rank(rank, most, is_this=rank.rank == view.rank)
    yield (
        f"</div><p class=note>in text tokens, a tile as {view.tile_cost:.3g} of them; "
        "each segment is a pack; this rank is dark</p></div>"
    )


def _rank(rank: RankView, most: float, *, is_this: bool) -> str:
    packs = "".join(
        f'<i style="width:{work / most:.3%}" title="pack {number}: {work:,.0f}"></i>'
        for number, work in enumerate(rank.packs)
    )
    here = " class=this-rank" if is_this else ""
    return (
        f"<div{here}><span>{rank.rank}</span><span class=bar>{packs}</span>{rank.work:,.0f}</div>"
    )


def _overview(view: PageView) -> Iterator[str]:
    """The matrix of the whole pack: rows across, tiles down."""
    yield "<section class=card><h2>Which token sees which tile</h2>"
    yield from _pack_matrix(view.samples)
    if len(view.samples) < view.num_samples:
        yield f"<p class=note>The first {len(view.samples)} of {view.num_samples} samples.</p>"
    yield (
        "<p class=note>Tokens run to the right, tiles downwards; a sample is one colour. Within "
        "its sample a tile is seen from its position on. Nothing is seen across samples.</p>"
    )
    yield (
        '<p class=legend><span class="t learned">learned</span> predicted by the token before it '
        '<span class="t">context</span> only read '
        '<span class="t ph">&lt;|image|&gt;</span> a tile\'s placeholder '
        '<span class="t control">&lt;|im_end|&gt;</span> control token. '
        "Point at a token or a tile; click to keep it.</p></section>"
        "<input type=checkbox id=ids><label for=ids class=switch>show token ids</label>"
    )


def _pack_matrix(samples: Sequence[SampleView]) -> Iterator[str]:
    rows = sum(len(sample.tokens) for sample in samples)
    tiles = sum(len(sample.tiles) for sample in samples)
    height = max(tiles, 1)
    yield (
        f'<svg class=matrix viewBox="0 0 {rows} {height}" preserveAspectRatio=none '
        f'style="height:{_matrix_pixels(tiles)}px" role=img aria-label="visibility of the pack">'
    )
    first_row = first_tile = 0
    for sample in samples:
        hue = HUES[sample.number % len(HUES)]
        size = max(len(sample.tiles), 0)
        title = f"<title>{escape(sample.key)}</title>"
        yield f'<a href="#s{sample.number}"><g fill="hsl({hue} 60% 50%)">{title}'
        yield (
            f'<rect x="{first_row}" y="0" width="{len(sample.tokens)}" height="{height}" '
            'opacity=".08"/>'
        )
        yield from _seen_rects(sample, first_row, first_tile)
        yield "</g></a>"
        first_row, first_tile = first_row + len(sample.tokens), first_tile + size
    yield "</svg>"


def _seen_rects(sample: SampleView, first_row: int, first_tile: int) -> Iterator[str]:
    for tile in sample.tiles:
        width = max(0, len(sample.tokens) - tile.position)
        yield (
            f'<rect x="{first_row + tile.position}" y="{first_tile + tile.number}" '
            f'width="{width}" height="1"/>'
        )


def _matrix_pixels(tiles: int) -> int:
    return max(24, min(MATRIX_PIXELS, 10 * tiles))


# One sample.


def _sample(sample: SampleView) -> Iterator[str]:
    hue = HUES[sample.number % len(HUES)]
    source = f"<span class=source>{escape(sample.source)}</span>" if sample.source else ""
    yield f'<article class=card id=s{sample.number} style="--hue:{hue}" data-s={sample.number}>'
    yield f"<h3><span class=dot></span>{escape(sample.key)} {source}</h3>"
    yield (
        f"<p class=counts>{len(sample.tokens):,} tokens, {sample.learned:,} learned (weight "
        f"{sample.weight:g}), {len(sample.tiles):,} tile(s); rows {sample.tokens[0].row:,} to "
        f"{sample.tokens[-1].row:,}</p>"
    )
    yield from _tiles(sample)
    yield "<div class=text>" + "".join(_token(token) for token in sample.tokens) + "</div>"
    yield from _sample_matrix(sample)
    yield from _token_table(sample)
    yield "</article>"


def _tiles(sample: SampleView) -> Iterator[str]:
    if not sample.tiles:
        return
    yield "<div class=tiles>"
    for tile in sample.tiles:
        yield _tile(tile)
    offsets = ", ".join(str(tile.offset) for tile in sample.tiles)
    positions = ", ".join(str(tile.position) for tile in sample.tiles)
    yield f"</div><p class=offsets>media_offset [{offsets}]<br>media_position [{positions}]</p>"


def _tile(tile: TileView) -> str:
    return (
        f'<figure data-m={tile.number} title="tile {tile.number}: placeholder at token '
        f'{tile.offset}, seen from token {tile.position} on"><img src="{tile.picture}" '
        f'alt="tile {tile.number}"><figcaption><b>{tile.number}</b> from {tile.position}'
        "</figcaption></figure>"
    )


def _token(token: TokenView) -> str:
    classes = ["t"]
    classes += ["learned"] if token.is_learned else []
    classes += ["control"] if token.is_control else []
    classes += ["ph"] if token.placeholder is not None else []
    return (
        f'<span class="{" ".join(classes)}" data-p={token.position} data-id={token.id} '
        f'title="{escape(_tooltip(token))}">{_visible(token.text)}</span>'
    )


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


def _visible(text: str) -> str:
    """Show what would not be seen: line ends, and tokens without a letter of their own."""
    return escape(text).replace("\n", "<s>↵</s>\n").replace("\t", "<s>⇥</s>\t") or "<s>∅</s>"


def _sample_matrix(sample: SampleView) -> Iterator[str]:
    if not sample.tiles:
        return
    rows, tiles = len(sample.tokens), len(sample.tiles)
    yield (
        f'<svg class="matrix own" viewBox="0 0 {rows} {tiles}" preserveAspectRatio=none '
        f'style="height:{_matrix_pixels(tiles)}px" role=img aria-label="visibility of the sample">'
        f'<g fill="hsl({HUES[sample.number % len(HUES)]} 60% 50%)">'
    )
    yield from _seen_rects(sample, 0, 0)
    yield f'</g><rect class=cursor x="-1" y="0" width="1" height="{tiles}"/></svg>'


def _token_table(sample: SampleView) -> Iterator[str]:
    yield "<details><summary>every token</summary><table class=tokens>"
    yield "<tr><th>row<th>position<th>id<th>text<th>label<th>predicts<th>weight<th>sees tiles"
    for token in sample.tokens:
        label = "" if token.label is None else str(token.label)
        sees = f"0..{token.sees - 1}" if token.sees else ""
        yield (
            f"<tr><td>{token.row}<td>{token.position}<td>{token.id}<td><code>"
            f"{escape(repr(token.text)[1:-1])}</code><td>{label}<td><code>"
            f"{escape(repr(token.label_text)[1:-1])}</code><td>{token.weight:g}<td>{sees}"
        )
    yield "</table></details>"
