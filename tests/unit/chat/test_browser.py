# SPDX-License-Identifier: Apache-2.0
"""The page in a browser without a window.

pip install 'owl3-megatron[web]' playwright, and a Chromium: `playwright install chromium`, or a
package of the system (Debian: chromium or chromium-headless-shell).

    python -m pytest -m slow tests/unit/chat/test_browser.py
"""

import shutil

import pytest
from PIL import Image

from owl.chat import web
from owl.chat.session import ChatOptions

pytest.importorskip("gradio", reason="needs gradio: pip install 'owl3-megatron[web]'")
playwright = pytest.importorskip("playwright.sync_api", reason="needs pip install playwright")

pytestmark = pytest.mark.slow

PATIENCE = 30_000
"""Milliseconds until something must have appeared."""


@pytest.fixture(scope="module")
def browser():
    system = shutil.which("chromium-headless-shell") or shutil.which("chromium")
    with playwright.sync_playwright() as started:
        try:
            browser = started.chromium.launch(executable_path=system, args=["--no-sandbox"])
        except playwright.Error as error:
            pytest.skip(f"no Chromium starts: {error}")
        playwright.expect.set_options(timeout=PATIENCE)
        yield browser
        browser.close()


class Recorded(web.Visitor):
    """Remembers who came, so that a test can look at the server's side."""

    came: "list[Recorded]" = []  # noqa: RUF012

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.came.append(self)


@pytest.fixture
def visitors(monkeypatch):
    Recorded.came = []
    monkeypatch.setattr(web, "Visitor", Recorded)
    return Recorded.came


@pytest.fixture
def url(chat, visitors):
    page = web.build_page(chat.model, chat.options)
    _, url, _ = page.queue(default_concurrency_limit=1).launch(
        prevent_thread_lock=True, quiet=True, max_file_size=web.MAX_FILE_SIZE
    )
    yield url
    page.close()


@pytest.fixture
def tab(browser, url):
    context = browser.new_context()
    context.set_default_timeout(PATIENCE)
    tab = context.new_page()
    tab.goto(url)
    yield tab
    context.close()


def ask(tab, text, *files):
    """Type a question, and send it."""
    if files:
        tab.locator("#question input[type=file]").set_input_files([str(file) for file in files])
        playwright.expect(tab.locator("#question .thumbnail-item")).to_have_count(len(files))
    tab.locator("#question textarea").fill(text)
    tab.locator("#question textarea").press("Enter")


def answers(tab, count):
    """Wait until as many answers are complete."""
    playwright.expect(tab.locator("#conversation .bot.message")).to_have_count(count)
    playwright.expect(tab.locator("#question textarea")).to_be_enabled(timeout=PATIENCE)


def long_answers(visitors):
    visitors[-1].chat.options = ChatOptions(max_new_tokens=10_000, greedy=True)


def test_the_page_has_names_for_what_is_on_it(tab):
    playwright.expect(tab).to_have_title("mPLUG-Owl")
    for name in ("Stop", "New conversation"):
        playwright.expect(tab.get_by_role("button", name=name)).to_be_visible()
    for label in ("Question", "Conversation"):
        playwright.expect(tab.get_by_text(label, exact=True).first).to_be_visible()


def test_a_picture_and_a_video_are_asked_about(tab, visitors, photo, tmp_path):
    frames = [Image.new("RGB", (20, 20), color) for color in ("red", "blue")]
    frames[0].save(tmp_path / "clip.gif", save_all=True, append_images=frames[1:])
    ask(tab, "What is this?", photo)
    answers(tab, 1)
    ask(tab, "And this?", tmp_path / "clip.gif")
    answers(tab, 2)
    assert tab.locator("#conversation img").count() >= 2
    first, _, second, _ = visitors[0].chat.history
    assert [part["type"] for part in first["content"]] == ["image", "text"]
    assert [part["type"] for part in second["content"]] == ["video", "text"]


def test_the_bin_empties_the_conversation(tab, visitors):
    ask(tab, "Hi")
    answers(tab, 1)
    tab.get_by_label("Clear").click()
    answers(tab, 0)
    assert visitors[0].chat.history == []
    ask(tab, "Again")
    answers(tab, 1)
    assert len(visitors[0].chat.history) == 2


def test_stop_ends_the_answer_and_keeps_its_beginning(tab, visitors):
    ask(tab, "Hi")
    answers(tab, 1)
    long_answers(visitors)
    ask(tab, "Go on")
    playwright.expect(tab.locator("#question textarea")).to_be_disabled()
    tab.get_by_role("button", name="Stop").click()
    answers(tab, 2)
    assert len(visitors[0].chat.history) == 4


def test_a_new_conversation_ends_the_answer_and_stays_empty(tab, visitors):
    ask(tab, "Hi")
    answers(tab, 1)
    long_answers(visitors)
    ask(tab, "Go on")
    playwright.expect(tab.locator("#question textarea")).to_be_disabled()
    tab.get_by_role("button", name="New conversation").click()
    answers(tab, 0)
    tab.wait_for_timeout(1500)  # what was on its way would have come by now
    answers(tab, 0)
    assert visitors[0].chat.history == []
    visitors[0].chat.options = ChatOptions(max_new_tokens=5, greedy=True)
    ask(tab, "Hello")
    answers(tab, 1)


def test_an_error_is_an_error_and_the_question_comes_back(tab, visitors, tmp_path):
    ask(tab, "Hi")
    answers(tab, 1)
    (tmp_path / "bad.png").write_bytes(b"no picture")
    ask(tab, "What is this?", tmp_path / "bad.png")
    toast = tab.locator(".toast-body.error")
    playwright.expect(toast).to_contain_text("bad.png cannot be decoded")
    assert "/" not in toast.inner_text().replace("https://", "")
    playwright.expect(tab.locator("#question textarea")).to_have_value("What is this?")
    answers(tab, 1)
    assert len(visitors[0].chat.history) == 2


def test_two_visitors_have_two_conversations(tab, browser, url, visitors):
    other = browser.new_context().new_page()
    other.goto(url)
    ask(tab, "First")
    ask(other, "Second")
    answers(tab, 1)
    answers(other, 1)
    asked = {visitor.chat.history[0]["content"][0]["text"] for visitor in visitors}
    assert asked == {"First", "Second"}
    assert "Second" not in tab.locator("#conversation").inner_text()
    other.context.close()
