# SPDX-License-Identifier: Apache-2.0
"""Options of the processor's calls: ours, transformers' that mean nothing here, and no others.

transformers hands its own options to every processor, most of them at a value that asks for
nothing. Those pass. An option that asks for something which is not done is refused by name, so that
a typing mistake does not go unnoticed.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from owl.portable.requests_owl import RequestError


@dataclass(frozen=True)
class MediaOptions:
    """How pictures and videos are shown."""

    cut: bool = True
    max_tiles: int | None = None
    max_frames: int | None = None
    number: bool = False

    def __post_init__(self) -> None:
        for name, value in (("max_tiles", self.max_tiles), ("max_frames", self.max_frames)):
            if value is not None and value < 1:
                raise RequestError(f"{name}={value} must be at least 1, or None.")


@dataclass(frozen=True)
class BatchOptions:
    """How rows become a batch."""

    padding: bool | str | None = True
    padding_side: str = "left"
    return_tensors: str | None = "pt"

    def __post_init__(self) -> None:
        if self.padding not in (True, "longest", False, None, "do_not_pad"):
            raise RequestError(
                f"padding={self.padding!r} must be True ('longest') or False ('do_not_pad'): rows "
                "are padded to the longest."
            )
        if self.padding_side not in ("left", "right"):
            raise RequestError(f"padding_side={self.padding_side!r} must be left or right.")
        if self.return_tensors not in ("pt", None):
            raise RequestError(f"return_tensors={self.return_tensors!r} must be 'pt' or None.")

    @property
    def pads(self) -> bool:
        """Whether rows are padded to the longest."""
        return self.padding in (True, "longest")


_MEDIA = {
    "cut_enable": "cut", "max_tiles": "max_tiles", "max_frames": "max_frames",
    "number_media": "number",
}  # fmt: skip
_BATCH = ("padding", "padding_side", "return_tensors")
CALL_OPTIONS = (*_MEDIA, *_BATCH)
"""Options of both ways of asking."""


def read_options(
    given: Mapping[str, Any], more: Mapping[str, Any] | None = None
) -> tuple[MediaOptions, BatchOptions]:
    """Sort the options of a call.

    Args:
        given: a value for each of CALL_OPTIONS.
        more: some of them once more, and transformers' own; these win.

    Raises:
        RequestError: an option has no such value, or is not known.
    """
    more = more or {}
    check_options({name: more[name] for name in more if name not in CALL_OPTIONS}, CALL_OPTIONS)
    merged = {**given, **more}
    media = MediaOptions(**{ours: merged[name] for name, ours in _MEDIA.items()})
    return media, BatchOptions(**{name: merged[name] for name in _BATCH})


_NO_TRUNCATION = "a row that is cut off would lose tiles: bound them with max_tiles and max_frames"
_NOT_DONE = {
    "truncation": _NO_TRUNCATION,
    "max_length": _NO_TRUNCATION,
    "stride": _NO_TRUNCATION,
    "return_assistant_tokens_mask": "return_labels=True says what the assistant says",
    "return_token_type_ids": "the model takes none",
    "return_mm_token_type_ids": "the model takes none: media_offset says where pictures stand",
    "pad_to_multiple_of": "rows are padded to the longest",
    "add_special_tokens": "the template writes the control tokens",
    "tools": "the published format has none",
    "documents": "the published format has none",
    "reasoning_effort": "the published format has none",
    "audio": "the model hears nothing",
    "load_audio_from_video": "the model hears nothing",
    "num_frames": "max_frames bounds the frames of a video",
    "fps": "one frame a second is taken, and max_frames bounds them",
}
"""What transformers may ask of any processor and this one does not do, and what to do instead."""
_ALWAYS = ("return_attention_mask", "sanitize_control_tokens", "verbose")
"""What is done, or means nothing, at any value."""


def check_options(given: Mapping[str, Any], known: Iterable[str]) -> None:
    """Raise RequestError for an option that asks for something which is not done.

    Args:
        given: options that a call does not know by name.
        known: the names that it knows.
    """
    for name, value in given.items():
        if name in _ALWAYS or (name in _NOT_DONE and (value is None or value is False)):
            continue
        if name in _NOT_DONE:
            raise RequestError(f"{name}={value!r} is not done: {_NOT_DONE[name]}.")
        near = get_close_matches(name, [*known], n=1)
        advice = f"did you mean {near[0]}?" if near else f"it knows {', '.join(known)}."
        raise RequestError(f"{name}={value!r} is no option of this processor: {advice}")
