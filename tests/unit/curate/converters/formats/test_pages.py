# SPDX-License-Identifier: Apache-2.0
import base64

import pytest

from owl.curate.converters.formats.figures import Figure
from owl.curate.converters.formats.html_text import split_html
from owl.curate.converters.formats.markdown import split_markdown
from owl.curate.converters.records import MissingPictures
from tests.unit.curate.converters.converting import make_job, run_job, write_lines, write_pictures
from tests.unit.data.shard_factory import picture


def plain(pieces):
    """Figures as their sources in a tuple."""
    return [piece if isinstance(piece, str) else (piece.source,) for piece in pieces]


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("a ![x](i.png) b", ["a ", ("i.png",), " b"]),
        ('![x](i.png "A title")', [("i.png",)]),
        ("![x](<a b.png>){width=50%}", [("a b.png",)]),
        ("![x [y] z](a_(1).png)", [("a_(1).png",)]),
        ("![x](a%20b.png)", [("a%20b.png",)]),
        ("![x][Ref]\n\n[ref]: i.png 'T'\n", [("i.png",), "\n\n[ref]: i.png 'T'\n"]),
        ("![ref]\n\n[ref]: <i j.png>", [("i j.png",), "\n\n[ref]: <i j.png>"]),
        ("![none]", ["![none]"]),
        ("[![x](i.png)](https://a.org) b", [("i.png",), " b"]),
        ("<img alt='x' src='i.png'/> b", [("i.png",), " b"]),
        ("a <svg><g>\n</g></svg> b", ["a ", ("inline svg",), " b"]),
        ("```\n![x](i.png)\n```\n![y](j.png)", ["```\n![x](i.png)\n```\n", ("j.png",)]),
        ("~~~ md\n![x](i.png)\n", ["~~~ md\n![x](i.png)\n"]),
        ("`![x](i.png)` ``a`![y](j.png)``", ["`![x](i.png)` ``a`![y](j.png)``"]),
        ("a ` b\n\n![x](i.png) ` c", ["a ` b\n\n", ("i.png",), " ` c"]),
        ("<!-- ![x](i.png) -->", ["<!-- ![x](i.png) -->"]),
        (r"\![x](i.png)", [r"\![x](i.png)"]),
        ("```{figure} i.png\n:name: f\nCaption.\n```\n", [("i.png",), "Caption.\n", "\n"]),
        ("# H\n\nText stays  as\tit is.\n", ["# H\n\nText stays  as\tit is.\n"]),
    ],
)
def test_markdown_is_cut_at_its_figures_and_kept_otherwise(text, pieces):
    assert plain(split_markdown(text)) == pieces


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("<p>One <b>two</b>\n three &amp;</p>", ["One two three &"]),
        ("<h1>H</h1><p>a<p>b<br>c", ["H\n\na\n\nb\nc"]),
        ("a<img src=i.png>b", ["a", ("i.png",), "b"]),
        ('<img data-src="i.png" src="data:image/gif;base64,R0lG">', [("i.png",)]),
        ('<img srcset="i.png 1x, j.png 2x">', [("i.png",)]),
        ("<script>if (a<b) '<img src=x>'</script><style>p</style>t", ["t"]),
        ("<noscript><img src=x></noscript><template><img src=y></template>t", ["t"]),
        ("<head><title>T</title></head><body>t</body>", ["t"]),
        ("<ul><li>x<li>y</ul>", ["- x\n- y"]),
        ("<pre>  a\n    b</pre>", ["a\n    b"]),
        ("<tr><td>1</td><td>2</td></tr>", ["1  2"]),
        ("<object data=i.svg></object>", [("i.svg",)]),
        ("<video src=i.mp4></video>", [("i.mp4",)]),
        ("a<svg width=4><path/></svg>b", ["a", ("inline svg",), "b"]),
    ],
)
def test_html_is_read_as_a_browser_shows_it(text, pieces):
    assert plain(split_html(text)) == pieces


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("i.png", "ch/i.png"),
        ("../img/i.png", "img/i.png"),
        ("/img/i.png", "img/i.png"),
        ("a%20b.png?v=2#x", "ch/a b.png"),
        (r"img\i.png", "ch/img/i.png"),
        ("https://a.org/i.png", "https://a.org/i.png"),
        ("//a.org/i.png", "https://a.org/i.png"),
        ("../../../etc/x.png", "../../etc/x.png"),
    ],
)
def test_a_figure_is_found_from_its_page(source, name):
    assert Figure(source).file_name("ch/page.md") == name


def write_book(folder):
    """Two pages with every kind of figure that works, and of those that do not."""
    write_pictures(folder, "img/a.jpg", "ch/b.jpg")
    (folder / "img/broken.png").write_bytes(picture(codec="PNG")[:60])
    (folder / "img/script.eps").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n")
    encoded = base64.b64encode(picture()).decode()
    (folder / "ch/one.md").write_text(
        "# One\n\n![A](../img/a.jpg)\n\nText ![lost](lost.png) and ![B](b.jpg).\n"
        "![web](https://owls.org/1.jpg) ![out](../../secret.jpg) ![bad](/img/broken.png)\n"
    )
    (folder / "two.html").write_text(
        f"<h1>Two</h1><img src='img/a.jpg'>tail<img src='img/script.eps'>"
        f"<img src='data:image/jpeg;base64,{encoded}'>"
    )
    (folder / ".draft.md").write_text("hidden")
    return folder


def content(sample):
    return [part.get("text", part.get("media")) for part in sample.document["turns"][0]["content"]]


def test_pages_become_documents_and_every_figure_is_accounted_for(tmp_path):
    write_pictures(tmp_path, "secret.jpg")
    job = make_job(
        tmp_path,
        "pages",
        write_book(tmp_path / "book"),
        missing_pictures=MissingPictures.leave_out,
        url_map=write_lines(
            tmp_path, {"url": "https://owls.org/1.jpg", "file": "img/a.jpg"}, name="urls.jsonl"
        ),
    )
    converted = run_job(job)
    assert converted.rejects == []
    one, two = converted.samples
    assert content(one) == ["# One\n\n", 0, "\n\nText ", " and ", 1, ".\n", 2, " ", " ", "\n"]
    assert one.document["meta"]["raw"]["figures"] == [
        {"figure": "../img/a.jpg", "alt": "A", "became": "m0000.jpg"},
        {"figure": "lost.png", "alt": "lost", "became": "E302"},
        {"figure": "b.jpg", "alt": "B", "became": "m0001.jpg"},
        {"figure": "https://owls.org/1.jpg", "alt": "web", "became": "m0002.jpg"},
        {"figure": "../../secret.jpg", "alt": "out", "became": "E302"},
        {"figure": "/img/broken.png", "alt": "bad", "became": "E308"},
    ]
    assert one.document["meta"]["from"] == "ch/one.md:1"
    assert content(two) == ["Two\n\n", 0, "tail", 1]
    assert converted.report.pictures == 5
    assert converted.report.left_out == {"E302": 2, "E307": 1, "E308": 1}
    keys = [sample.key for sample in converted.samples]
    assert keys == ["pages/book/00000001", "pages/book/00000002"]


def test_a_page_with_a_missing_figure_is_rejected_by_default(tmp_path):
    converted = run_job(make_job(tmp_path, "pages", write_book(tmp_path / "book")))
    assert [(reject["file"], reject["code"]) for reject in converted.rejects] == [
        ("ch/one.md", "E302"),
        ("two.html", "E307"),
    ]


def test_a_page_is_decoded_as_it_declares(tmp_path):
    folder = tmp_path / "book"
    folder.mkdir()
    (folder / "a.html").write_bytes('<meta charset="gbk"><p>猫头鹰'.encode("gbk"))
    (folder / "b.md").write_bytes("中文".encode("gbk"))
    (folder / "c.md").write_bytes("猫头鹰".encode("utf-16"))
    converted = run_job(make_job(tmp_path, "pages", folder))
    assert [content(sample) for sample in converted.samples] == [["猫头鹰"], ["猫头鹰"]]
    assert (converted.reject["file"], converted.reject["code"]) == ("b.md", "E201")


def test_a_changed_page_is_converted_again(tmp_path):
    folder = tmp_path / "book"
    folder.mkdir()
    (folder / "a.md").write_text("one")
    job = make_job(tmp_path, "pages", folder)
    assert content(run_job(job).samples[0]) == ["one"]
    (folder / "a.md").write_text("other")
    (folder / "b.md").write_text("two")
    assert [content(sample) for sample in run_job(job).samples] == [["other"], ["two"]]
