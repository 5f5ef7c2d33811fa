# SPDX-License-Identifier: Apache-2.0
"""How fast samples are read from a shard: owl against the webdataset library and against Pillow.

    python -m benchmarks.loader                 # prints the table below
    python -m benchmarks.loader --check         # and exits 1 when a target is missed

One process, one thread, shards in the page cache as a read from the disk leaves them. The
contenders take turns, round by round, and the time is the processor's. Rates and the ratio are of
each one's fastest round, since other jobs on the machine, which share its caches and its memory
bus, only ever slow a round down; in brackets the median ratio of all rounds. Reading large samples
is bound by that bus, so a busy machine shows less. Shards to read hold 128 MiB, those to decode
a few samples. Pictures are JPEGs of 1024x768, about 60 kB as
on the web (made from scikit-learn's photographs where it is installed, else from waves).

    bare pread      webdataset.WebDataset against os.pread of the same bytes and nothing else
    reading         the same against Dataset.read_members: index, one pread, bytes of every member
    reading+check   the same against Dataset.read, as training reads: CRC-32 of every member
                    compared and the json parsed (webdataset does neither; a tar has no CRC)
    same decode     webdataset or Dataset.read, then simplejpeg and torch to a tile of 378 pixels
    end to end      webdataset, then Pillow decode and bicubic resize, against owl
    decoding        Pillow against owl on bytes in memory
"""

import argparse
import io
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
import webdataset
from PIL import Image

from owl.curate.prepare import prepare_folder
from owl.data.encode.images import decode_picture
from owl.data.shards.checksum import crc32
from owl.data.shards.dataset import Dataset, ShardWriter
from owl.families.owl3.tiles_owl3 import make_tiles

WIDTH, HEIGHT, QUALITY, TILE = 1024, 768, 50, 378
PICTURES = 16
"""Different pictures; samples with more show them again."""
SHARD_BYTES = 128 * 2**20
"""Of a shard to read: more than the processor's caches hold, and read for much longer than it takes
to get over what the other contender left in them."""
DECODED = {1: 96, 8: 16, 64: 3}
"""Images a sample -> samples in a shard to decode."""
READING_TARGET, END_TO_END_TARGET = 8.0, 1.8
MAX_LEVELS, MAX_DIFFERENT = 2, 0.01

Seconds = list[float]
Work = Callable[[bytes], object]
"""Done to each picture."""


@dataclass(frozen=True, slots=True)
class Duel:
    """Two ways to do the same work, and how long each took, round by round."""

    name: str
    items: int
    unit: str
    theirs: Seconds
    owl: Seconds

    @property
    def ratio(self) -> float:
        """How many times faster owl is in the fastest rounds."""
        return min(self.theirs) / min(self.owl)

    @property
    def median_ratio(self) -> float:
        """How many times faster owl was in the median round."""
        return statistics.median(t / o for t, o in zip(self.theirs, self.owl, strict=True))

    def line(self) -> str:
        """Write rates and ratios."""
        rates = [self.items / min(times) for times in (self.theirs, self.owl)]
        return (
            f"{self.name:24} {rates[0]:9.1f} -> {rates[1]:9.1f} {self.unit + '/s':10}"
            f"{self.ratio:6.2f} x ({self.median_ratio:.2f})"
        )


def duel(
    name: str,
    items: int,
    unit: str,
    theirs: Callable[[], object],
    owl: Callable[[], object],
    rounds: int,
) -> Duel:
    """Let both take turns."""
    theirs(), owl()  # warm caches and lazy imports
    times: tuple[Seconds, Seconds] = ([], [])
    for _ in range(rounds):
        for run, taken in zip((theirs, owl), times, strict=True):
            begin = time.process_time()
            run()
            taken.append(time.process_time() - begin)
    return Duel(name, items, unit, *times)


def make_pictures() -> list[bytes]:
    """JPEGs of 1024x768, 4:2:0."""
    random = np.random.default_rng(0)
    jpegs = []
    for number, photograph in zip(range(PICTURES), _photographs(), strict=False):
        left, top = random.integers(0, 40, 2)
        # As different as the photographs allow, with a little of the grain that real ones have.
        crop = photograph.crop((left, top, photograph.width - left, photograph.height - top))
        pixels = np.asarray(crop.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)).astype(int)
        grain = random.normal(0, number % 3, pixels.shape)
        noisy = (pixels + grain).clip(0, 255).astype(np.uint8)
        stream = io.BytesIO()
        Image.fromarray(noisy).save(stream, "JPEG", quality=QUALITY)
        jpegs.append(stream.getvalue())
    return jpegs


def _photographs() -> Iterator[Image.Image]:
    try:
        from sklearn.datasets import load_sample_images

        bases = [Image.fromarray(image) for image in load_sample_images().images]
    except ImportError:
        rows, columns = np.mgrid[0:480, 0:640]
        waves = [128 + 90 * np.sin(rows / (20 + c) + columns / (31 + 9 * c)) for c in range(3)]
        bases = [Image.fromarray(np.stack(waves, -1).astype(np.uint8))]
    while True:
        yield from bases


def write_samples(folder: Path, jpegs: Sequence[bytes], images: int, samples: int) -> Path:
    """Write and prepare one shard; return it."""
    folder.mkdir()
    names = [f"m{index:04}.jpg" for index in range(images)]
    document = {
        "schema": "owl3-sample/1",
        "id": "made",
        "kind": "chat",
        "media": [{"type": "image", "file": name} for name in names],
        "turns": [
            {
                "role": "user",
                "content": [*({"media": index} for index in range(images)), {"text": "What?"}],
            },
            {"role": "assistant", "content": [{"text": "An owl."}]},
        ],
    }
    shard = folder / "s.tar"
    with ShardWriter(shard) as writer:
        for sample in range(samples):
            files = {name: jpegs[(sample + i) % len(jpegs)] for i, name in enumerate(names)}
            writer.write(f"s{sample:05}", document, files)
    assert prepare_folder(folder) == []
    read_back(shard)
    return shard


def read_back(shard: Path) -> None:
    """Put a shard into the page cache from the disk, as training finds it.

    What was just written is cached in pieces as small as the writes, and a large read of it takes
    twice as long.
    """
    with shard.open("r+b") as file:
        os.fsync(file)
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    shard.read_bytes()


def shuffled(dataset: Dataset) -> list[int]:
    """An order in which to read."""
    order: list[int] = np.random.default_rng(1).permutation(len(dataset)).tolist()
    return order


def read_owl(dataset: Dataset, order: Sequence[int]) -> Iterator[Collection[bytes]]:
    """Pictures of each sample, in a given order."""
    for index in order:
        yield dataset.read(index).files.values()


def read_raw(dataset: Dataset, order: Sequence[int]) -> Iterator[list[memoryview]]:
    """Members of each sample, in a given order: one pread each, nothing checked."""
    for index in order:
        yield dataset.read_members(index)


def pread_alone(shard: Path, dataset: Dataset, order: Sequence[int]) -> None:
    """Read each sample's bytes from a file that is open already: what any reader by pread needs."""
    places = [dataset.index(0).row(number)[:2] for number in order]
    descriptor = os.open(shard, os.O_RDONLY)
    for offset, length in places:
        os.pread(descriptor, length, offset)
    os.close(descriptor)


def read_webdataset(shard: Path) -> Iterator[Collection[bytes]]:
    """Pictures of each sample, in the order of the shard: the library has no other."""
    for sample in webdataset.WebDataset(str(shard), shardshuffle=False):
        yield [data for name, data in sample.items() if name.endswith(".jpg")]


def count_members(samples: Iterator[Collection[object]]) -> int:
    """Run through samples that are already in memory when they come."""
    return sum(len(members) for members in samples)


def tile(jpeg: bytes) -> torch.Tensor:
    """Decode and resize as training does: [1, 3, s, s]."""
    return make_tiles(decode_picture(jpeg), TILE, None)


def tile_by_pillow(jpeg: bytes) -> np.ndarray:
    """Decode and resize as most loaders do: [s, s, 3]."""
    with Image.open(io.BytesIO(jpeg)) as image:
        return np.asarray(image.convert("RGB").resize((TILE, TILE), Image.Resampling.BICUBIC))


def drain(samples: Iterator[Collection[bytes]], work: Work | None) -> None:
    """Take every picture of every sample, with or without doing something to it."""
    for pictures in samples:
        for picture in pictures:
            if work is not None:
                work(picture)


def difference(jpegs: Sequence[bytes]) -> tuple[int, float]:
    """Largest difference to Pillow's tiles in levels, and the share of values that differ."""
    gaps = [
        np.abs(tile(jpeg)[0].permute(1, 2, 0).numpy().astype(int) - tile_by_pillow(jpeg))
        for jpeg in jpegs
    ]
    together = np.stack(gaps)
    return int(together.max()), float((together > 0).mean())


def reading_duels(shard: Path, about: str, rounds: int) -> list[Duel]:
    """Webdataset against three depths of reading; the second row is the one with a target."""
    dataset = Dataset.open(shard.parent)
    order = shuffled(dataset)
    contenders: dict[str, Callable[[], object]] = {
        "bare pread": partial(pread_alone, shard, dataset, order),
        "reading": lambda: count_members(read_raw(dataset, order)),
        "reading+check": lambda: drain(read_owl(dataset, order), None),
    }
    return [
        duel(
            f"{name}, {about}",
            len(dataset),
            "samples",
            lambda: drain(read_webdataset(shard), None),
            owl,
            rounds,
        )
        for name, owl in contenders.items()
    ]


def decoding_duels(shard: Path, about: str, rounds: int) -> list[Duel]:
    """Webdataset with our decoding and with Pillow's; the second row is the one with a target."""
    dataset = Dataset.open(shard.parent)
    order = shuffled(dataset)
    contenders: dict[str, Work] = {"same decode": tile, "end to end": tile_by_pillow}
    return [
        duel(
            f"{name}, {about}",
            len(dataset),
            "samples",
            partial(_decode_webdataset, shard, theirs),
            lambda: drain(read_owl(dataset, order), tile),
            rounds,
        )
        for name, theirs in contenders.items()
    ]


def _decode_webdataset(shard: Path, work: Work) -> None:
    drain(read_webdataset(shard), work)


def measure(home: Path, rounds: int) -> tuple[list[Duel], list[str]]:
    """Run every duel; return them, and a line for each missed target."""
    jpegs = make_pictures()
    size = statistics.mean(map(len, jpegs))
    duels, missed = [], []
    for images, samples in DECODED.items():
        about = f"{images} image{'s' if images > 1 else ''}"
        many = round(SHARD_BYTES / size / images)
        large = write_samples(home / f"large{images}", jpegs, images, many)
        small = write_samples(home / f"small{images}", jpegs, images, samples)
        reading = reading_duels(large, about, rounds)
        decoding = decoding_duels(small, about, rounds)
        duels += reading + decoding
        missed += _missed(reading[1], READING_TARGET) + _missed(decoding[1], END_TO_END_TARGET)
    pictures = duel(
        "decoding",
        len(jpegs),
        "images",
        lambda: [tile_by_pillow(jpeg) for jpeg in jpegs],
        lambda: [tile(jpeg) for jpeg in jpegs],
        rounds,
    )
    missed += _missed(pictures, END_TO_END_TARGET)
    levels, share = difference(jpegs)
    print(f"{size / 1000:.0f} kB a picture; checksums by {crc32.__module__}")
    print(f"tiles differ from Pillow's by at most {levels} levels, in {share:.2%} of values")
    if levels > MAX_LEVELS or share > MAX_DIFFERENT:
        missed.append(f"tiles may differ by {MAX_LEVELS} levels in {MAX_DIFFERENT:.0%} of values")
    return [*duels, pictures], missed


def _missed(found: Duel, target: float) -> list[str]:
    if found.ratio >= target:
        return []
    return [f"{found.name}: {found.ratio:.2f} x is below {target} x"]


def main() -> int:
    """Print the table; return the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5, help="turns of each (default: 5)")
    parser.add_argument("--check", action="store_true", help="exit 1 when a target is missed")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as home:
        duels, missed = measure(Path(home), arguments.rounds)
    for found in duels:
        print(found.line())
    for line in missed:
        print(f"missed: {line}", file=sys.stderr)
    return 1 if missed and arguments.check else 0


if __name__ == "__main__":
    sys.exit(main())
