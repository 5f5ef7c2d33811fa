# SPDX-License-Identifier: Apache-2.0
"""The small example that docs/data_tools.md runs its commands on.

python -m tests.unit.data_tools.example FOLDER     # make it
"""

import shutil
import sys
import tarfile
from pathlib import Path

from owl.curate.prepare import prepare_folder
from owl.data.shards.dataset import ShardWriter
from tests.unit.data.shard_factory import chat, files_of, write_tokenizer

QUESTIONS = ("How many owls?", "What do you see?", "Is it night? Say why.")
ZEROED_BYTES = 200
ANSWERS = ("Two.", "An owl on a branch. It looks at the camera.", "Yes: the sky is dark.")


def make_example(folder: Path) -> None:
    """Write `owls/` (two shards of 12 chats), `damaged/` and `tokenizer/`.

    `damaged/` has the same shards, damaged after they were prepared.
    """
    for shard in range(2):
        (folder / "owls").mkdir(parents=True, exist_ok=True)
        with ShardWriter(folder / "owls" / f"owls-{shard:03}.tar") as writer:
            for number in range(12 * shard, 12 * shard + 12):
                kind = number % 3
                document = chat(QUESTIONS[kind], ANSWERS[kind] * (number % 4 + 1), pictures=kind)
                writer.write(f"owls/{number:04}", document, files_of(document, width=64, height=48))
    shutil.copytree(folder / "owls", folder / "damaged")
    prepare_folder(folder / "damaged")
    _flip_a_header(folder / "damaged" / "owls-000.tar", member=5)
    _cut_a_picture_and_the_end(folder / "damaged" / "owls-001.tar", picture=3)
    write_tokenizer(folder / "tokenizer")


def _flip_a_header(path: Path, *, member: int) -> None:
    with tarfile.open(path) as shard:
        offset = shard.getmembers()[member].offset
    content = bytearray(path.read_bytes())
    content[offset + 124] ^= 1  # in the size field
    path.write_bytes(content)


def _cut_a_picture_and_the_end(path: Path, *, picture: int) -> None:
    with tarfile.open(path) as shard:
        members = shard.getmembers()
    chosen = [member for member in members if member.name.endswith(".jpg")][picture]
    content = bytearray(path.read_bytes())
    end = chosen.offset_data + chosen.size
    content[end - ZEROED_BYTES : end] = bytes(ZEROED_BYTES)
    path.write_bytes(content[: members[-4].offset_data + 100])


if __name__ == "__main__":
    make_example(Path(sys.argv[1]))
