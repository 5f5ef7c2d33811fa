# SPDX-License-Identifier: Apache-2.0
"""docs/data_format.md shows what the code really does: its blocks are made again here.

Print them again with `python -m tests.unit.data.test_data_format_doc`.
"""

import json
import re
import tempfile
from pathlib import Path

from owl.config.load import compose
from owl.config.run import OversizePolicy
from owl.curate.prepare import prepare_folder
from owl.data.collate import collate
from owl.data.encode.encoder import SampleEncoder
from owl.data.encode.tokenizer import load_tokenizer
from owl.data.shards.dataset import Dataset
from owl.data.shown import CutChoice
from owl.families.owl3.reading import Owl3Reading
from tests.unit.data.shard_factory import QWEN2, picture, write_shard

ROOT = Path(__file__).parents[3]
DOC = ROOT / "docs/data_format.md"

DOCUMENT = {
    "schema": "owl3-sample/1",
    "id": "owls/000123",
    "kind": "chat",
    "media": [{"type": "image", "file": "m0000.png", "w": 64, "h": 64, "cut": "on"}],
    "turns": [
        {"role": "user", "content": [{"media": 0}, {"text": "What is it?"}]},
        {"role": "assistant", "content": [{"text": "An owl."}]},
    ],
}


def test_the_sources_that_are_shown_compose(tmp_path):
    (block,) = re.findall(r"```yaml sources\n(.*?)```", DOC.read_text(encoding="utf-8"), re.S)
    (tmp_path / "data").mkdir()
    (tmp_path / "data/mine.yaml").write_text(block)
    run, problems = compose("pretrain", ["data=mine"], config_dirs=[tmp_path])
    assert not problems
    assert {name: (s.weight, s.oversize) for name, s in run.data.sources.items()} == {
        "pairs": (3, None),
        "books": (1, OversizePolicy.split),
    }


def stations() -> list[str]:
    """Print one sample at every station of the flow."""
    with tempfile.TemporaryDirectory() as folder:
        files = {"m0000.png": picture(64, 64, codec="PNG")}
        write_shard(Path(folder) / "owls-000.tar", [("owls/000123", DOCUMENT, files)])
        assert prepare_folder(Path(folder)) == []
        dataset = Dataset.open(folder)
        raw, stored = dataset.read(0), json.loads(bytes(dataset.read_members(0)[0]))
    tokenizer = load_tokenizer(QWEN2)
    encoder = SampleEncoder(tokenizer, Owl3Reading("v3", 378))
    encoded = encoder.encode(raw, source="owls", cut=CutChoice.marked)
    batch = collate([encoded])
    names = {tokenizer.im_start: "<|im_start|>", tokenizer.im_end: "<|im_end|>"}
    names[tokenizer.end_of_text] = "<|endoftext|>"
    text = "".join(names.get(t) or tokenizer.decode([t]) for t in encoded.tokens.tolist())
    learned = [t for t in batch.labels.tolist() if t >= 0]
    return [
        "{\n" + ",\n".join(f'  "{k}": {json.dumps(v)}' for k, v in stored.items()) + "\n}",
        "\n".join(
            [
                f"RawSample.key         {raw.key!r}",
                f"RawSample.shard       {raw.shard!r}",
                f"RawSample.files       {{'m0000.png': {raw.files['m0000.png'][:4]!r}...}}",
            ]
        ),
        text,
        "\n".join(
            [
                f"EncodedSample.tokens        {shape(encoded.tokens)}  "
                f"{encoded.tokens.tolist()[:8]}...",
                f"EncodedSample.loss_weights  {shape(encoded.loss_weights)}  "
                f"...{encoded.loss_weights.tolist()[-8:]}",
                f"EncodedSample.positions     {shape(encoded.positions)}  "
                f"{encoded.positions.tolist()[:8]}...",
                f"EncodedSample.tiles         {shape(encoded.tiles)}",
                f"EncodedSample.media_offset  {encoded.media_offset}",
            ]
        ),
        "\n".join(
            [
                f"PackedBatch.tokens          {shape(batch.tokens)}",
                f"PackedBatch.labels          {shape(batch.labels)}  learned: {learned}",
                f"PackedBatch.position_ids    {shape(batch.position_ids)}",
                f"PackedBatch.cu_seqlens      {batch.cu_seqlens.tolist()}",
                f"PackedBatch.pixel_values    {shape(batch.pixel_values)}",
                f"PackedBatch.media_offset    {batch.media_offset}",
                f"PackedBatch.cu_media        {batch.cu_media.tolist()}",
                f"PackedBatch.keys            {batch.keys}",
            ]
        ),
    ]


def shape(tensor):
    return f"{list(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}"


def test_every_station_is_printed_as_it_is():
    written = DOC.read_text(encoding="utf-8")
    for station in stations():
        assert station in written


def test_every_error_code_in_the_code_is_explained():
    rooms = (ROOT / "owl/data", ROOT / "owl/curate")
    sources = "".join(path.read_text() for room in rooms for path in room.rglob("*.py"))
    codes = set(re.findall(r'"(E\d{3})"', sources))
    explained = set(re.findall(r"^\| (E\d{3}) \|", DOC.read_text(encoding="utf-8"), re.MULTILINE))
    assert codes == explained


if __name__ == "__main__":
    print("\n\n".join(stations()))
