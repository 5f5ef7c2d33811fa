# SPDX-License-Identifier: Apache-2.0
"""Rules about the sizes of a sample's pictures, which only their headers tell: E306 and E312."""

from collections.abc import Iterator, Mapping

from owl.data.shards.schema import Json, SampleProblem, media_files


def size_problems(document: Json, sizes: Mapping[str, tuple[int, int]]) -> Iterator[SampleProblem]:
    """Yield what is wrong with the sizes of a sample's pictures.

    Args:
        document: of the right shape.
        sizes: file name -> width and height, upright; files that cannot be read are left out.
    """
    for index, media in enumerate(document.get("media", [])):
        found = {file: sizes[file] for file in media_files(media) if file in sizes}
        if media["type"] == "frames" and len(set(found.values())) > 1:
            yield uneven_frames(f"media[{index}]", found)
            continue
        for file, (width, height) in found.items():
            said = (media.get("w", width), media.get("h", height))
            if said != (width, height):
                yield SampleProblem(
                    "E306",
                    f"media[{index}] declares {said[0]}x{said[1]}, but {file!r} is "
                    f"{width}x{height} (upright). Correct w and h, or leave them out.",
                )


def uneven_frames(clip: str, sizes: Mapping[str, tuple[int, int]]) -> SampleProblem:
    """Say that a clip's frames differ in size: they cannot be of one video.

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
