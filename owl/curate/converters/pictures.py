# SPDX-License-Identifier: Apache-2.0
"""Find the pictures that a source names, under one folder only, and check them."""

import errno
import json
import os
import re
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Protocol

from owl.curate.converters.fields import required, typed
from owl.curate.converters.records import (
    ConvertError,
    ConvertOptions,
    LeftOut,
    MediaList,
    MissingPictures,
    SourceStats,
)
from owl.curate.converters.svg import draw_svg, is_svg
from owl.data.encode.images import decode_picture, picture_size, picture_suffix
from owl.data.shards.rules import uneven_frames
from owl.errors import DataError
from owl.portable.media.fetch_owl import FetchError, decode_data_url, local_path
from owl.portable.picture_reader_owl import MAX_FILE_BYTES

NO_SUCH_FILE = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP)
"""Errors of a wrong name. Any other is a failure of the disk, and ends the run."""

UNUSABLE_PICTURE = ("E302", "E307", "E308", "E309", "E310")
"""Codes of a file that is missing, not a picture, damaged, or of an impossible size or format."""


@dataclass(frozen=True, slots=True)
class SourceFolder:
    """A folder that a source may read from; names that lead out of it are refused.

    Links that lead out are refused too, but for those of the Hugging Face cache, whose snapshots
    consist of links to the blobs beside them.
    """

    root: Path
    follow_links: bool = False
    """Trust every link in the folder, wherever it leads."""

    def read(self, name: str, sources: SourceStats | None = None) -> bytes:
        """Read a file.

        Args:
            name: of the file, under the folder.
            sources: is given the size and time of the file.

        Raises:
            DataError: E302 it is missing, or outside the folder; E309 it is far too large.
            OSError: the disk failed, which is not a reason to reject the record.
        """
        path = self.locate(name)
        try:
            with path.open("rb") as stream:
                found = os.fstat(stream.fileno())
                if not stat.S_ISREG(found.st_mode):
                    raise DataError("E302", f"{name!r} is not a plain file.")
                if found.st_size > MAX_FILE_BYTES:
                    raise DataError(
                        "E309", f"{name!r} has {found.st_size} bytes, over {MAX_FILE_BYTES}."
                    )
                if sources is not None:
                    sources[str(path)] = (found.st_size, found.st_mtime_ns)
                return stream.read()
        except OSError as error:
            if error.errno not in NO_SUCH_FILE:
                raise
            raise DataError("E302", f"{name!r:.200} is not a file under {self.root}.") from error

    def locate(self, name: str) -> Path:
        """Resolve a name, following links. Raises DataError E302 outside the folder."""
        if "://" in name:
            raise DataError(
                "E302", f"{name!r:.200} is a url. Download it, and name its file with --url-map."
            )
        root = os.path.realpath(self.root)
        try:
            path = os.path.realpath(os.path.join(root, name))
        except ValueError as error:  # a NUL in the name
            raise DataError("E302", f"{name!r:.200} is not a file name: {error}.") from error
        within = os.path.normpath(os.path.join(root, name))
        if self.follow_links and _is_inside(within, root):
            path = within
        elif not _is_inside(path, root) and not _is_blob(path, root):
            hint = " Give --follow-links to trust its links." if _is_inside(within, root) else ""
            raise DataError("E302", f"{name!r:.200} leads out of {self.root}.{hint}")
        # A pipe or a device would hang or never end: only stat it.
        if _is_special(path):
            raise DataError("E302", f"{name!r:.200} is not a plain file.")
        return Path(path)

    def list_pictures(self, name: str) -> list[str]:
        """Return the files of a sub-folder, ordered by the numbers in their names.

        Raises:
            DataError: E302 there is no such folder.
        """
        folder = self.locate(name)
        if not folder.is_dir():
            raise DataError("E302", f"{name!r} is not a folder under {self.root}.")
        names = [entry.name for entry in os.scandir(folder) if not entry.name.startswith(".")]
        return [f"{name}/{file}" for file in sorted(names, key=natural_order)]


def _is_inside(path: str, root: str) -> bool:
    return os.path.commonpath([root, path]) == root


def _is_blob(path: str, root: str) -> bool:
    """Whether a path is a blob of the Hugging Face cache, and the root in a snapshot beside it."""
    home, snapshots, _ = root.rpartition(f"{os.sep}snapshots{os.sep}")
    return bool(snapshots) and _is_inside(path, os.path.join(home, "blobs"))


def _is_special(path: str) -> bool:
    try:
        mode = os.stat(path).st_mode
    except OSError:  # missing, or a name too long: reported when it is read
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def natural_order(name: str) -> tuple[list[tuple[int, str]], str]:
    """Sort key that orders frame2 before frame10."""
    pieces = re.split(r"(\d+)", name)
    return [(int(piece), "") if piece.isdecimal() else (-1, piece) for piece in pieces], name


Span = tuple[float, float]
EVERYTHING: Span = (0.0, float("inf"))
"""From the first second of a video to its last."""


class ClipSource(Protocol):
    """Provides the frames of a video that a source names."""

    def add_clip(self, media: MediaList, name: str, span: Span = EVERYTHING) -> int:
        """Append a video, or the seconds [start, end) of it, to the media; return its index."""


@dataclass(frozen=True, slots=True)
class PictureStore:
    """Reads and checks the pictures that a source names, for the converter of any format."""

    folder: SourceFolder | None
    options: ConvertOptions

    def add(self, media: MediaList, name: str) -> int:
        """Append a picture by its name, `file://` address or data url; return its index."""
        if name.startswith("data:"):
            return self.add_bytes(media, data_of_url(name), f"{name:.40}...")
        data = self._folder().read(self._mapped(local_path(name)), media.sources)
        return self.add_bytes(media, data, name, uri=name)

    def add_value(self, media: MediaList, value: object, name: str) -> int:
        """Append a picture as records hold it: a name, bytes, or an object with one of the two.

        Raises:
            DataError: E203 it is none of these, E302 it is missing, or another code of a picture.
        """
        fields = value if isinstance(value, dict) else {}
        data = value if isinstance(value, bytes) else fields.get("bytes")
        if isinstance(data, bytes):
            path = fields.get("path") or None
            label = f"{name} ({path})" if path else name
            return self.add_bytes(media, data, label, uri=path)
        found = next((fields[key] for key in ("path", "url", "image") if fields.get(key)), None)
        is_inside = isinstance(found, str) and found.startswith("data:")
        has_place = isinstance(found, str) and (is_inside or self.folder is not None)
        if isinstance(value, dict) and not has_place:
            raise DataError(
                "E302",
                f"{name} holds no bytes (path={found!r:.80}). Embed the pictures, or give --images "
                "for the folder that paths are relative to.",
            )
        return self.add(media, typed(found if fields else value, str, name))

    def add_unless_missing(
        self, media: MediaList, value: object, name: str, left_out: list[LeftOut]
    ) -> int | None:
        """Append a picture of a document; return its index, or None if it is left out.

        Many pictures of web documents are gone: 1 in 6 documents of MMC4 names one.

        Args:
            media: of the sample.
            value: the picture, as `add_value` takes it.
            name: of its place in the record.
            left_out: is given the name of a picture that is left out.

        Raises:
            DataError: the picture is unusable, and the option is to reject the document.
        """
        try:
            return self.add_value(media, value, name)
        except DataError as error:
            leave_out = self.options.missing_pictures is MissingPictures.leave_out
            if not leave_out or error.code not in UNUSABLE_PICTURE:
                raise
            left_out.append(LeftOut(value if isinstance(value, str) else name, error.code))
            return None

    def add_bytes(self, media: MediaList, data: bytes, name: str, **fields: object) -> int:
        """Append a picture that is stored in the source; return its index.

        Args:
            media: of the sample.
            data: the bytes of the picture.
            name: of the picture, for messages.
            fields: of the media entry.
        """
        data = self._drawn(data, name)
        suffix, width, height = self._check(data, name)
        return media.add_picture(data, suffix, w=width, h=height, cut=self.options.cut, **fields)

    def add_clip(self, media: MediaList, name: str, span: Span = EVERYTHING) -> int:
        """Append a video whose frames are in a folder of its name, with or without suffix."""
        if span != EVERYTHING:
            raise DataError(
                "E313",
                f"{name!r:.200} is to be shown from second {span[0]} to {span[1]}, but frames in a "
                "folder have no times. Use owl data video-frames with the video file.",
            )
        folder, of = self._folder(), name
        name = local_path(name)
        if folder.locate(name).is_file():
            raise DataError(
                "E313",
                f"{name!r} is a video file, but frames are needed. Use owl data video-frames, "
                f"or extract them into a folder {os.path.splitext(name)[0]!r}.",
            )
        place = name if folder.locate(name).is_dir() else os.path.splitext(name)[0]
        files = folder.list_pictures(place)
        frames = [folder.read(file, media.sources) for file in files]
        if not frames:
            raise DataError("E312", f"the folder {place!r} has no frames.")
        checked = [self._check(frame, file) for frame, file in zip(frames, files, strict=True)]
        _, width, height = checked[0]
        sizes = {file: (w, h) for file, (_, w, h) in zip(files, checked, strict=True)}
        if len(set(sizes.values())) > 1:
            problem = uneven_frames(f"the folder {place!r}", sizes)
            raise DataError(problem.code, problem.message)
        stored = [(frame, suffix) for frame, (suffix, _, _) in zip(frames, checked, strict=True)]
        return media.add_clip(stored, w=width, h=height, of=of)

    def _folder(self) -> SourceFolder:
        if self.folder is None:
            raise DataError("E302", "the source names files, but --images was not given.")
        return self.folder

    def _mapped(self, name: str) -> str:
        if self.options.url_map is None:
            return name
        return load_url_map(self.options.url_map).get(name, name)

    def _drawn(self, data: bytes, name: str) -> bytes:
        """Return a picture as it is stored: an SVG as the PNG that is drawn from it."""
        if not is_svg(data):
            return data
        try:
            return draw_svg(data)
        except DataError as error:
            raise DataError(error.code, f"{name!r:.200}: {error.message}") from error

    def _check(self, data: bytes, name: str) -> tuple[str, int, int]:
        """Return suffix, width and height. Raises DataError E307 to E310, with the name."""
        try:
            suffix = picture_suffix(data)
            if not self.options.decode:
                return suffix, *picture_size(data)
            height, width, _ = decode_picture(data).shape
        except DataError as error:
            raise DataError(error.code, f"{name!r:.200}: {error.message}") from error
        return suffix, width, height


def data_of_url(url: str) -> bytes:
    """Decode `data:image/jpeg;base64,...`. Raises DataError E302."""
    try:
        return decode_data_url(url)
    except FetchError as error:
        raise DataError("E302", f"{url!r:.60} is not a readable data url: {error}.") from error


@lru_cache(maxsize=1)  # once per worker: it may name millions of pictures
def load_url_map(path: Path) -> Mapping[str, str]:
    """Read a jsonl of {"url": ..., "file": ...}. Raises ConvertError with the line number."""
    return dict(_url_lines(path))


def _url_lines(path: Path) -> Iterator[tuple[str, str]]:
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                entry = json.loads(line)
                yield required(entry, "url", str), required(entry, "file", str)
            except (ValueError, TypeError, DataError) as error:
                raise ConvertError(f"--url-map {path}, line {number}: {error}") from error
