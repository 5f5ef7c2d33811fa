# SPDX-License-Identifier: Apache-2.0
"""What the page does, without a browser; tests/unit/chat/test_browser.py has one."""

import json
import logging
import sys
import urllib.error
import urllib.request

import pytest
from PIL import Image

from owl.chat.__main__ import _parser
from owl.chat.session import Chat, ChatOptions
from owl.chat.web import MAX_FILES, Refusal, Visitor, build_page
from owl.errors import OwlError


@pytest.fixture
def visitor(chat) -> Visitor:
    return Visitor(chat)


def ask(visitor: Visitor, text: str, *files):
    return list(visitor.reply({"text": text, "files": [str(file) for file in files]}))


def test_the_page_without_gradio_says_what_to_install(chat, monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(OwlError, match=r"owl3-megatron\[web\]"):
        build_page(chat.model, chat.options)


def test_what_was_asked_is_shown_and_the_answer_as_it_grows(visitor, photo):
    steps = ask(visitor, "What?", photo)
    assert steps[0][-1] == {"role": "assistant", "content": ""}
    picture, question, answer = steps[-1]
    assert picture["content"] == {"path": str(photo), "alt_text": "photo.png"}
    assert question == {"role": "user", "content": "What?"}
    assert answer["content"] == visitor.chat.history[-1]["content"]
    assert len(ask(visitor, "Sure?")[-1]) == 5


def test_a_video_is_asked_about_as_a_video(visitor, tmp_path):
    frames = [Image.new("RGB", (20, 20), color) for color in ("red", "blue")]
    frames[0].save(tmp_path / "clip.GIF", save_all=True, append_images=frames[1:])
    ask(visitor, "What?", tmp_path / "clip.GIF")
    assert visitor.chat.history[0]["content"][0]["type"] == "video"


def test_a_file_that_cannot_be_read_is_refused_by_its_name_alone(visitor, tmp_path):
    ask(visitor, "Hi")
    before = visitor.shown
    (tmp_path / "bad.png").write_bytes(b"no picture")
    with pytest.raises(Refusal, match=r"bad\.png cannot be decoded") as refused:
        ask(visitor, "What?", tmp_path / "bad.png")
    assert str(tmp_path) not in str(refused.value)
    assert visitor.shown == before
    assert len(ask(visitor, "Still there?")[-1]) == 4
    assert len(visitor.chat.history) == 4


@pytest.mark.parametrize(
    ("error", "shown"),
    [
        (
            ValueError("/srv/models/owl/x.bin is short; see http://a.b/c/d"),
            "x.bin is short; see http",
        ),
        (RuntimeError("CUDA out of memory in /srv/secret"), "The server could not answer"),
    ],
)
def test_errors_name_no_path_of_the_server(visitor, monkeypatch, caplog, error, shown):
    def fail(**_):
        raise error

    monkeypatch.setattr(visitor.chat.model.network, "generate", fail)
    with caplog.at_level(logging.ERROR, "owl"), pytest.raises(Refusal, match=shown) as refused:
        ask(visitor, "Hi")
    assert "/srv" not in str(refused.value)
    if isinstance(error, RuntimeError):
        assert "out of memory" in caplog.text  # for who runs the server
    else:
        assert "http://a.b/c/d" in str(refused.value)


def test_a_question_needs_words_and_not_too_many_files(visitor, photo):
    with pytest.raises(Refusal, match="Type a question"):
        ask(visitor, "  ", photo)
    with pytest.raises(Refusal, match=f"17 files are too many: a question may have {MAX_FILES}"):
        ask(visitor, "What?", *[photo] * 17)
    assert not visitor.chat.waiting
    assert not visitor.shown


def test_a_restart_ends_the_answer_and_shows_nothing_more(visitor):
    visitor.chat.options = ChatOptions(max_new_tokens=10_000, greedy=True)
    answer = visitor.reply({"text": "Hi", "files": []})
    next(answer)
    next(answer)
    visitor.restart()
    assert list(answer) == []
    assert visitor.shown == visitor.chat.history == []


def test_visitors_do_not_see_each_other(chat, photo):
    first, second = Visitor(chat), Visitor(Chat(chat.model, chat.options))
    ask(first, "What?", photo)
    ask(second, "Hi")
    assert [len(visitor.chat.history[0]["content"]) for visitor in (first, second)] == [2, 1]
    second.restart()
    assert len(first.shown) == 3


def test_the_page_is_for_this_machine_unless_asked():
    assert _parser().parse_args(["--model", "m", "--web"]).host == "127.0.0.1"


def test_the_server_reads_no_file_that_was_not_uploaded(chat, photo):
    pytest.importorskip("gradio", reason="needs gradio: pip install 'owl3-megatron[web]'")
    page = build_page(chat.model, chat.options)
    _, url, _ = page.launch(prevent_thread_lock=True, quiet=True, max_file_size=1000)
    try:
        for path in ("/etc/hostname", str(photo)):
            with pytest.raises(urllib.error.HTTPError, match="403"):
                urllib.request.urlopen(f"{url}gradio_api/file={path}")
        boundary = "x"
        body = (
            f"--{boundary}\r\n"
            'Content-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n'
            f"{'a' * 5000}\r\n--{boundary}--\r\n"
        )
        upload = urllib.request.Request(
            f"{url}gradio_api/upload",
            body.encode(),
            {"Content-Type": f"multipart/form-data; boundary={boundary}"},
        )
        with pytest.raises(urllib.error.HTTPError, match="413"):
            urllib.request.urlopen(upload)
        config = json.load(urllib.request.urlopen(f"{url}config"))
        assert not config["analytics_enabled"]
    finally:
        page.close()
