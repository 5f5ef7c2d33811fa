# SPDX-License-Identifier: Apache-2.0
"""The chat as a local web page."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from owl.chat.session import Chat, ChatOptions, Model
from owl.errors import OwlError

VIDEO_FILES = {".mp4", ".mov", ".avi", ".mkv", ".webm", ".gif"}


def serve(model: Model, options: ChatOptions, *, port: int) -> None:
    """Serve the page on this machine until interrupted.

    Raises:
        OwlError: gradio is not installed.
    """
    build_page(model, options).launch(server_name="127.0.0.1", server_port=port)


def build_page(model: Model, options: ChatOptions) -> Any:
    """Build the page; each visitor has a separate conversation."""
    try:
        import gradio  # type: ignore[import-not-found]
    except ImportError as error:
        raise OwlError(
            "--web needs gradio, which is not installed: pip install 'owl3-megatron[web]'."
        ) from error

    def respond(message: dict[str, Any], shown: list[Any], chat: Chat | None) -> Iterator[Any]:
        # Not the initial value of the state, which gradio copies, and the model with it.
        chat = chat or Chat(model, options)
        yield from reply(chat, message, shown)

    with gradio.Blocks(title="mPLUG-Owl") as page:
        state = gradio.State(None)
        history = gradio.Chatbot(label="mPLUG-Owl", height=560, **_message_format(gradio))
        box = gradio.MultimodalTextbox(
            file_count="multiple", file_types=["image", "video"], placeholder="Ask about pictures"
        )
        clear = gradio.Button("New conversation")
        box.submit(respond, [box, history, state], [history, box, state])
        clear.click(lambda: ([], None, None), outputs=[history, box, state])
    return page


def reply(
    chat: Chat, message: dict[str, Any], shown: list[Any]
) -> Iterator[tuple[list[Any], None, Chat]]:
    """Ask the typed question, and yield the page's history as the answer grows.

    Args:
        chat: this visitor's conversation.
        message: {"text", "files"} of the text box.
        shown: the history on the page.
    """
    for file in message.get("files") or []:
        chat.show("video" if Path(file).suffix.lower() in VIDEO_FILES else "image", file)
        shown = [*shown, {"role": "user", "content": {"path": file}}]
    shown = [*shown, {"role": "user", "content": message.get("text") or ""}]
    text = ""
    yield [*shown, {"role": "assistant", "content": text}], None, chat
    try:
        for piece in chat.ask(message.get("text") or ""):
            text += piece
            yield [*shown, {"role": "assistant", "content": text}], None, chat
    except ValueError as error:
        yield [*shown, {"role": "assistant", "content": f"{error}"}], None, chat


def _message_format(gradio: Any) -> dict[str, str]:
    """Gradio 5 needs an option for messages as dicts; later releases accept only dicts."""
    return {"type": "messages"} if int(gradio.__version__.split(".")[0]) < 6 else {}
