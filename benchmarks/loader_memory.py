# SPDX-License-Identifier: Apache-2.0
"""Peak resident memory of a loader process on the extremes of real data; fails above 1.5 GiB.

    python -m benchmarks.loader_memory TOKENIZER_FOLDER

Four sources in one run: a sample of 200 pictures, 3,000 samples of one picture, a text without
any, and a picture of 4096x3072 that is cut into 2x3 tiles and a global view. All are packed, read,
decoded to tiles of 378 pixels and collated, as training does. The process holds torch, so its own
size before the first sample is printed too.
"""

import io
import resource
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from owl.config.run import (
    CutPolicy,
    DataConfig,
    ModelConfig,
    PackConfig,
    SourceConfig,
    VisionTowerConfig,
)
from owl.curate.prepare import prepare_folder
from owl.data.families import reading_of
from owl.data.loader import Loader, build_loader
from owl.data.shards.dataset import ShardWriter

LIMIT_GIB = 1.5
IMAGE_SIZE = 378
PACK = PackConfig(text_tokens=8192, tiles=208, window=1024)
PACKS_PER_STEP = 4

Sample = tuple[dict[str, Any], dict[str, bytes]]


def jpeg(width: int, height: int) -> bytes:
    """A smooth picture with some grain."""
    random = np.random.default_rng(width)
    small = random.integers(0, 256, (12, 16, 3), dtype=np.uint8)
    large = np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))
    grain = random.integers(0, 8, (height, width, 1), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(np.maximum(large, grain)).save(stream, "JPEG", quality=85)
    return stream.getvalue()


def sample(pictures: int, data: bytes, text: str = "An owl.") -> Sample:
    """One question about so many copies of a picture."""
    names = [f"m{index:04}.jpg" for index in range(pictures)]
    document = {
        "schema": "owl3-sample/1",
        "id": "made",
        "kind": "chat",
        "media": [{"type": "image", "file": name} for name in names],
        "turns": [
            {
                "role": "user",
                "content": [*({"media": index} for index in range(pictures)), {"text": "What?"}],
            },
            {"role": "assistant", "content": [{"text": text}]},
        ],
    }
    return document, dict.fromkeys(names, data)


def sources() -> Mapping[str, list[Sample]]:
    """The four extremes."""
    ordinary, huge = jpeg(1024, 768), jpeg(4096, 3072)
    return {
        "many_images": [sample(200, ordinary)],
        "many_samples": [sample(1, jpeg(640, 480))] * 3000,
        "text_only": [sample(0, b"", text="An owl is a bird. " * 40)],
        "large_picture": [sample(1, huge)],
    }


def write(home: Path) -> dict[str, SourceConfig]:
    """Write and prepare a folder for each source."""
    configs = {}
    for name, samples in sources().items():
        folder = home / name
        folder.mkdir()
        with ShardWriter(folder / "s.tar") as writer:
            for number, (document, files) in enumerate(samples):
                writer.write(f"{name}/{number:05}", document, files)
        assert prepare_folder(folder) == []
        cut = CutPolicy.on if name == "large_picture" else CutPolicy.off
        configs[name] = SourceConfig(path=str(folder), epochs=1, cut=cut)
    return configs


def open_loader(home: Path, tokenizer: Path) -> Loader:
    """Blend the four sources, each passed once an epoch."""
    return build_loader(
        DataConfig(sources=write(home), tokenizer=str(tokenizer)),
        PACK,
        reading=reading_of(
            ModelConfig(template="v3", vision_tower=VisionTowerConfig(image_size=IMAGE_SIZE))
        ),
        micro_batch_size=1,
    )


def one_epoch(loader: Loader) -> Iterator[tuple[str, int]]:
    """Yield key and tiles of every sample of an epoch."""
    for step in loader.steps(PACKS_PER_STEP):
        for batch in step.microbatches:
            assert len(batch.pixel_values) == batch.num_tiles
            yield from zip(batch.keys, map(len, batch.media_offset), strict=True)
        if step.cursor.epoch:
            return


def peak_gib() -> float:
    """Peak resident memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def main(tokenizer: Path) -> int:
    """Load an epoch, print the peak, and return the exit code."""
    with tempfile.TemporaryDirectory() as home:
        loader = open_loader(Path(home), tokenizer)
        before = peak_gib()
        seen = dict(one_epoch(loader))
    by_source = Counter(key.partition("/")[0] for key in seen)
    tiles = {key: count for key, count in seen.items() if not key.startswith("many_samples")}
    print(f"samples loaded: {dict(by_source)}; tiles: {tiles}")
    print(f"peak resident memory {peak_gib():.2f} GiB, {before:.2f} before the first sample")
    complete = by_source["many_samples"] == 3000 and set(tiles.values()) == {200, 0, 7}
    return 0 if complete and peak_gib() < LIMIT_GIB else 1


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
