# SPDX-License-Identifier: Apache-2.0
"""Small real sources: written into a folder, converted, prepared and read back."""

import json
from dataclasses import dataclass
from pathlib import Path

from owl.curate.converters.formats.registry import FAMILIES
from owl.curate.converters.job import REJECTS_FILE, ConvertJob, ConvertReport, convert
from owl.curate.converters.records import ConvertOptions, open_sample
from owl.curate.converters.shard_series import ShardLimits
from owl.curate.prepare import prepare_folder
from owl.data.samples import RawSample
from owl.data.shards.dataset import Dataset
from tests.unit.data.shard_factory import picture


@dataclass
class Converted:
    """What came out of a source."""

    report: ConvertReport
    samples: list[RawSample]
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


def make_job(tmp_path: Path, family: str, source: Path, *, limits=None, **options) -> ConvertJob:
    images = tmp_path / "images"
    return ConvertJob(
        family=FAMILIES[family],
        input=source,
        images=images if images.is_dir() else None,
        output=tmp_path / "shards",
        name=family,
        options=ConvertOptions(**options),
        limits=limits or ShardLimits(),
    )


def run_job(job: ConvertJob, **settings) -> Converted:
    """Convert, prepare, and read every sample back."""
    report = convert(job, tell=lambda line: None, **settings)
    lines = (job.output / REJECTS_FILE).read_text(encoding="utf-8").splitlines()
    return Converted(report, read_samples(job.output), [json.loads(line) for line in lines])


def read_samples(folder: Path) -> list[RawSample]:
    assert prepare_folder(folder) == []  # what a converter writes, prepare.py accepts
    dataset = Dataset.open(folder)
    return [dataset.read(index) for index in range(len(dataset))]


def convert_lines(tmp_path: Path, family: str, *records, **options) -> Converted:
    """Convert json records, with the pictures in tmp_path/images."""
    return run_job(make_job(tmp_path, family, write_lines(tmp_path / "in", *records), **options))


def sources_of(converted: Converted, family: str) -> list:
    """Give the source records back from the samples."""
    return [
        FAMILIES[family].to_source(open_sample(sample.document, sample.files))
        for sample in converted.samples
    ]


def assert_round_trip(tmp_path: Path, family: str, *records, **options) -> Converted:
    converted = convert_lines(tmp_path, family, *records, **options)
    assert converted.rejects == []
    assert sources_of(converted, family) == list(records)
    return converted
