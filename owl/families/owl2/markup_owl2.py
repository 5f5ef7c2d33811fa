# SPDX-License-Identifier: Apache-2.0
"""What mPLUG-Owl2 reads around text and pictures.

Training and owl.hf share this module, and a copy of it travels with exported folders: it imports
nothing of owl but other modules that travel.

A tokenizer of LLaMA's reads each stretch of text by itself and begins it with a space. So the space
between `ASSISTANT:` and an answer is not written: the answer is a stretch of its own, as published.
"""

from collections.abc import Iterator, Sequence

from owl.portable.pieces_owl import CONTEXT, Control, Other, Piece, RenderedTurn, Text

BEGIN, END = "<s>", "</s>"
"""Control tokens of LLaMA's tokenizer: the first of a text, and what ends an answer."""
IMAGE_PLACEHOLDER = "<|image|>"

SYSTEM = {
    "mplug_owl2": "",  # of the released inference code
    "v1": (  # Vicuna's, of the released finetune.sh
        "A chat between a curious user and an artificial intelligence assistant. "
        "The assistant gives helpful, detailed, and polite answers to the user's questions."
    ),
}
"""Template -> system sentence where a conversation has none of its own."""
PRETRAIN = "pretrain"
"""Template without roles: a picture and its caption. The published format is not known."""


def write_turns(
    turns: Sequence[RenderedTurn[Other]], template: str, *, close_last: bool = True
) -> Iterator[Piece | Other]:
    """Write a conversation or a document from its very beginning.

    Args:
        turns: what is said, with what stands for its pictures.
        template: key of SYSTEM, or PRETRAIN. A document is written without roles by all of them.
        close_last: whether `</s>` follows the last turn too, if it is an answer or a document.
    """
    yield Control(BEGIN)
    has_roles = template != PRETRAIN and not (turns and turns[0].role == "document")
    if has_roles and SYSTEM[template] and not (turns and turns[0].role == "system"):
        yield Text(f"{SYSTEM[template]} ")
    for number, turn in enumerate(turns):
        content = list(turn.content)
        if has_roles and turn.role == "user":
            yield Text(f"USER:{_space(content[:1])}")
        elif has_roles and turn.role == "assistant":
            begins_with_text = content and isinstance(content[0], Text)
            yield from start_answer("" if begins_with_text else " ")
        yield from content
        if turn.role in ("assistant", "document"):
            if close_last or number + 1 < len(turns):
                yield Control(END, turn.weight)
        elif has_roles:
            yield Text(_space(content[-1:]))


def start_answer(space: str = "") -> Iterator[Text]:
    """Write what opens an answer: of training, and of a prompt that asks for one."""
    yield Text(f"ASSISTANT:{space}", closed=True)


def _space(neighbour: Sequence[Piece | Other]) -> str:
    """The space between a header and its neighbour, which brings its own if it is read apart."""
    is_apart = any(isinstance(piece, Text) and piece.weight != CONTEXT for piece in neighbour)
    return "" if is_apart else " "
