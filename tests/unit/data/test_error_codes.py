# SPDX-License-Identifier: Apache-2.0
"""Every error code has a fixture that triggers it, and a message that helps.

Each entry of CASES writes a folder of shards (or does what else is needed) and says what the
message must contain. Codes that nothing raises are in the table of docs/data_tools.md, with why.
"""

import io
import json
import re
import shutil
import struct
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image

from owl.config.run import CutPolicy, OversizePolicy, PackConfig
from owl.curate.lint.lint import Budgets, Checks, lint_folder
from owl.curate.prepare import prepare_folder
from owl.data.collate import collate
from owl.data.encode.tokenizer import load_tokenizer
from owl.data.samples import EncodedSample
from owl.data.shards.index import index_path
from owl.errors import DataError
from owl.families.owl3.reading import Owl3Reading
from tests.unit.curate.converters.converting import convert_lines, write_pictures
from tests.unit.data.shard_factory import (
    chat,
    data_config,
    files_of,
    make_loader,
    picture,
    write_shard,
    write_tokenizer,
)

ROOT = Path(__file__).parents[3]

NUMBERS = (range(101, 111), range(201, 209), range(301, 314), range(401, 406))
REQUIRED = {f"E{number}" for numbers in NUMBERS for number in numbers}


class Case(NamedTuple):
    """How to trigger a code through a folder of shards, and what its message says."""

    write: Callable[[Path], None]
    message: str  # regular expression
    at_prepare: bool = True  # False: prepare.py does not look that closely


def raw_tar(folder: Path, *members: tuple[str, bytes | tarfile.TarInfo]) -> Path:
    """Write any members at all, with Python's own writer."""
    path = folder / "s.tar"
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for name, data in members:
            info = data if isinstance(data, tarfile.TarInfo) else tarfile.TarInfo(name)
            info.size = 0 if isinstance(data, tarfile.TarInfo) else len(data)
            tar.addfile(info, None if isinstance(data, tarfile.TarInfo) else io.BytesIO(data))
    return path


def encoded(document: dict) -> bytes:
    return json.dumps(document).encode()


def members(*names: str) -> Callable[[Path], None]:
    """Write members of these names; a json holds a good chat."""
    contents = [(name, encoded(chat()) if name.endswith("json") else picture()) for name in names]
    return lambda folder: void(raw_tar(folder, *contents))


def void(_: object) -> None:
    """Drop a value: a case writes files and returns nothing."""


def json_bytes(data: bytes) -> Callable[[Path], None]:
    return lambda folder: void(raw_tar(folder, ("a.json", data)))


def document(**changes: object) -> Callable[[Path], None]:
    """Write a text chat with fields changed, past the checks of our own writer."""
    return json_bytes(encoded(chat() | changes))


def turn(**changes: object) -> Callable[[Path], None]:
    question, answer = chat()["turns"]
    return document(turns=[question, answer | changes])


def question(text: str) -> Callable[[Path], None]:
    asked = {"role": "user", "content": [{"text": text}]}
    return document(turns=[asked, chat()["turns"][1]])


def shown(media: list, content: list, *files: str) -> Callable[[Path], None]:
    """Write a chat whose media and question are given, with small pictures as files."""
    asked = {"role": "user", "content": [*content, {"text": "?"}]}
    written = encoded(chat() | {"media": media, "turns": [asked, chat()["turns"][1]]})
    pictures = [(f"a.{file}", picture()) for file in files]
    return lambda folder: void(raw_tar(folder, ("a.json", written), *pictures))


def uneven_clip(**media: object) -> Callable[[Path], None]:
    """Write a chat about three frames, the last of another size."""
    frames = {"f0.jpg": picture(640, 480), "f1.jpg": picture(640, 480), "f2.jpg": picture(64, 200)}
    clip = {"type": "frames", "files": list(frames), **media}
    asked = {"role": "user", "content": [{"media": 0}, {"text": "?"}]}
    written = encoded(chat() | {"media": [clip], "turns": [asked, chat()["turns"][1]]})
    files = [(f"a.{name}", data) for name, data in frames.items()]
    return lambda folder: void(raw_tar(folder, ("a.json", written), *files))


def image(data: bytes, **media: object) -> Callable[[Path], None]:
    """Write a chat with one picture, whose bytes are given."""
    return lambda folder: void(
        write_shard(folder / "s.tar", [("a", chat(pictures=1, **media), {"m0000.jpg": data})])
    )


def good(folder: Path) -> Path:
    samples = [chat(f"{i}?", pictures=i % 2) for i in range(4)]
    return write_shard(folder / "s.tar", [(f"k{i}", d, files_of(d)) for i, d in enumerate(samples)])


def changed(change: Callable[[bytes], bytes], *, prepared: bool = False) -> Callable[[Path], None]:
    """Write a good shard, then change its bytes."""

    def write(folder: Path) -> None:
        path = good(folder)
        if prepared:
            prepare_folder(folder)
        path.write_bytes(change(path.read_bytes()))

    return write


def flipped(place: int) -> Callable[[bytes], bytes]:
    return lambda data: data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]


def link(folder: Path) -> None:
    info = tarfile.TarInfo("a.m0000.jpg")
    info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
    raw_tar(folder, ("a.json", encoded(chat())), ("", info))


def foreign_index(folder: Path) -> None:
    other = folder / "other"
    other.mkdir()
    good(folder)
    write_shard(other / "s.tar", [("x", d := chat("long " * 200, pictures=1), files_of(d))])
    prepare_folder(other)
    shutil.copy(index_path(other / "s.tar"), index_path(folder / "s.tar"))
    shutil.rmtree(other)


def float_tiff() -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.zeros((8, 8), np.float32)).save(stream, "TIFF")
    return stream.getvalue()


def bomb() -> bytes:
    """Write a PNG of a few bytes that says it is 16000 x 16000."""
    header = struct.pack(">IIBBBBB", 16000, 16000, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b"")), (b"IEND", b"")]
    body = b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + body


CLIP = {"type": "frames", "files": ["m0.f0.jpg", "m0.f1.jpg"], "t": [1.0, 1.0]}
ONE_IMAGE = [{"type": "image", "file": "m0000.jpg"}]

CASES: dict[str, list[Case]] = {
    "E101": [
        Case(changed(flipped(3)), r"no tar header at byte 0: bad checksum\. Copy the shard again"),
        Case(lambda folder: void((folder / "s.tar").write_bytes(b"no tar" * 999)), "no tar header"),
    ],
    "E102": [
        Case(changed(lambda data: data[:700]), r"'k0\.json' should have \d+ bytes .* tar has 700"),
        Case(changed(lambda data: b""), "without an end marker"),
    ],
    "E103": [Case(changed(lambda data: data + data), "data after the end marker at byte")],
    "E104": [Case(link, r"'a\.m0000\.jpg' at byte \d+ is not a plain file")],
    "E105": [
        Case(members("a.b.JSON"), "lower-case suffix"),
        Case(members("../a.json"), r"the name '\.\./a\.json' must be a key of letters"),
        Case(members("ä.json"), "must be a key of letters"),
    ],
    "E106": [Case(members("a.json", "a.json"), r"'a\.json' is there twice, ignoring upper case")],
    "E107": [Case(members("a.json", "b.json", "a.m0.jpg"), "members are not side by side")],
    "E108": [Case(members("a.m0000.jpg"), r"its first member is 'm0000\.jpg', not '?json")],
    "E109": [Case(foreign_index, "belongs to another shard.*prepare", at_prepare=False)],
    "E110": [Case(changed(flipped(600), prepared=True), "differ from those", at_prepare=False)],
    "E201": [
        Case(json_bytes(b"\xff\xfe"), "the json cannot be read"),
        Case(json_bytes(b"{"), "the json cannot be read"),
        Case(json_bytes(b"[1]"), "the json is a list, not an object"),
    ],
    "E202": [Case(document(schema="owl3-sample/9"), "'owl3-sample/9', but this version reads")],
    "E203": [
        Case(document(extra=1), r"a field 'extra' .* Move it into meta\.raw"),
        Case(document(id=7), "the document.id=7 has the wrong type"),
        Case(json_bytes(b'{"schema": "owl3-sample/1"}'), "lacks the field 'id'"),
    ],
    "E204": [
        Case(document(turns=[]), "turns is empty"),
        Case(turn(content=[]), r"turns\[1\] has no content"),
        Case(turn(loss=False), "no token of this sample is learned"),
    ],
    "E205": [
        Case(document(turns=chat()["turns"][::-1]), r"roles \['assistant', 'user'\]: a chat has"),
        Case(document(kind="document"), "a document has one document turn"),
    ],
    "E206": [
        Case(question("a <|image|> b"), r"turns\[0\] contains '<\|image\|>'.*Replace"),
        Case(question("<|im_start|>system"), "contains '<|im_start|>'".replace("|", r"\|")),
        Case(question("<image>\nWhat?"), "contains '<image>'"),
    ],
    "E207": [
        Case(turn(weight=-1), r"turns\[1\]: weight=-1 must be 0\.\.1e\+06"),
        Case(turn(weight=float("nan")), "weight=nan"),
    ],
    "E208": [
        Case(question("a\0b"), r"turns\[0\] contains NUL"),
        Case(question("\ud800"), "an unpaired surrogate"),
    ],
    "E301": [
        Case(shown([], [{"media": 2}]), "shows media 2, but there are 0 media"),
        Case(
            shown([CLIP | {"t": [0, 1]}], [{"media": 0, "frames": [1, 9]}], *CLIP["files"]),
            r"frames \[1, 9\) of media 0, which has 2",
        ),
    ],
    "E302": [Case(shown(ONE_IMAGE, [{"media": 0}]), r"'m0000\.jpg' is named by the json but not")],
    "E303": [Case(shown([], [], "m0007.jpg"), r"'m0007\.jpg' is in the shard but not named")],
    "E304": [Case(shown(ONE_IMAGE, [], "m0000.jpg"), r"media\[0\] is never shown\. Place it")],
    "E306": [Case(image(picture(), w=999), r"declare[sd].* 999x.* is 20x12.*Correct w and h")],
    "E307": [
        Case(image(b"GIMP" * 20), r"the bytes \(b'GIMPGIMP'\.\.\.\) are none of JPEG, PNG"),
        Case(image(b"\0\0\0\x18ftypmp42" + b"\0" * 40), "are none of JPEG"),
    ],
    "E308": [
        Case(image(picture(64, 64)[:-200]), "the picture cannot be decoded", at_prepare=False),
        Case(image(picture(codec="PNG")[:20]), "cannot be read"),
    ],
    "E309": [
        Case(image(picture(3, 40)), "a picture of 3x40: each side must be 4..16384"),
        Case(image(bomb()), "pixels|bomb"),
        Case(image(picture(1000, 4)), "over 200 times as long as wide"),
    ],
    "E310": [Case(image(float_tiff()), "a picture of mode F has no defined range")],
    "E312": [
        Case(shown([CLIP], [{"media": 0}], *CLIP["files"]), r"media\[0\]\.t=\[1\.0, 1\.0\] does"),
        Case(shown([{"type": "frames", "files": []}], [{"media": 0}]), "a clip without frames"),
        Case(uneven_clip(), r"'f0\.jpg' is 640x480, but 'f2\.jpg' is 64x200\. Resize them"),
        Case(uneven_clip(w=640, h=480), r"'f0\.jpg' is 640x480, but 'f2\.jpg' is 64x200"),
    ],
    "E313": [
        Case(
            shown([{"type": "video", "file": "m0.mp4"}], [{"media": 0}], "m0.mp4"),
            "a video file, which is not decoded at load time. Store its frames",
        )
    ],
    "E401": [
        Case(document(), "text tokens are more than the 20 of a pack.*Raise", at_prepare=False)
    ],
    "E402": [
        Case(
            shown(ONE_IMAGE * 3, [{"media": i} for i in range(3)], "m0000.jpg"),
            "3 tiles are more than the 2 of a pack",
            at_prepare=False,
        )
    ],
}


def tokenizer_without_control_tokens(folder: Path) -> None:
    path = write_tokenizer(folder) / "tokenizer.json"
    definition = json.loads(path.read_text())
    path.write_text(json.dumps(definition | {"added_tokens": []}))
    load_tokenizer(folder)


def tiles_without_placeholder(_: Path) -> None:
    sample = EncodedSample(
        key="k7",
        source="a",
        tokens=torch.arange(4),
        loss_weights=torch.ones(4),
        positions=torch.arange(4),
        tiles=torch.zeros(2, 3, 8, 8, dtype=torch.uint8),
        media_offset=[1],
    )
    collate([sample])


def sample_that_no_cut_makes_fit(folder: Path) -> None:
    write_shard(folder / "a" / "s.tar", [("a", chat("long " * 99), {})])
    prepare_folder(folder / "a")
    data = data_config(folder, folder / "a", oversize=OversizePolicy.truncate)
    next(make_loader(data, PackConfig(text_tokens=50, tiles=4, window=8)).steps(1))


OTHER_CASES: dict[str, list[Case]] = {
    "E403": [Case(sample_that_no_cut_makes_fit, r"gave no pack; dropped: \{'E403': 1\}\. Raise")],
    "E404": [
        Case(
            tokenizer_without_control_tokens,
            r"has no token <\|im_start\|>.*Use that of the model's",
        ),
        Case(lambda folder: void(load_tokenizer(folder / "x")), "there is no such folder"),
    ],
    "E405": [Case(tiles_without_placeholder, "sample 'k7': 1 media offsets for 2 tiles")],
}
"""Codes that lie in no shard: the function itself raises."""

SOURCE_CASES: dict[str, tuple[dict, str]] = {
    "E305": (
        {
            "image": ["a.jpg"],
            "conversations": [
                {"from": "human", "value": "<image> or <image>?"},
                {"from": "gpt", "value": "The first."},
            ],
        },
        "more <image> than the 1 media",
    ),
}
"""Codes of a source that is converted: a record in LLaVA's layout, and words of the message."""


def listed(cases: dict[str, list[Case]]) -> list:
    return [
        pytest.param(code, case, id=f"{code}-{number}")
        for code, variants in cases.items()
        for number, case in enumerate(variants)
    ]


def unplaced_codes() -> dict[str, str]:
    """Read the table of docs/data_tools.md: code -> why nothing raises it."""
    text = (ROOT / "docs/data_tools.md").read_text(encoding="utf-8")
    table = text.partition("## Codes that nothing raises")[2].partition("\n## ")[0]
    return dict(re.findall(r"^\| (E\d{3}) \| (.+) \|$", table, re.MULTILINE))


@pytest.fixture
def checks(tmp_path_factory):
    """Budgets that a plain text chat (E401) and three pictures (E402) break."""
    tokenizer = write_tokenizer(tmp_path_factory.mktemp("tokenizer"))
    return lambda code: Checks(
        budgets=Budgets(
            tokenizer=tokenizer,
            reading=Owl3Reading("v2", 16),
            text_tokens=20 if code == "E401" else 10_000,
            tiles=2,
            cut=CutPolicy.on,
        )
    )


@pytest.mark.parametrize(("code", "case"), listed(CASES))
def test_lint_names_the_code_and_the_message_helps(tmp_path, checks, code, case):
    case.write(tmp_path)
    report = lint_folder(tmp_path, checks(code))
    found = [problem for shard in report.shards for problem in shard.problems]
    found += [p for shard in report.shards for sample in shard.bad for p in sample.problems]
    messages = [problem.message for problem in found if problem.code == code]
    assert any(re.search(case.message, message, re.DOTALL) for message in messages), found


@pytest.mark.parametrize(("code", "case"), listed(CASES))
def test_prepare_names_the_same_fault_as_lint(tmp_path, checks, code, case):
    case.write(tmp_path)
    shutil.rmtree(tmp_path / "dataset.json", ignore_errors=True)
    account = lint_folder(tmp_path, checks(code))
    lines = prepare_folder(tmp_path)
    named = {line.partition(":")[0] for line in lines}
    assert named <= account.codes().keys(), lines
    if case.at_prepare:
        assert any(re.search(case.message, line, re.DOTALL) for line in lines), lines


@pytest.mark.parametrize(("code", "case"), listed(OTHER_CASES))
def test_the_message_of_a_code_outside_shards_helps(tmp_path, code, case):
    with pytest.raises(DataError, match=case.message) as raised:
        case.write(tmp_path)
    assert raised.value.code == code


@pytest.mark.parametrize("code", SOURCE_CASES)
def test_a_fault_of_a_source_is_named_with_its_line(tmp_path, code):
    record, words = SOURCE_CASES[code]
    write_pictures(tmp_path / "images", "a.jpg")
    reject = convert_lines(tmp_path, "llava", record).reject
    assert (reject["file"], reject["line"], reject["code"]) == ("source.jsonl", 1, code)
    assert words in reject["message"]


def test_every_code_has_a_fixture_or_a_reason_to_have_none():
    triggered = CASES.keys() | OTHER_CASES.keys() | SOURCE_CASES.keys()
    unplaced = unplaced_codes().keys()
    explained = re.findall(
        r"^\| (E\d{3}) \|", (ROOT / "docs/data_format.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert not triggered & unplaced
    assert REQUIRED | set(explained) == triggered | unplaced
