# SPDX-License-Identifier: Apache-2.0
"""Options of the processor's calls: its own, and transformers' that request nothing here.

transformers passes its own options to every processor, most of them at a value that requests
nothing. Those are accepted. An option that requests something unsupported is an error, so that a
typing mistake does not go unnoticed.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from difflib import get_close_matches
from typing import Any

from owl.portable.requests_owl import RequestError


@dataclass(frozen=True)
class CallOptions:
    """The options of __call__ and apply_chat_template.

    Args:
        cut_enable: cut pictures into tiles; frames are never cut.
        max_tiles: most tiles of one picture, its global view included; no limit by default.
        max_frames: most frames of one video. By default 16 of a file or an array, and all of a
            list of frames, as published.
        fps: frames a second of a video file, by its time stamps. By default every
            round(frames per second)-th frame, as published.
        number_media: write `Picture 1: ` before the first picture, and so on.
        padding: pad rows to the longest; without padding a batch must be of equal lengths.
        padding_side: left or right; media_offset is the same for both.
        return_tensors: "pt", or None for lists of tokens.
    """

    cut_enable: bool = True
    max_tiles: int | None = None
    max_frames: int | None = None
    fps: float | None = None
    number_media: bool = False
    padding: bool | str | None = True
    padding_side: str = "left"
    return_tensors: str | None = "pt"

    def __post_init__(self) -> None:
        for name, value in (("max_tiles", self.max_tiles), ("max_frames", self.max_frames)):
            if value is not None and value < 1:
                raise RequestError(f"{name}={value} must be at least 1, or None.")
        if self.fps is not None and not 0 < self.fps < float("inf"):
            raise RequestError(f"fps={self.fps} must be above 0, or None.")
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


CALL_OPTIONS = tuple(field.name for field in fields(CallOptions))


def read_options(options: Mapping[str, Any], known: tuple[str, ...]) -> CallOptions:
    """Read the options of a call.

    Args:
        options: of CallOptions, or of those that transformers passes to every processor.
        known: names of the call's other options, for messages.

    Raises:
        RequestError: an option is not known, or has an invalid value.
    """
    _check_others({n: value for n, value in options.items() if n not in CALL_OPTIONS}, known)
    return CallOptions(**{n: value for n, value in options.items() if n in CALL_OPTIONS})


_NO_TRUNCATION = "a row that is cut off would lose tiles: limit them with max_tiles and max_frames"
_UNSUPPORTED = {
    "truncation": _NO_TRUNCATION,
    "max_length": _NO_TRUNCATION,
    "stride": _NO_TRUNCATION,
    "return_assistant_tokens_mask": "return_labels=True marks the assistant's tokens",
    "return_token_type_ids": "the model takes none",
    "return_mm_token_type_ids": "the model takes none: media_offset holds the places of pictures",
    "pad_to_multiple_of": "rows are padded to the longest",
    "add_special_tokens": "the template writes the control tokens",
    "tools": "the published format has none",
    "documents": "the published format has none",
    "reasoning_effort": "the published format has none",
    "audio": "audio is not an input of the model",
    "load_audio_from_video": "audio is not an input of the model",
    "num_frames": "max_frames limits the frames of a video",
}
"""Options of transformers that are not supported here, and what to do instead."""
_IGNORED = ("return_attention_mask", "sanitize_control_tokens", "verbose")
"""Options of transformers without effect here, at any value."""


def _check_others(given: Mapping[str, Any], known: tuple[str, ...]) -> None:
    """Raise RequestError for an option that requests something unsupported."""
    names = (*CALL_OPTIONS, *known)
    for name, value in given.items():
        if name in _IGNORED or (name in _UNSUPPORTED and (value is None or value is False)):
            continue
        if name in _UNSUPPORTED:
            raise RequestError(f"{name}={value!r} is not supported: {_UNSUPPORTED[name]}.")
        near = get_close_matches(name, names, n=1)
        advice = f"did you mean {near[0]}?" if near else f"the options are {', '.join(names)}."
        raise RequestError(f"{name}={value!r} is not an option of this processor: {advice}")
