# SPDX-License-Identifier: Apache-2.0
"""Cut markdown at its figures. All other characters are kept as they are written.

Figures are `![alt](path "title")`, `![alt][label]`, `<img src>`, `<svg>` and MyST's figure blocks;
not those in code, in comments, or behind a backslash. (A parser such as markdown-it gives no places
of inline pictures in the source, only a rendering without the characters around them.)
"""

import re
from collections.abc import Iterator, Mapping

from owl.curate.converters.formats.figures import Figure
from owl.curate.converters.formats.html_text import split_html

TOKEN = re.compile(
    r"""
    ^\ {0,3}(?P<fence>`{3,}|~{3,})(?P<info>[^\n]*)\n
      (?P<body>.*?)(?:^\ {0,3}(?P=fence)[`~]*[ \t]*$|\Z)
  | (?P<comment><!--.*?(?:-->|\Z))
  | (?P<ticks>(?<!`)`+(?!`))(?:(?!\n[ \t]*\n).)*?(?<!`)(?P=ticks)(?!`)
  | \\[\\!\[`<]
  | !\[(?P<alt>(?:[^\[\]\\]|\\.|\[[^\[\]]*\])*)\]
      (?:\(\s*(?P<path><[^<>\n]*>|[^\s()]*(?:\([^\s()]*\)[^\s()]*)*)
           (?:\s+(?:"[^"]*"|'[^']*'|\([^()]*\)))?\s*\)
        |\[(?P<label>[^\[\]]*)\])?
      (?:\{[^{}\n]*\})?
  | (?P<tag><img\b[^<>]*>|<svg\b.*?</svg\s*>)
    """,
    re.VERBOSE | re.DOTALL | re.MULTILINE | re.IGNORECASE,
)
DEFINITION = re.compile(r"^ {0,3}\[([^\[\]]+)\]:[ \t]*\n?[ \t]*(<[^<>\n]*>|\S+)", re.MULTILINE)
DIRECTIVE = re.compile(r"\{(?:figure|image)\}[ \t]*(\S+)[ \t]*")
OPTION = re.compile(r"^[ \t]*:[\w-]+:[^\n]*\n?", re.MULTILINE)
LINK_END = re.compile(r"\]\([^()\s]*\)")


def split_markdown(text: str) -> list[str | Figure]:
    """Cut a page at its figures; a link around a figure is left out."""
    paths = {_label(name): path.strip("<>") for name, path in DEFINITION.findall(text)}
    pieces: list[str | Figure] = []
    end = 0
    for found in TOKEN.finditer(text):
        new = list(_figures(found, paths))
        if new:
            pieces += [text[end : found.start()], *new]
            end = found.end()
    return _without_links([*pieces, text[end:]])


def _figures(found: re.Match[str], paths: Mapping[str, str]) -> Iterator[str | Figure]:
    """Yield what stands in the place of a token; nothing if it is text."""
    if found["tag"]:
        yield from split_html(found["tag"])
    elif found["fence"]:
        if directive := DIRECTIVE.match(found["info"]):
            yield Figure(directive[1])
            yield OPTION.sub("", found["body"])
    elif found["alt"] is not None:
        path = found["path"]
        if path is None:
            path = paths.get(_label(found["label"] or found["alt"]))
        if path:
            yield Figure(re.sub(r"\\(.)", r"\1", path.strip("<>")), found["alt"])


def _label(text: str) -> str:
    return " ".join(text.split()).casefold()


def _without_links(pieces: list[str | Figure]) -> list[str | Figure]:
    """Remove `[` and `](address)` around a figure."""
    for before, after in zip(range(len(pieces)), range(2, len(pieces)), strict=False):
        first, last = pieces[before], pieces[after]
        if not (isinstance(first, str) and isinstance(last, str) and first.endswith("[")):
            continue
        if link := LINK_END.match(last):
            pieces[before], pieces[after] = first[:-1], last[link.end() :]
    return [piece for piece in pieces if piece]
