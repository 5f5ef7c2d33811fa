# SPDX-License-Identifier: Apache-2.0
"""The chat in a terminal."""

from collections.abc import Callable
from pathlib import Path

from owl.chat.session import Chat

HELP = """\
/image FILE   show a picture with the next question (a path or a URL; repeat for several)
/video FILE   show a video with the next question
/reset        start a new conversation
/help         show this list
/quit         quit (or Ctrl-D); Ctrl-C stops an answer"""

Write = Callable[[str], None]


def talk(chat: Chat, read: Callable[[], str], write: Write) -> None:
    """Answer what is typed until /quit or the end of input.

    Args:
        chat: the conversation.
        read: returns the next line, raises EOFError at the end of input.
        write: prints text, without adding a newline.
    """
    write("Ask something; /help lists the commands.\n")
    while True:
        try:
            line = read().strip()
        except (EOFError, KeyboardInterrupt):
            write("\n")
            return
        if line == "/quit":
            return
        if line.startswith("/"):
            write(run_command(chat, line) + "\n")
        elif line:
            answer(chat, line, write)


def run_command(chat: Chat, line: str) -> str:
    """Run a command such as `/image photo.jpg`; returns the reply to print."""
    command, _, argument = line.partition(" ")
    argument = argument.strip()
    if command == "/help":
        return HELP
    if command == "/reset":
        chat.reset()
        return "New conversation."
    if command not in ("/image", "/video"):
        return f"{command} is not a command; /help lists them."
    if not argument:
        return f"{command} needs a file: {command} photo.jpg"
    if "://" not in argument and not Path(argument).expanduser().is_file():
        return f"{argument} does not exist."
    source = argument if "://" in argument else str(Path(argument).expanduser())
    chat.show(command.removeprefix("/"), source)
    return f"{argument} will be shown with your next question."


def answer(chat: Chat, question: str, write: Write) -> bool:
    """Ask and write the answer as it arrives; returns whether it is complete."""
    try:
        for piece in chat.ask(question):
            write(piece)
    except KeyboardInterrupt:
        write(" [stopped]\n")
        return False
    except ValueError as error:
        write(f"{error}\n")
        return False
    write("\n")
    return True
