# SPDX-License-Identifier: Apache-2.0
"""Small real sources: written into a folder, converted, prepared and read back."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from owl.curate.converters.formats.registry import FORMATS
from owl.curate.converters.job import REJECTS_FILE, ConvertJob, ConvertReport, convert
from owl.curate.converters.records import ConvertOptions, escape_text
from owl.curate.converters.shard_series import ShardLimits
from owl.curate.prepare import prepare_folder
from owl.data.shards.dataset import Dataset
from tests.unit.data.shard_factory import picture


@dataclass
class StoredSample:
    """A sample of a shard, its document as json."""

    key: str
    document: dict
    files: Mapping[str, bytes]


@dataclass
class Converted:
    """What came out of a source."""

    report: ConvertReport
    samples: list[StoredSample]
    rejects: list[dict]

    @property
    def document(self):
        (sample,) = self.samples
        return sample.document

    @property
    def reject(self):
        (reject,) = self.rejects
        return reject


def write_lines(folder: Path, *records, name="source.jsonl") -> Path:
    """Write one json record a line."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def write_pictures(folder: Path, *names) -> Path:
    """Write a small picture under each name."""
    for seed, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture(seed=seed))
    return folder


def make_job(tmp_path: Path, name: str, source: Path, *, limits=None, **options) -> ConvertJob:
    images = tmp_path / "images"
    return ConvertJob(
        format=FORMATS[name],
        input=source,
        images=images if images.is_dir() else None,
        output=tmp_path / "shards",
        name=name,
        options=ConvertOptions(**options),
        limits=limits or ShardLimits(),
    )


def run_job(job: ConvertJob, **settings) -> Converted:
    """Convert, prepare, and read every sample back."""
    report = convert(job, report=lambda line: None, **settings)
    lines = (job.output / REJECTS_FILE).read_text(encoding="utf-8").splitlines()
    return Converted(report, read_samples(job.output), [json.loads(line) for line in lines])


def read_samples(folder: Path) -> list[StoredSample]:
    assert prepare_folder(folder) == []  # what a converter writes, prepare.py accepts
    dataset = Dataset.open(folder)
    return [
        StoredSample(raw.key, json.loads(bytes(dataset.read_members(index)[0])), raw.files)
        for index in range(len(dataset))
        for raw in [dataset.read(index)]
    ]


def convert_lines(tmp_path: Path, name: str, *records, **options) -> Converted:
    """Convert json records, with the pictures in tmp_path/images."""
    return run_job(make_job(tmp_path, name, write_lines(tmp_path / "in", *records), **options))


def convert_all(tmp_path: Path, name: str, *records, **options) -> Converted:
    """Convert json records, of which none may be rejected or lose anything."""
    converted = convert_lines(tmp_path, name, *records, **options)
    assert converted.rejects == []
    for record, sample in zip(records, converted.samples, strict=True):
        assert_nothing_lost(record, sample.document)
    return converted


NAMES_OF_SPEAKERS = ("from", "role", "type")


def assert_nothing_lost(record, document) -> None:
    """Every text and number of a source record is somewhere in its sample."""
    assert set(values_of(record)) <= set(values_of(document))


def values_of(value) -> Iterator[str]:
    """Texts, cut at marks, and numbers, wherever in a record they are."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from () if name in NAMES_OF_SPEAKERS else values_of(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from values_of(inner)
    elif isinstance(value, str):
        pieces = re.split("<\u200b?(?:image|video)>", value)
        yield from (escape_text(piece).strip() for piece in pieces if piece.strip())
    elif isinstance(value, int | float):
        yield repr(value)
