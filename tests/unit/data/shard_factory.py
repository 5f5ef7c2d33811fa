# SPDX-License-Identifier: Apache-2.0
"""Small real shards and a small real tokenizer, written into a test's folder."""

import io
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from owl.config.run import DataConfig, PackConfig, SourceConfig
from owl.curate.prepare import prepare_folder
from owl.data.loader import Loader, build_loader
from owl.data.shards.dataset import ShardWriter
from owl.families.owl3.reading import Owl3Reading

QWEN2 = Path(__file__).parents[2] / "golden/qwen2-tokenizer-small"
"""Qwen2's tokenizer, cut down to the words of templates and tests; its ids are the real ones."""

IMAGE_SIZE = 16
CONTROLS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]


def picture(width=20, height=12, *, seed=0, codec="JPEG", mode="RGB", **options) -> bytes:
    """Encode a smooth random picture."""
    noise = np.random.default_rng(seed).integers(0, 256, (3, 4, 3), dtype=np.uint8)
    image = Image.fromarray(noise).resize((width, height), Image.Resampling.BILINEAR).convert(mode)
    stream = io.BytesIO()
    image.save(stream, codec, **options)
    return stream.getvalue()


def chat(question="What is it?", answer="An owl.", *, pictures=0, **media):
    """Write a one-question conversation with its pictures before the question."""
    return {
        "schema": "owl3-sample/1",
        "id": "made/0",
        "kind": "chat",
        "media": [{"type": "image", "file": f"m{i:04}.jpg", **media} for i in range(pictures)],
        "turns": [
            {
                "role": "user",
                "content": [*({"media": i} for i in range(pictures)), {"text": question}],
            },
            {"role": "assistant", "content": [{"text": answer}]},
        ],
    }


def files_of(document, **options):
    """Make a picture for every image that a document names."""
    return {
        media["file"]: picture(seed=index, **options)
        for index, media in enumerate(document["media"])
    }


def write_shard(path: Path, samples: Sequence[tuple[str, dict, dict]]) -> Path:
    """Write (key, document, files) triples."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with ShardWriter(path) as writer:
        for key, document, files in samples:
            writer.write(key, document, files)
    return path


def write_chats(folder: Path, *, shards=2, samples=10, name="s") -> Path:
    """Write and prepare a folder of chats of various lengths with 0 to 2 pictures each."""
    for shard in range(shards):
        triples = []
        for index in range(samples):
            number = shard * samples + index
            document = chat(f"{name}{number}?", "ab" * (number % 7 + 1), pictures=number % 3)
            triples.append((f"{name}{number:04}", document, files_of(document)))
        write_shard(folder / f"{name}-{shard:03}.tar", triples)
    assert prepare_folder(folder) == []
    return folder


def write_tokenizer(folder: Path) -> Path:
    """Write a byte-level tokenizer without merges: every byte is a token."""
    from tokenizers.pre_tokenizers import ByteLevel

    vocab = {letter: number for number, letter in enumerate(sorted(ByteLevel.alphabet()))}
    definition = {
        "version": "1.0",
        "added_tokens": [
            {
                "id": 256 + number,
                "content": content,
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
                "special": True,
            }
            for number, content in enumerate(CONTROLS)
        ],
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False},
        "decoder": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False},
        "model": {"type": "BPE", "vocab": vocab, "merges": []},
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_text(json.dumps(definition))
    return folder


def data_config(tmp_path: Path, *folders: Path, **settings) -> DataConfig:
    """Describe prepared folders, named a, b, c, and the byte tokenizer."""
    sources = {
        name: SourceConfig(path=str(folder)) for name, folder in zip("abc", folders, strict=False)
    }
    tokenizer = str(write_tokenizer(tmp_path / "tokenizer"))
    return DataConfig(sources=sources, tokenizer=tokenizer, **settings)


def make_loader(data: DataConfig, pack: PackConfig | None = None, **options) -> Loader:
    """Build a loader with small tiles."""
    settings = {
        "reading": Owl3Reading("v2", IMAGE_SIZE),
        "micro_batch_size": 1,
    } | options
    return build_loader(data, pack or PackConfig(text_tokens=200, tiles=4, window=8), **settings)
