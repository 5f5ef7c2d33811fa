# SPDX-License-Identifier: Apache-2.0
"""Where shards are stored: a local or mounted folder, or anything fsspec opens (s3://, http://).

Shards are read through the four methods of Storage; training uses `pread` for every sample. Failed
reads are not repeated here but by `owl.data.shards.retry`.
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
    """What a storage knows about a file without reading it; None for what it does not know."""

    size: int | None
    mtime_ns: int | None


class Storage(Protocol):
    """A folder of shards. Files are opened in the process that reads them, so workers may fork."""

    location: str

    def read(self, file: str) -> bytes | None:
        """Read an entire file; None if there is none."""

    def pread(self, file: str, length: int, offset: int) -> bytes:
        """Read `length` bytes at `offset`, fewer only at the end of the file.

        Raises:
            OSError: the read failed, for whatever reason.
        """

    def facts(self, file: str) -> FileFacts | None:
        """Look a file up; None if there is none."""

    def release(self, file: str) -> None:
        """Close a file, so that the next read opens it again."""


def is_remote(location: str | Path) -> bool:
    """Whether a location is a URL rather than a path."""
    return "://" in str(location)


def open_storage(location: str | Path) -> Storage:
    """Choose the storage of a location, without access to disk or network."""
    return RemoteFolder(str(location)) if is_remote(location) else LocalFolder(Path(location))


def remote_problem(url: str) -> str | None:
    """Return why this installation cannot read a URL, None if it can."""
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
"""Number of forks between the first process and this one: faster to compare than os.getpid()."""


def _count_fork() -> None:
    global _forks
    _forks += 1


os.register_at_fork(after_in_child=_count_fork)


class LocalFolder:
    """A folder on a local or mounted disk."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.location = str(path)
        self._descriptors: OrderedDict[str, int] = OrderedDict()
        self._owner = _forks

    def __getstate__(self) -> dict[str, Any]:
        # For workers that are spawned: file descriptors cannot be pickled.
        return self.__dict__ | {"_descriptors": OrderedDict(), "_owner": -1}

    def read(self, file: str) -> bytes | None:
        """Read an entire file; None if there is none."""
        path = self.path / file
        return path.read_bytes() if path.is_file() else None

    def pread(self, file: str, length: int, offset: int) -> bytes:
        """Read `length` bytes at `offset`."""
        return os.pread(self._descriptor(file), length, offset)

    def facts(self, file: str) -> FileFacts | None:
        """Look a file up; None if there is none."""
        path = self.path / file
        if not path.is_file():
            return None
        found = path.stat()
        return FileFacts(found.st_size, found.st_mtime_ns)

    def release(self, file: str) -> None:
        """Close a file, so that the next read opens it again."""
        descriptor = self._descriptors.pop(file, None)
        if descriptor is not None:
            os.close(descriptor)

    def _descriptor(self, file: str) -> int:
        if self._owner != _forks:  # these are the parent's descriptors
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
    """A folder behind a URL, read by byte ranges; fsspec finds the credentials."""

    def __init__(self, url: str) -> None:
        self.location = url.rstrip("/")
        self._files: Any = None  # fsspec's file system, created by the process that uses it
        self._root = ""
        self._owner = -1

    def __getstate__(self) -> dict[str, Any]:
        # Its connections and event loop survive neither a fork nor pickling.
        return self.__dict__ | {"_files": None, "_owner": -1}

    def read(self, file: str) -> bytes | None:
        """Read an entire file; None if there is none."""
        try:
            content: bytes = self._call("cat_file", file)
        except FileNotFoundError:
            return None
        return content

    def pread(self, file: str, length: int, offset: int) -> bytes:
        """Read `length` bytes at `offset`, with one range request."""
        data: bytes = self._call("cat_file", file, start=offset, end=offset + length)
        return data

    def facts(self, file: str) -> FileFacts | None:
        """Look a file up. No time stamp is returned: that of a copy has no meaning."""
        try:
            found = self._call("info", file)
        except FileNotFoundError:
            return None
        return FileFacts(found.get("size"), None)

    def release(self, file: str) -> None:
        """Drop the connections, so that the next read opens new ones."""
        self._owner = -1

    def _call(self, method: str, file: str, **options: Any) -> Any:
        """Call fsspec. Raises OSError for every failure, since each store has errors of its own."""
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
        except Exception:  # plain http servers have no listings: files are looked up one by one
            return
