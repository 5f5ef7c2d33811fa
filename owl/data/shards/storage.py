# SPDX-License-Identifier: Apache-2.0
"""Where shards lie: a local or mounted folder, or anything fsspec opens (s3://, gs://, http://).

Everything above reads through four calls, of which `pread` is the one that training lives on.
Nothing here retries: `owl.data.shards.retry` does, for those who know what was wanted.
"""

import importlib.util
import os
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

MAX_OPEN_FILES = 64


@dataclass(frozen=True, slots=True)
class FileFacts:
    """What a storage says about a file without reading it; None where it does not know."""

    size: int | None
    mtime_ns: int | None


class Storage(Protocol):
    """A folder of shards. Opens files in the process that reads them, so that workers may fork."""

    location: str

    def read(self, file: str) -> bytes | None:
        """Read a whole file; None when there is no such file."""

    def pread(self, file: str, length: int, offset: int) -> bytes:
        """Read bytes from the middle of a file: fewer than `length` only at its end.

        Raises:
            OSError: whatever went wrong on the way.
        """

    def facts(self, file: str) -> FileFacts | None:
        """Look a file up; None when there is no such file."""

    def release(self, file: str) -> None:
        """Close a file, so that the next read opens it anew."""


def is_remote(location: str | Path) -> bool:
    """Whether a location is a URL rather than a path."""
    return "://" in str(location)


def open_storage(location: str | Path) -> Storage:
    """Choose the storage of a location; touches neither disk nor network."""
    return RemoteFolder(str(location)) if is_remote(location) else LocalFolder(Path(location))


def remote_problem(url: str) -> str | None:
    """Say what keeps a URL from being read by this installation, None where nothing does."""
    if importlib.util.find_spec("fsspec") is None:
        return "URLs are read through fsspec, which is not installed. Run pip install fsspec."
    import fsspec

    protocol = fsspec.utils.get_protocol(url)
    try:
        fsspec.get_filesystem_class(protocol)
    except (ImportError, ValueError) as error:
        return f"fsspec cannot open {protocol}://: {error}."
    return None


_forks = 0
"""How often the line of processes down to this one forked: asking for its number takes longer."""


def _count_fork() -> None:
    global _forks
    _forks += 1


os.register_at_fork(after_in_child=_count_fork)


class LocalFolder:
    """A folder on a local or mounted disk, read by file descriptor."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.location = str(path)
        self._descriptors: OrderedDict[str, int] = OrderedDict()
        self._owner = _forks

    def __getstate__(self) -> dict[str, Any]:
        # For workers that are started fresh: file descriptors do not travel.
        return self.__dict__ | {"_descriptors": OrderedDict(), "_owner": -1}

    def read(self, file: str) -> bytes | None:
        """Read a whole file; None when there is no such file."""
        path = self.path / file
        return path.read_bytes() if path.is_file() else None

    def pread(self, file: str, length: int, offset: int) -> bytes:
        """Read bytes from the middle of a file."""
        return os.pread(self._descriptor(file), length, offset)

    def facts(self, file: str) -> FileFacts | None:
        """Look a file up; None when there is no such file."""
        path = self.path / file
        if not path.is_file():
            return None
        found = path.stat()
        return FileFacts(found.st_size, found.st_mtime_ns)

    def release(self, file: str) -> None:
        """Close a file, so that the next read opens it anew."""
        descriptor = self._descriptors.pop(file, None)
        if descriptor is not None:
            os.close(descriptor)

    def _descriptor(self, file: str) -> int:
        if self._owner != _forks:  # the parent's descriptors stay the parent's
            self._descriptors, self._owner = OrderedDict(), _forks
        descriptor = self._descriptors.get(file)
        if descriptor is None:
            if len(self._descriptors) >= MAX_OPEN_FILES:
                self.release(next(iter(self._descriptors)))
            descriptor = self._descriptors[file] = os.open(self.path / file, os.O_RDONLY)
        else:
            self._descriptors.move_to_end(file)
        return descriptor


class RemoteFolder:
    """A folder behind a URL, read by byte range; credentials are fsspec's own business."""

    def __init__(self, url: str) -> None:
        self.location = url.rstrip("/")
        self._files: Any = None  # fsspec's file system, made by the process that uses it
        self._root = ""
        self._owner = -1

    def __getstate__(self) -> dict[str, Any]:
        # Its connections and event loop do not survive a fork, let alone a pickle.
        return self.__dict__ | {"_files": None, "_owner": -1}

    def read(self, file: str) -> bytes | None:
        """Read a whole file; None when there is no such file."""
        try:
            content: bytes = self._call("cat_file", file)
        except FileNotFoundError:
            return None
        return content

    def pread(self, file: str, length: int, offset: int) -> bytes:
        """Read bytes from the middle of a file: one range request."""
        data: bytes = self._call("cat_file", file, start=offset, end=offset + length)
        return data

    def facts(self, file: str) -> FileFacts | None:
        """Look a file up; a copy's time stamp says nothing, so none is given."""
        try:
            found = self._call("info", file)
        except FileNotFoundError:
            return None
        return FileFacts(found.get("size"), None)

    def release(self, file: str) -> None:
        """Forget the connections, so that the next read makes them anew."""
        self._owner = -1

    def _call(self, method: str, file: str, **options: Any) -> Any:
        """Call fsspec. Every failure comes out as an OSError: each store has errors of its own."""
        try:
            return getattr(self._file_system(), method)(f"{self._root}/{file}", **options)
        except OSError:
            raise
        except Exception as error:
            raise OSError(f"{self.location}: {type(error).__name__}: {error}") from error

    def _file_system(self) -> Any:
        if self._owner != os.getpid():
            import fsspec

            self._files, root = fsspec.core.url_to_fs(self.location)
            self._root = root.rstrip("/")
            self._owner = os.getpid()
            self._list_once()
        return self._files

    def _list_once(self) -> None:
        """Fill fsspec's listing cache, so that `info` on thousands of shards is one request."""
        try:
            self._files.ls(self._root)
        except Exception:  # plain http servers list nothing; each file is asked for then
            return
