# SPDX-License-Identifier: Apache-2.0
"""Crafted headers end in E101: reading a tar always goes forward, and never ends in a traceback."""

import signal
import struct
import tarfile
from contextlib import contextmanager

import pytest

from owl.curate.lint.lint import Checks, lint_folder
from owl.curate.prepare import prepare_folder
from owl.data.shards import tar
from owl.errors import DataError
from tests.unit.curate.converters.converting import make_job, run_job
from tests.unit.data.shard_factory import write_chats

CRAFTED = ["-2048", "-1536", "abc", "1_0", " 5", "5.0", "", "\u0665", "9" * 5000]
"""Sizes that int() takes, or that send a reader backwards, or that are no numbers."""


@contextmanager
def at_most_seconds(seconds):
    """Fail instead of hanging."""

    def stop(number, frame):
        raise TimeoutError("reading does not come to an end")

    previous = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, previous)


def crafted(path, size):
    """A shard whose second sample has a PAX block with a size of its own."""
    whole = write_chats(path.parent / "ours", shards=1, samples=3) / "s-000.tar"
    path.parent.mkdir(exist_ok=True)
    with (
        tarfile.open(whole) as source,
        tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as target,
    ):
        for member in source.getmembers():
            if member.name == "s0001.json":
                member.pax_headers = {"size": size}
            target.addfile(member, source.extractfile(member))
    return path


@pytest.mark.parametrize("size", CRAFTED)
def test_a_pax_size_is_decimal_digits_or_nothing(tmp_path, size):
    path = crafted(tmp_path / "in/s.tar", size)
    with at_most_seconds(20):
        with pytest.raises(DataError, match=r"E101: .*size=.*Write the shard again"):
            list(tar.scan_members(memoryview(path.read_bytes()), shard="s.tar"))
        assert any("E101" in line for line in prepare_folder(path.parent))
        report = lint_folder(path.parent, Checks())
        converted = run_job(make_job(tmp_path, "captions", path))
    assert (report.samples, report.good) == (3, 2)
    assert "E101" in report.codes()
    assert "E101" in {reject["code"] for reject in converted.rejects}
    assert converted.report.samples == 0


def test_a_header_with_a_size_below_zero_is_no_header(tmp_path):
    path = write_chats(tmp_path / "in", shards=1, samples=3) / "s-000.tar"
    whole = bytearray(path.read_bytes())
    header = whole[:512]
    header[124:136] = b"\xff" * 4 + struct.pack(">q", -1024)  # base 256, as GNU tar writes it
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    path.write_bytes(bytes(header) + whole[512:])
    with at_most_seconds(20):
        with pytest.raises(DataError, match=r"E101: .*size of -1024 bytes"):
            list(tar.scan_members(memoryview(path.read_bytes()), shard="s.tar"))
        report = lint_folder(path.parent, Checks())
    assert (report.samples, report.good) == (3, 2)


def test_a_pax_line_with_a_monstrous_length_is_no_line(tmp_path):
    path = crafted(tmp_path / "in/s.tar", "9" * 5000)
    content = path.read_bytes()
    line = content.index(b"5011 size=9")
    digits = b"9" * 5000 + b" "  # more than int() reads
    path.write_bytes(content[:line] + digits + content[line + len(digits) :])
    with at_most_seconds(20), pytest.raises(DataError, match="E101"):
        list(tar.scan_members(memoryview(path.read_bytes()), shard="s.tar"))
