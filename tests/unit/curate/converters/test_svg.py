# SPDX-License-Identifier: Apache-2.0
import io
import sys

import numpy as np
import pytest
from PIL import Image

from owl.curate.converters import svg
from owl.curate.converters.svg import draw_svg, is_svg
from owl.errors import DataError
from tests.unit.curate.converters.converting import convert_lines

NAMESPACE = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
RED = '<rect width="50%" height="100%" fill="red"/>'


def drawing(inner=RED, size='width="40" height="20"') -> bytes:
    return f'<?xml version="1.0"?>\n<!-- x --><svg {NAMESPACE} {size}>{inner}</svg>'.encode()


@pytest.fixture
def resvg():
    pytest.importorskip("resvg_py", reason="resvg is optional (extra `svg`)")


def pixels(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))


def test_an_svg_is_known_by_its_content():
    assert is_svg(drawing()) and is_svg(b"\xef\xbb\xbf <svg>") and is_svg(b"<svg:svg >")
    assert not is_svg(b"<html><p>svg") and not is_svg(b"\x89PNG <svg ")


def test_a_drawing_is_drawn_on_white(resvg):
    drawn = pixels(draw_svg(drawing()))
    assert drawn.shape == (20, 40, 3)
    assert drawn[10, 10].tolist() == [255, 0, 0]
    assert drawn[10, 30].tolist() == [255, 255, 255]


@pytest.mark.parametrize(
    ("size", "shape"),
    [
        ('viewBox="0 0 30 10"', (10, 30)),
        ('width="1in" height="48"', (48, 96)),
        ('width="100%" viewBox="0 0 30 10"', (10, 30)),
        ('width="60" viewBox="0 0 30 10"', (20, 60)),
        ('width="409600" height="204800"', (1024, 2048)),
    ],
)
def test_the_size_is_its_own_up_to_a_limit(resvg, size, shape):
    assert pixels(draw_svg(drawing(size=size))).shape[:2] == shape


def test_text_is_drawn_whatever_font_it_names(resvg):
    if not svg._has_font():
        pytest.skip("no DejaVu Sans on this machine")
    text = '<text x="2" y="15" font-family="No Such Font">Owl</text>'
    assert pixels(draw_svg(drawing(text))).min() < 100


def test_text_that_no_font_can_show_is_refused(resvg, monkeypatch):
    monkeypatch.setattr(svg, "_has_font", lambda: False)
    with pytest.raises(DataError, match=r"E307.*no font"):
        draw_svg(drawing("<text>Owl</text>"))


REPEATED = "".join(
    f'<g id="a{n + 1}">' + f'<use xlink:href="#a{n}"/>' * 10 + "</g>" for n in range(12)
)


@pytest.mark.parametrize(
    ("data", "code", "words"),
    [
        (drawing('<image href="/etc/a.png"/>'), "E307", "shows another file, '/etc/a.png'"),
        (drawing('<image xlink:href="a.png"/>'), "E307", "shows another file"),
        (drawing('<use href="b.svg#x"/>'), "E307", "shows another file"),
        (b'<!DOCTYPE svg [<!ENTITY a "x">]>' + drawing(), "E307", "defines entities"),
        (drawing(size=""), "E307", "says no size"),
        (drawing(size='width="2" height="2"'), "E309", "2x2"),
        (drawing()[:-10], "E308", "not well-formed"),
        (drawing(f'<defs><g id="a0">{RED}</g>{REPEATED}</defs><use href="#a12"/>'), "E309", "shap"),
        (drawing("<g>" * 5000 + "</g>" * 5000), "E309", "shapes"),
    ],
)
def test_a_drawing_that_cannot_be_shown_is_refused_by_name(data, code, words):
    with pytest.raises(DataError, match=f"{code}.*{words}"):
        draw_svg(data)


def test_without_resvg_a_drawing_is_refused_by_name(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "resvg_py", None)
    (tmp_path / "images").mkdir()
    (tmp_path / "images/a.svg").write_bytes(drawing())
    reject = convert_lines(tmp_path, "jsonl", {"image": "a.svg", "text": "!"}).reject
    assert reject["code"] == "E307"
    assert (
        "'a.svg'" in reject["message"] and "pip install 'owl3-megatron[svg]'" in reject["message"]
    )


def test_a_converted_drawing_is_a_png(tmp_path, resvg):
    (tmp_path / "images").mkdir()
    (tmp_path / "images/a.svg").write_bytes(drawing())
    sample = convert_lines(tmp_path, "jsonl", {"image": "a.svg", "text": "!"}).samples[0]
    media = sample.document["media"][0]
    assert (media["file"], media["w"], media["h"]) == ("m0000.png", 40, 20)
    assert pixels(sample.files["m0000.png"])[10, 10].tolist() == [255, 0, 0]
