# SPDX-License-Identifier: Apache-2.0
"""The rules of owl3-sample/1 beyond its shape: what media, turns and pictures may be."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import pairwise

from owl.data.shards.document import (
    Document,
    FramesMedia,
    Media,
    MediaPart,
    Part,
    Turn,
    VideoMedia,
)
from owl.data.shards.schema import FORBIDDEN_LITERALS, Json, SampleProblem, shape_problems

MAX_WEIGHT = 1e6


def validate(
    document: Json, files: Collection[str]
) -> tuple[Document | None, Sequence[SampleProblem]]:
    """Convert a document, and find every rule that it breaks.

    Args:
        document: the parsed json.
        files: media files stored with it, named without the key.

    Returns:
        The document, or None where its shape is wrong (E202, E203), and the problems.
    """
    shape = list(shape_problems(document))
    if shape:
        return None, shape
    typed = Document.from_json(document)
    return typed, [*_media_problems(typed, files), *_turn_problems(typed)]


def size_problems(
    document: Document, sizes: Mapping[str, tuple[int, int]]
) -> Iterator[SampleProblem]:
    """Yield E306 and E312: rules about the sizes of a sample's pictures.

    Args:
        document: of the right shape.
        sizes: file name -> width and height, upright; files that cannot be read are left out.
    """
    for index, media in enumerate(document.media):
        found = {file: sizes[file] for file in media.files if file in sizes}
        if isinstance(media, VideoMedia) or not found:
            continue
        if isinstance(media, FramesMedia) and len(set(found.values())) > 1:
            yield uneven_frames(f"media[{index}]", found)
            continue
        for file, (width, height) in found.items():
            declared = (
                width if media.width is None else media.width,
                height if media.height is None else media.height,
            )
            if declared != (width, height):
                yield SampleProblem(
                    "E306",
                    f"media[{index}] declares {declared[0]}x{declared[1]}, but {file!r} is "
                    f"{width}x{height} (upright). Correct w and h, or leave them out.",
                )


def uneven_frames(clip: str, sizes: Mapping[str, tuple[int, int]]) -> SampleProblem:
    """The problem of a clip whose frames differ in size: they cannot be of one video.

    Args:
        clip: its name, for the message.
        sizes: of its frames, by name, in order.
    """
    (first, size), *others = sizes.items()
    other, differing = next((name, found) for name, found in others if found != size)
    return SampleProblem(
        "E312",
        f"{clip}: the frame {first!r} is {size[0]}x{size[1]}, but {other!r} is "
        f"{differing[0]}x{differing[1]}. Resize them, or store them as pictures of type 'image'.",
    )


# Media.


def _media_problems(document: Document, files: Collection[str]) -> Iterator[SampleProblem]:
    listed = set(document.files)
    for file in sorted(listed - set(files)):
        yield SampleProblem("E302", f"the file {file!r} is named by the json but not in the shard.")
    for file in sorted(set(files) - listed):
        yield SampleProblem("E303", f"the file {file!r} is in the shard but not named by the json.")
    for index, media in enumerate(document.media):
        yield from _clip_problems(index, media)
    yield from _reference_problems(document)


def _clip_problems(index: int, media: Media) -> Iterator[SampleProblem]:
    if isinstance(media, VideoMedia):
        yield SampleProblem(
            "E313",
            f"media[{index}] is a video file, which is not decoded at load time. Store its frames "
            "as pictures: a media entry of type 'frames'.",
        )
    if not isinstance(media, FramesMedia):
        return
    if not media.files:
        yield SampleProblem("E312", f"media[{index}] is a clip without frames.")
    times = media.times
    if times is None:
        return
    if len(times) != len(media.files):
        yield SampleProblem(
            "E312", f"media[{index}] has {len(media.files)} frames but {len(times)} times."
        )
    if any(later <= earlier for earlier, later in pairwise(times)):
        yield SampleProblem("E312", f"media[{index}].t={times!r:.80} does not increase.")


def _reference_problems(document: Document) -> Iterator[SampleProblem]:
    entries, used = document.media, set()
    for part in document.places:
        if not 0 <= part.media < len(entries):
            yield SampleProblem(
                "E301", f"the text shows media {part.media}, but there are {len(entries)} media."
            )
            continue
        used.add(part.media)
        yield from _range_problems(part, entries[part.media])
    for index, media in enumerate(entries):
        if index not in used and not media.unused:
            yield SampleProblem(
                "E304",
                f'media[{index}] is never shown. Place it in the text, or mark it "unused": true.',
            )


def _range_problems(part: MediaPart, media: Media) -> Iterator[SampleProblem]:
    if part.frames is None:
        return
    count = len(media.files) if isinstance(media, FramesMedia) else 0
    first, end = part.frames
    if not 0 <= first < end <= count:
        yield SampleProblem(
            "E301",
            f"the text shows frames [{first}, {end}) of media {part.media}, which has {count}.",
        )


# Turns.


def _turn_problems(document: Document) -> Iterator[SampleProblem]:
    yield from _role_problems(document.kind, [turn.role for turn in document.turns])
    for index, turn in enumerate(document.turns):
        if not turn.content and turn.role != "system":
            yield SampleProblem("E204", f"turns[{index}] has no content.")
        yield from _text_problems(index, turn)
    weights = [
        problem
        for index, turn in enumerate(document.turns)
        for weighted in (turn, *turn.content)
        for problem in _weight_problems(index, weighted)
    ]
    yield from weights
    if not weights and not any(turn.is_learned for turn in document.turns):
        yield SampleProblem("E204", "no token of this sample is learned, so it teaches nothing.")


def _role_problems(kind: str, roles: Sequence[str]) -> Iterator[SampleProblem]:
    if not roles:
        yield SampleProblem("E204", "turns is empty.")
        return
    if kind == "document":
        if list(roles) != ["document"]:
            yield SampleProblem("E205", f"roles {list(roles)}: a document has one document turn.")
        return
    spoken = list(roles[1:] if roles[0] == "system" else roles)
    expected = ["user", "assistant"] * (len(spoken) // 2)
    if not spoken or spoken != expected:
        yield SampleProblem(
            "E205",
            f"roles {list(roles)}: a chat has an optional system turn, then user and assistant "
            "by turns, and ends with assistant.",
        )


def _weight_problems(index: int, weighted: Turn | Part) -> Iterator[SampleProblem]:
    weight = None if isinstance(weighted, MediaPart) else weighted.weight
    if weight is not None and not 0 <= weight <= MAX_WEIGHT:  # true for NaN too
        yield SampleProblem(
            "E207", f"turns[{index}]: weight={weight!r:.40} must be 0..{MAX_WEIGHT:g}."
        )


def _text_problems(index: int, turn: Turn) -> Iterator[SampleProblem]:
    # Adjacent parts are read as one text, so a literal may not hide across their border.
    joined = "".join(turn.texts)
    for literal in FORBIDDEN_LITERALS:
        if literal in joined:
            yield SampleProblem(
                "E206",
                f"turns[{index}] contains {literal!r}, which the template writes itself. Replace "
                "it by a media part, or keep it as plain text with data.special_literals=escape.",
            )
    if "\x00" in joined or any("\ud800" <= character <= "\udfff" for character in joined):
        yield SampleProblem("E208", f"turns[{index}] contains NUL or an unpaired surrogate.")
