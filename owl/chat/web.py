# SPDX-License-Identifier: Apache-2.0
"""The chat as a web page: for this machine unless another address is named."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from owl.chat.session import Chat, ChatOptions, Model
from owl.errors import OwlError
from owl.logging import logger

VIDEO_FILES = (".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".ts", ".gif")
MAX_FILES = 16
"""Pictures and videos of one question."""
MAX_FILE_SIZE = "100mb"
"""Of one upload."""
MAX_WAITING = 64
"""Questions that wait for the model; it answers one at a time."""
UPLOADS_KEPT = 24 * 60 * 60
"""Seconds until an upload is deleted; all are when the server stops."""

FOLDERS = re.compile(r"(?<![\w:/])/(?:[^\s/:'\"]+/)+")
"""The folders of an absolute path, but not of a URL."""

Shown = list[dict[str, Any]]
"""The conversation as the page shows it."""


class Refusal(OwlError):
    """A question that has no answer, in words for a visitor: without paths of the server."""


def serve(model: Model, options: ChatOptions, *, host: str, port: int) -> None:
    """Serve the page until interrupted.

    Args:
        model: that answers.
        options: how media are encoded and answers are generated.
        host: address to listen on; 127.0.0.1 is reached from this machine alone.
        port: to listen on.

    Raises:
        OwlError: gradio is not installed.
        OSError: the port is in use.
    """
    page = build_page(model, options)
    if host not in ("127.0.0.1", "localhost", "::1"):
        logger.warning("--host %s: whoever can reach this address can use the model", host)
    page.queue(max_size=MAX_WAITING, default_concurrency_limit=1)
    page.launch(server_name=host, server_port=port, max_file_size=MAX_FILE_SIZE, share=False)


@dataclass
class Visitor:
    """One visitor's conversation, and what the page shows of it."""

    chat: Chat
    shown: Shown = field(default_factory=list)

    def restart(self) -> None:
        """End the answer that is being written, and forget the conversation."""
        self.chat.reset()
        self.shown = []

    def reply(self, message: Mapping[str, Any]) -> Iterator[Shown]:
        """Ask the typed question, and yield what the page shows as the answer grows.

        After a Refusal the conversation is what it was.

        Args:
            message: {"text", "files"} of the text box.

        Raises:
            Refusal: a file cannot be read, or something in the server failed.
        """
        files = [str(file) for file in message.get("files") or []]
        question = (message.get("text") or "").strip()
        _check(question, files)
        number, before = self.chat.number, self.shown
        for file in files:
            self.chat.show("video" if _is_video(file) else "image", file)
        asked = [*before, *map(_as_message, files), {"role": "user", "content": question}]
        text = ""
        try:
            yield [*asked, {"role": "assistant", "content": text}]
            for piece in self.chat.ask(question):
                text += piece
                if self.chat.number != number:
                    return  # the conversation was restarted
                self.shown = [*asked, {"role": "assistant", "content": text}]
                yield self.shown
        except ValueError as error:
            self.shown = before
            raise Refusal(_without_paths(str(error), files)) from error
        except Exception as error:
            self.shown = before
            logger.exception("the chat could not answer")
            raise Refusal("The server could not answer. Its log says why.") from error


def _check(question: str, files: list[str]) -> None:
    if not question:
        raise Refusal("Type a question, also where you add pictures or videos.")
    if len(files) > MAX_FILES:
        raise Refusal(f"{len(files)} files are too many: a question may have {MAX_FILES}.")


def _is_video(file: str) -> bool:
    return file.lower().endswith(VIDEO_FILES)


def _as_message(file: str) -> dict[str, Any]:
    return {"role": "user", "content": {"path": file, "alt_text": Path(file).name}}


def _without_paths(text: str, files: list[str]) -> str:
    for file in files:
        text = text.replace(file, Path(file).name)
    return FOLDERS.sub("", text)


def build_page(model: Model, options: ChatOptions) -> Any:
    """Build the page; each visitor has a separate conversation."""
    try:
        import gradio  # type: ignore[import-not-found]
    except ImportError as error:
        raise OwlError(
            "--web needs gradio, which is not installed: pip install 'owl3-megatron[web]'."
        ) from error

    def respond(message: dict[str, Any], visitor: Visitor | None) -> Iterator[Any]:
        # Not the initial value of the state, which gradio copies, and the model with it.
        visitor = visitor or Visitor(Chat(model, options))
        waiting = gradio.update(value=None, interactive=False)
        try:
            for shown in visitor.reply(message):
                yield shown, waiting, visitor
        except Refusal as refusal:
            # The question comes back, to be corrected.
            yield visitor.shown, gradio.update(value=message, interactive=True), visitor
            raise gradio.Error(str(refusal), duration=None, print_exception=False) from refusal
        yield visitor.shown, gradio.update(interactive=True), visitor

    def restart(visitor: Visitor | None) -> Any:
        if visitor is not None:
            visitor.restart()
        return [], gradio.update(value=None, interactive=True)

    def stop(visitor: Visitor | None) -> None:
        if visitor is not None:
            visitor.chat.stop()

    with gradio.Blocks(
        title="mPLUG-Owl", analytics_enabled=False, delete_cache=(3600, UPLOADS_KEPT)
    ) as page:
        state = gradio.State(None)
        history = gradio.Chatbot(label="Conversation", height=560, elem_id="conversation")
        box = gradio.MultimodalTextbox(
            label="Question",
            file_count="multiple",
            file_types=["image", "video"],
            placeholder="Ask about pictures or videos; add them with the clip or drop them here",
            elem_id="question",
        )
        with gradio.Row():
            stop_button = gradio.Button("Stop", elem_id="stop")
            new_button = gradio.Button("New conversation", elem_id="new")
        asked = box.submit(
            respond, [box, state], [history, box, state], show_progress="hidden"
        )  # fmt: skip
        stop_button.click(stop, state, queue=False)
        for listen in (new_button.click, history.clear):  # the bin above the conversation
            listen(restart, state, [history, box], cancels=[asked], queue=False)
    return page
