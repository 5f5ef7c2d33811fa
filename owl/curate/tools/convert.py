# SPDX-License-Identifier: Apache-2.0
"""Convert a public data set, or your own, into shards of owl3-sample/1.

    owl data convert llava --input llava.json --images images/ --output shards/
    owl data convert captions --input cc12m/ --output shards/ --workers 8
    owl data prepare shards/

Nothing is guessed: a record with a missing or damaged picture, marks that do not match its
pictures, or a field of the wrong type is rejected, with file, line, code and reason in
shards/rejects.jsonl. Run the same command again to resume after a stop: finished shards are kept.
docs/converting.md has an example of each format.

Exit code: 0 every record became a sample; 1 some records were rejected (rejects.jsonl), or shards
remain whose input is gone; 2 the conversion could not start or continue; 130 stopped by Ctrl-C.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from owl.curate.converters.formats.registry import FORMATS
from owl.curate.converters.job import ConvertJob
from owl.curate.converters.prompt_endings import WORDING, PromptEnding
from owl.curate.converters.records import ConvertOptions, MissingPictures
from owl.curate.converters.shard_series import ShardLimits
from owl.curate.tools.conversion import (
    add_reading,
    add_running,
    field_map,
    run_job,
    running_problem,
)
from owl.data.shards.schema import CUT_MODES

FORMAT_HELP = {
    "llava": "LLaVA json: conversations with <image> marks",
    "obelics": "OBELICS json: images and texts in parallel",
    "mmc4": "MMC4 jsonl: sentences with matched pictures",
    "m4": "M4-Instruct json: conversations over several pictures",
    "sharegpt4video": "ShareGPT4Video json, frames as pictures in folders",
    "captions": "image-caption tars of img2dataset (LAION, COYO, DataComp, CC12M)",
    "parquet": "Hugging Face tables, also .arrow: OBELICS, The Cauldron, any layout of jsonl",
    "csv": "tables as text, .csv or .tsv, in any layout of jsonl",
    "imagefolder": "pictures with a metadata.csv, .jsonl or .parquet beside them",
    "pages": "a folder of markdown or HTML pages with their figures",
    "jsonl": "your own: messages, questions and answers, captions, or texts",
}
OWN_FIELDS = ("jsonl", "csv", "parquet", "imagefolder")
"""Formats whose records may have any layout."""
ONLY_WITH = {
    "prompt_ending": ("llava", "m4", "sharegpt4video", *OWN_FIELDS),
    "missing_pictures": ("obelics", "mmc4", "pages", *OWN_FIELDS),
    "url_map": ("obelics", "pages", *OWN_FIELDS),
    "turns_of": ("jsonl", "csv"),
    "field_map": ("captions", *OWN_FIELDS),
    "ignore_fields": ("llava", "m4", "sharegpt4video", *OWN_FIELDS),
    "media_first": ("llava", "m4", "sharegpt4video", *OWN_FIELDS),
}
"""Options that would have no effect with the other formats."""
FLAGS = {"field_map": "--map", "ignore_fields": "--ignore-field"}
ENDINGS = ", ".join(f"{kind} {wording.strip()!r}" for kind, wording in WORDING.items())


def _parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    formats = "\n".join(f"  {name:15} {text}" for name, text in FORMAT_HELP.items())
    parser = argparse.ArgumentParser(
        prog="owl data convert",
        description=__doc__,
        epilog=f"formats:\n{formats}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("format", choices=list(FORMATS), metavar="FORMAT", help="see below")
    _add_folders(parser)
    _add_choices(parser)
    add_running(parser)
    return parser.parse_args(argv)


def _add_folders(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("files")
    group.add_argument("--input", type=Path, required=True, help="source file, or folder of them")
    group.add_argument(
        "--images", type=Path, help="folder that picture names in the source are relative to"
    )
    group.add_argument("--output", type=Path, required=True, help="folder for the shards")
    group.add_argument("--name", help="first part of each sample's key (default: the format)")
    group.add_argument(
        "--url-map",
        type=Path,
        help='jsonl of {"url": ..., "file": ...}: the file under --images of each url',
    )


def _add_choices(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("samples")
    group.add_argument(
        "--prompt-ending",
        type=PromptEnding,
        choices=list(PromptEnding),
        help=f"end every question with the mPLUG-Owl family's wording: {ENDINGS}; "
        "by_question_type (m4) does so only for records of question_type multi-choice",
    )
    group.add_argument(
        "--turns-of",
        metavar="FIELD",
        help="jsonl questions: consecutive lines with the same FIELD are one conversation",
    )
    group.add_argument(
        "--cut", choices=CUT_MODES, help="mark each picture: on for text-rich ones (default: none)"
    )
    group.add_argument(
        "--escape",
        action="store_true",
        help="keep text that looks like markup as plain text (default: reject it, E206)",
    )
    group.add_argument(
        "--missing-pictures",
        type=MissingPictures,
        choices=list(MissingPictures),
        default=MissingPictures.reject,
        help="documents: reject the document (default), or leave the picture out",
    )
    add_reading(group)
    group.add_argument(
        "--no-decode",
        action="store_true",
        help="only read the headers of pictures: faster, but damage is found only in training",
    )


def _make_job(arguments: argparse.Namespace) -> ConvertJob:
    return ConvertJob(
        format=FORMATS[arguments.format],
        input=arguments.input,
        images=arguments.images,
        output=arguments.output,
        name=arguments.name or arguments.format,
        options=ConvertOptions(
            prompt_ending=arguments.prompt_ending,
            escape=arguments.escape,
            missing_pictures=arguments.missing_pictures,
            cut=arguments.cut,
            turns_of=arguments.turns_of,
            url_map=arguments.url_map,
            decode=not arguments.no_decode,
            field_map=field_map(arguments.field_map),
            ignore_fields=tuple(arguments.ignore_fields),
            media_first=arguments.media_first,
            follow_links=arguments.follow_links,
        ),
        limits=ShardLimits(arguments.shard_samples, arguments.shard_bytes),
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the conversion of the command line; return the exit code."""
    arguments = _parse_arguments(argv)
    problem = running_problem(arguments) or _find_problem(arguments)
    if problem:
        print(f"convert: {problem}", file=sys.stderr)
        return 2
    return run_job(
        _make_job(arguments),
        arguments.workers,
        retry_rejects=arguments.retry_rejects,
        tool="convert",
    )


def _find_problem(arguments: argparse.Namespace) -> str | None:
    if arguments.images and not arguments.images.is_dir():
        return f"--images {arguments.images} is not a folder."
    if arguments.url_map and not arguments.url_map.is_file():
        return f"--url-map {arguments.url_map} is not a file."
    for option, formats in ONLY_WITH.items():
        value = getattr(arguments, option)
        if value not in (None, MissingPictures.reject, [], False) and (
            arguments.format not in formats
        ):
            flag = FLAGS.get(option, f"--{option.replace('_', '-')}")
            return f"{flag} works with {', '.join(formats)}, not with {arguments.format}."
    if arguments.prompt_ending is PromptEnding.by_question_type and arguments.format != "m4":
        return "--prompt-ending by_question_type works with m4 only: choose one kind of ending."
    return None
