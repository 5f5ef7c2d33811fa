# SPDX-License-Identifier: Apache-2.0
"""The chat as a local page: pictures and videos are dropped into the question, history stays."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from owl.chat.session import Chat, ChatOptions, Model
from owl.errors import OwlError

VIDEO_FILES = {".mp4", ".mov", ".avi", ".mkv", ".webm", ".gif"}


def serve(model: Model, options: ChatOptions, *, port: int) -> None:
    """Open the page on this machine and wait.

    Raises:
        OwlError: gradio is not installed.
    """
    build_page(model, options).launch(server_name="127.0.0.1", server_port=port)


def build_page(model: Model, options: ChatOptions) -> Any:
    """Make the page; each visitor's conversation is their own."""
    try:
        import gradio  # type: ignore[import-not-found]
    except ImportError as error:
        raise OwlError(
            "--web needs gradio, which is not installed: pip install 'owl3-megatron[web]'."
        ) from error

    def respond(message: dict[str, Any], shown: list[Any], chat: Chat | None) -> Iterator[Any]:
        # A Chat cannot be the state's first value: gradio copies that, and with it the model.
        chat = chat or Chat(model, options)
        yield from reply(chat, message, shown)

    with gradio.Blocks(title="mPLUG-Owl3") as page:
        state = gradio.State(None)
        history = gradio.Chatbot(label="mPLUG-Owl3", height=560, **_message_format(gradio))
        box = gradio.MultimodalTextbox(
            file_count="multiple", file_types=["image", "video"], placeholder="Ask about pictures"
        )
        forget = gradio.Button("New conversation")
        box.submit(respond, [box, history, state], [history, box, state])
        forget.click(lambda: ([], None, None), outputs=[history, box, state])
    return page


def reply(
    chat: Chat, message: dict[str, Any], shown: list[Any]
) -> Iterator[tuple[list[Any], None, Chat]]:
    """Ask what was typed, and yield the page's history as the answer grows.

    Args:
        chat: this visitor's conversation.
        message: {"text", "files"} of the text box.
        shown: the history on the page.
    """
    for file in message.get("files") or []:
        chat.show("video" if Path(file).suffix.lower() in VIDEO_FILES else "image", file)
        shown = [*shown, {"role": "user", "content": {"path": file}}]
    shown = [*shown, {"role": "user", "content": message.get("text") or ""}]
    said = ""
    yield [*shown, {"role": "assistant", "content": said}], None, chat
    try:
        for piece in chat.ask(message.get("text") or ""):
            said += piece
            yield [*shown, {"role": "assistant", "content": said}], None, chat
    except ValueError as error:
        yield [*shown, {"role": "assistant", "content": f"{error}"}], None, chat


def _message_format(gradio: Any) -> dict[str, str]:
    """Gradio 5 has to be told that messages are dicts; later releases know nothing else."""
    return {"type": "messages"} if int(gradio.__version__.split(".")[0]) < 6 else {}
