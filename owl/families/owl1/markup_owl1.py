# SPDX-License-Identifier: Apache-2.0
r"""What mPLUG-Owl reads around text and pictures: lines of `Human: ` and `AI: `.

Training and owl.hf share this module, and a copy of it travels with exported folders: it imports
nothing of owl but other modules that travel.

The released training code splits a conversation at `<image>`, `AI: ` and `\nHuman: ` and tokenises
every part by itself, those marks too: LLaMA's tokenizer begins each with a space. Here they are
closed pieces. (The released inference code splits at `<image>` only.)
"""

from collections.abc import Iterator, Sequence

from owl.portable.pieces_owl import Control, Other, Piece, RenderedTurn, Text, Tile

BEGIN, END = "<s>", "</s>"
"""Control tokens of LLaMA's tokenizer: the first of a text, and what ends an answer."""
IMAGE_PLACEHOLDER = "<image>"
SYSTEM = (
    "The following is a conversation between a curious human and AI assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)
HUMAN = Text("\nHuman: ", closed=True)
"""Opens a line of the user's: each picture, and each stretch of text, has one."""
ANSWER = Text("AI: ", closed=True)
"""Opens an answer: of training, and of a prompt that asks for one."""


def write_turns(
    turns: Sequence[RenderedTurn[Other]], *, close_last: bool = True
) -> Iterator[Piece | Other]:
    """Write a conversation or a document from its very beginning.

    Args:
        turns: what is said, with what stands for its pictures.
        close_last: whether `</s>` follows the last turn too, if it is an answer or a document.
    """
    yield Control(BEGIN)
    if not turns or turns[0].role not in ("system", "document"):
        yield Text(SYSTEM, closed=True)
    for number, turn in enumerate(turns):
        if turn.role == "user":
            yield from _human_lines(turn)
        else:
            if turn.role == "assistant":
                yield ANSWER
            # Outside the user's lines, the frames of a clip stand side by side.
            yield from (piece for piece in turn.content if piece is not HUMAN)
            if turn.role == "system":
                yield Text("", closed=True)  # what follows is read by itself
        if turn.role in ("assistant", "document") and (close_last or number + 1 < len(turns)):
            yield Control(END, turn.weight)


def write_clip(frames: int) -> Iterator[Piece]:
    """Write a video as its frames, a line each, as the released demo does."""
    for frame in range(frames):
        if frame:
            yield HUMAN
        yield Tile()


def _human_lines(turn: RenderedTurn[Other]) -> Iterator[Piece | Other]:
    before: Piece | Other | None = None
    for piece in turn.content:
        goes_on = isinstance(before, Text) and isinstance(piece, Text)
        if before is not HUMAN and piece is not HUMAN and not goes_on:
            if isinstance(before, Text):
                yield Text("", before.weight, closed=True)  # ends the stretch
            yield HUMAN
        yield piece
        before = piece
    yield Text("\n", closed=True)
