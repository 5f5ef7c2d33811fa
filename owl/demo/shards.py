# SPDX-License-Identifier: Apache-2.0
"""The demo's training samples as shards, in the format of any other data set."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

import torch

from owl.config.run import FamilyKind
from owl.curate.prepare import Counting, prepare_folder
from owl.data.samples import RawSample
from owl.data.shards.dataset import ShardWriter
from owl.data.shards.document import Document
from owl.data.shards.schema import Json
from owl.demo.digits import IMAGE_SIZE, WORDS, Digits, distort, png_bytes
from owl.demo.samples import Dialogue, Kind, draw_kind, draw_labels, make_dialogue, to_document
from owl.demo.text import demo_reading, in_words
from owl.errors import DataError

SAMPLES_PER_SHARD = 2000
HANDS = 4
"""Distorted copies of each training digit: with fewer, stage 2 memorises the pictures."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StageData:
    """The training data of one stage."""

    samples: int
    mixture: Mapping[Kind, float]  # shares, by weight
    in_words: bool = False  # text alone, words in the place of pictures


STAGES: Mapping[str, StageData] = {
    # As in the paper: pairs of a picture and text first, several pictures later.
    "stage1": StageData(samples=4000, mixture={Kind.single: 3, Kind.captions: 1}),
    "stage2": StageData(
        samples=8000,
        mixture={
            Kind.single: 2,
            Kind.several: 3,
            Kind.finding: 2,
            Kind.captions: 1,
            Kind.listing: 1,
        },
    ),
    "text": StageData(samples=4000, mixture=dict.fromkeys(Kind, 1.0), in_words=True),
}


class Album:
    """PNG files of digits in several handwritings, by digit."""

    def __init__(self, digits: Digits, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        pictures = torch.from_numpy(digits.pictures)
        hands = [distort(pictures, generator).round().byte().numpy() for _ in range(HANDS)]
        files = [[png_bytes(picture) for picture in hand] for hand in hands]
        self._by_label: list[list[bytes]] = [[] for _ in WORDS]
        for hand in files:
            for label, file in zip(digits.labels.tolist(), hand, strict=True):
                self._by_label[label].append(file)

    def draw(self, label: int, rng: Random) -> bytes:
        """Draw a picture of one digit."""
        return rng.choice(self._by_label[label])


def picture_sample(key: str, dialogue: Dialogue, pictures: Sequence[bytes]) -> RawSample:
    """Build a sample from a dialogue and PNG files for its pictures."""
    document, files = _with_pictures(key, dialogue, pictures)
    return RawSample(key=key, shard="", document=Document.from_json(document), files=files)


def _with_pictures(
    key: str, dialogue: Dialogue, pictures: Sequence[bytes]
) -> tuple[Json, dict[str, bytes]]:
    """Write a dialogue as owl3-sample/1, and name the pictures that it shows."""
    files = {f"m{place:04}.png": picture for place, picture in enumerate(pictures)}
    media: list[Json] = [
        {"type": "image", "file": name, "w": IMAGE_SIZE, "h": IMAGE_SIZE} for name in files
    ]
    return to_document(dialogue, f"digits/{key}", media), files


def draw_samples(
    data: StageData, album: Album, rng: Random
) -> Iterator[tuple[str, Json, Mapping[str, bytes]]]:
    """Draw a stage's samples: key, document and picture files of each."""
    for number in range(data.samples):
        kind = draw_kind(data.mixture, rng)
        labels = draw_labels(kind, rng)
        key = f"{kind}_{number:06}"
        if data.in_words:
            worded = in_words(make_dialogue(kind, labels, rng))
            yield key, to_document(worded, f"digits/{key}", []), {}
            continue
        pictures = [album.draw(label, rng) for label in labels]
        yield key, *_with_pictures(key, make_dialogue(kind, labels, rng), pictures)


def write_stage(
    folder: Path, name: str, album: Album, tokenizer: Path, family: FamilyKind = FamilyKind.owl3
) -> None:
    """Write the shards of a stage, their indexes and dataset.json.

    Args:
        folder: to write; must not hold shards yet.
        name: key of STAGES.
        album: pictures.
        tokenizer: tokens are counted with it ahead of time.
        family: that reads them.
    """
    folder.mkdir(parents=True)
    samples = list(draw_samples(STAGES[name], album, Random(name)))
    for start in range(0, len(samples), SAMPLES_PER_SHARD):
        with ShardWriter(folder / f"{name}-{start // SAMPLES_PER_SHARD:06}.tar") as shard:
            for sample in samples[start : start + SAMPLES_PER_SHARD]:
                shard.write(*sample)
    counting = Counting(tokenizer, demo_reading(family))
    problems = prepare_folder(folder, countings=[counting])
    if problems:
        raise DataError("E203", f"the demo wrote shards that cannot be read: {problems[0]}")
