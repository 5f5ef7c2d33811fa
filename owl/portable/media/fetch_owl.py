# SPDX-License-Identifier: Apache-2.0
"""Opens what names a picture or video: a path, a data URL, or an address, within limits.

An address may come from a stranger, who must not reach the network behind this machine (unless the
environment variable OWL_ALLOW_PRIVATE_URLS is 1), fill its memory, or keep it waiting. The rule
holds for every redirection, and for what is really connected to, not only for its name.
"""

import ipaddress
import os
import socket
import stat
from base64 import b64decode
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from io import BytesIO
from threading import Timer
from typing import Any, BinaryIO
from urllib.parse import unquote, urlsplit
from urllib.request import (
    HTTPDefaultErrorHandler,
    HTTPErrorProcessor,
    HTTPHandler,
    HTTPRedirectHandler,
    HTTPSHandler,
    OpenerDirector,
    ProxyHandler,
    Request,
    getproxies,
)

from owl.portable.picture_reader_owl import MAX_FILE_BYTES

ALLOW_PRIVATE = "OWL_ALLOW_PRIVATE_URLS"
URL_SECONDS = 60.0
"""For everything from the connection to the last byte."""
CHUNK_BYTES = 1 << 20


class FetchError(ValueError):
    """A source cannot be read; the message says why, without its name."""


@contextmanager
def open_source(source: Any) -> Iterator[BinaryIO]:
    """Open a path, `file://`, `http(s)://` or `data:` address, or bytes.

    Raises:
        FetchError: it cannot be read, or breaks a limit.
    """
    if isinstance(source, bytes | bytearray | memoryview):
        yield BytesIO(source)
        return
    if not isinstance(source, str | os.PathLike):
        raise FetchError(f"a {type(source).__name__} is no path, address or bytes")
    text = str(source)
    if text.startswith("data:"):
        yield BytesIO(decode_data_url(text))
    elif text.startswith(("http://", "https://")):
        yield BytesIO(fetch(text))
    else:
        with _open_file(local_path(text)) as file:
            yield file


def read_source(source: Any) -> bytes:
    """Read a source as open_source opens it, of at most MAX_FILE_BYTES. Raises FetchError."""
    with open_source(source) as file:
        data = file.read(MAX_FILE_BYTES + 1)
    if len(data) > MAX_FILE_BYTES:
        raise FetchError(f"it has more than {MAX_FILE_BYTES} bytes")
    return data


def local_path(name: str) -> str:
    """The path that a `file://` address names; any other name as it is."""
    if name.startswith("file:///"):
        return unquote(urlsplit(name).path)
    return name.removeprefix("file://")


def decode_data_url(url: str) -> bytes:
    """Decode `data:image/jpeg;base64,...`. Raises FetchError."""
    head, comma, text = url.partition(",")
    if not comma or not head.endswith(";base64"):
        raise FetchError("it is not base64")
    if len(text) > 3 * MAX_FILE_BYTES:  # each character may be written as %41
        raise FetchError(f"it has more than {MAX_FILE_BYTES} bytes")
    try:
        return b64decode("".join(unquote(text).split()), validate=True)
    except ValueError as error:
        raise FetchError(f"it is not base64: {error}") from error


def _open_file(path: str) -> BinaryIO:
    try:
        # Without waiting: a pipe has no end.
        number = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    except (OSError, ValueError) as error:
        raise FetchError(f"{error}") from error
    if not stat.S_ISREG(os.fstat(number).st_mode):
        os.close(number)
        raise FetchError("it is not a plain file")
    return os.fdopen(number, "rb")


# Addresses.


def fetch(url: str, *, seconds: float = URL_SECONDS, max_bytes: int = MAX_FILE_BYTES) -> bytes:
    """Download an http(s) address.

    Args:
        url: the address; redirections are followed by the same rules.
        seconds: for all of it.
        max_bytes: of the answer.

    Raises:
        FetchError: it cannot be read, breaks a limit, or leads to a private address.
    """
    download = _Download(seconds)
    timer = Timer(seconds, download.stop)
    timer.daemon = True
    timer.start()
    try:
        with download.opener().open(Request(url), timeout=seconds) as answer:
            body = _read_body(answer, max_bytes)
        if download.is_late:  # what was cut off looks like an end
            raise TimeoutError
        return body
    except (OSError, ValueError, HTTPException) as error:
        if download.is_late:
            raise FetchError(f"it took more than {seconds:g} s") from error
        reason = getattr(error, "reason", error)  # urllib hides ours in an error of its own
        raise FetchError(f"{reason if isinstance(reason, FetchError) else error}") from error
    finally:
        timer.cancel()


def _read_body(answer: Any, max_bytes: int) -> bytes:
    body = BytesIO()
    size = int(answer.headers.get("Content-Length") or 0)
    while max(size, body.tell()) <= max_bytes and (part := answer.read(CHUNK_BYTES)):
        body.write(part)
    if max(size, body.tell()) > max_bytes:
        raise FetchError(f"it has more than {max_bytes} bytes")
    if body.tell() < size:
        raise FetchError(f"it ended after {body.tell()} of {size} bytes")
    return body.getvalue()


class _Download:
    """The connections of one download, which end together when its time is over."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._sockets: list[socket.socket] = []
        self.is_late = False
        proxies = [urlsplit(url) for url in getproxies().values()]
        self._proxies = {(proxy.hostname, proxy.port) for proxy in proxies}

    def stop(self) -> None:
        """End what is still open: a timeout of a socket would only limit each single wait."""
        self.is_late = True
        for each in self._sockets:
            with suppress(OSError):  # closed already
                each.shutdown(socket.SHUT_RDWR)

    def opener(self) -> OpenerDirector:
        """Build an opener of http and https alone, all of whose connections are checked."""
        opener = OpenerDirector()
        for handler in (
            ProxyHandler(),
            _Http(self),
            _Https(self),
            HTTPDefaultErrorHandler(),
            HTTPRedirectHandler(),
            HTTPErrorProcessor(),
        ):
            opener.add_handler(handler)
        return opener

    def connect(self, place: tuple[str, int], timeout: Any = None, *rest: Any) -> socket.socket:
        """Connect to the first address of a host that answers, if all of them are public."""
        if self.is_late:
            raise TimeoutError
        found = socket.getaddrinfo(*place, type=socket.SOCK_STREAM)
        if place not in self._proxies:
            for entry in found:
                _check_public(str(entry[4][0]), place[0])
        problem: OSError | None = None
        for family, kind, protocol, _, address in found:
            connection = socket.socket(family, kind, protocol)
            self._sockets.append(connection)
            connection.settimeout(self._seconds)
            try:
                connection.connect(address)
                return connection
            except OSError as error:
                problem = error
                connection.close()
        raise problem or OSError(f"{place[0]} has no address")


def _check_public(address: str, host: str) -> None:
    """Raise FetchError for an address of this machine or of a private network."""
    found = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(found, ipaddress.IPv6Address):  # which may stand for one of IPv4
        found = found.ipv4_mapped or found.sixtofour or (found.teredo or [found])[-1]
    if not (found.is_global and not found.is_multicast) and os.environ.get(ALLOW_PRIVATE) != "1":
        where = host if host == address else f"{host} ({address})"
        raise FetchError(
            f"{where} is no public address. Set {ALLOW_PRIVATE}=1 in the environment to allow "
            "those, where no stranger chooses the addresses"
        )


class _Http(HTTPHandler):
    def __init__(self, download: _Download) -> None:
        super().__init__()
        self.download = download

    def http_open(self, req: Request) -> Any:
        _check_target(req)
        return self.do_open(_guarded(HTTPConnection, self.download), req)


class _Https(HTTPSHandler):
    def __init__(self, download: _Download) -> None:
        super().__init__()
        self.download = download

    def https_open(self, req: Request) -> Any:
        _check_target(req)
        return self.do_open(_guarded(HTTPSConnection, self.download), req)


def _check_target(request: Request) -> None:
    """Check an address written in numbers, which a proxy would connect to for us."""
    host = urlsplit(request.full_url).hostname or ""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return
    _check_public(host, host)


def _guarded(kind: type[HTTPConnection], download: _Download) -> Any:
    """Make connections of a kind that connect only where the download may."""

    def make(host: str, **options: Any) -> HTTPConnection:
        connection = kind(host, **options)
        connection._create_connection = download.connect  # type: ignore[attr-defined]
        return connection

    return make
