# SPDX-License-Identifier: Apache-2.0
"""Options of the processor's calls: its own, and transformers' that request nothing here.

transformers passes its own options to every processor, most of them at a value that requests
nothing. Those are accepted. An option that requests something unsupported is an error, so that a
typing mistake does not go unnoticed.
"""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, fields
from difflib import get_close_matches
from typing import Any, TypedDict

from transformers.processing_utils import ProcessingKwargs

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
        padding_side: left (also for None) or right; media_offset is the same for both.
        return_tensors: "pt", or None for lists of tokens.
    """

    cut_enable: bool = True
    max_tiles: int | None = None
    max_frames: int | None = None
    fps: float | None = None
    number_media: bool = False
    padding: bool | str | None = True
    padding_side: str | None = "left"
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
        if self.padding_side not in ("left", "right", None):
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
        options: of CallOptions, or of those that transformers passes to every processor, also in
            its groups (images_kwargs={"max_tiles": 5}).
        known: names of the call's other options, for messages.

    Raises:
        RequestError: an option is not known, or has an invalid value.
    """
    options = _as_max_frames(flatten(options))
    _check_others({n: value for n, value in options.items() if n not in CALL_OPTIONS}, known)
    return CallOptions(**{n: value for n, value in options.items() if n in CALL_OPTIONS})


def flatten(options: Mapping[str, Any]) -> dict[str, Any]:
    """Take options out of transformers' groups."""
    flat = {name: value for name, value in options.items() if name not in GROUPS}
    for group in GROUPS:
        flat |= options.get(group) or {}
    return flat


def _as_max_frames(options: dict[str, Any]) -> dict[str, Any]:
    """Read transformers' names for a limit of frames, and for none."""
    given = dict(options)
    if given.pop("do_sample_frames", None) is False:
        given.setdefault("max_frames", sys.maxsize)
    if (most := given.pop("num_frames", None)) is not None:
        given["max_frames"] = most
    return given


GROUPS = ("text_kwargs", "images_kwargs", "videos_kwargs", "audio_kwargs", "common_kwargs")
"""Under which transformers groups the options of a processor."""


class OwlImagesKwargs(TypedDict, total=False):
    """See CallOptions."""

    cut_enable: bool
    max_tiles: int | None


class OwlVideosKwargs(TypedDict, total=False):
    """See CallOptions."""

    max_frames: int | None
    fps: float | None


class OwlProcessorKwargs(ProcessingKwargs, total=False):  # type: ignore[call-arg, misc]
    """The groups in which transformers passes options."""

    images_kwargs: OwlImagesKwargs
    videos_kwargs: OwlVideosKwargs


_NO_TRUNCATION = "a row that is cut off would lose tiles: limit them with max_tiles and max_frames"
_UNSUPPORTED = {
    "truncation": _NO_TRUNCATION,
    "max_length": _NO_TRUNCATION,
    "stride": _NO_TRUNCATION,
    "return_assistant_tokens_mask": "it is an option of apply_chat_template",
    "return_token_type_ids": "the model takes none",
    "return_mm_token_type_ids": "the model takes none: media_offset holds the places of pictures",
    "pad_to_multiple_of": "rows are padded to the longest",
    "add_special_tokens": "the template writes the control tokens",
    "tools": "the published format has none",
    "documents": "the published format has none",
    "reasoning_effort": "the published format has none",
    "audio": "audio is not an input of the model",
    "load_audio_from_video": "audio is not an input of the model",
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
