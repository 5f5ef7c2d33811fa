# SPDX-License-Identifier: Apache-2.0
"""Addresses that strangers choose: limits of size, time and place."""

import base64
import os
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from owl.portable.media import fetch_owl
from owl.portable.media.fetch_owl import ALLOW_PRIVATE, FetchError, fetch, read_source


class Handler(BaseHTTPRequestHandler):
    """Serves what the path says."""

    def do_GET(self):
        kind, _, rest = self.path[1:].partition("/")
        self.server.seen.append(self.path)
        if kind == "to":
            self.send_response(302)
            self.send_header("Location", rest)
            self.end_headers()
        elif kind == "drip":  # never silent for long, and never done
            self.send_response(200)
            self.end_headers()
            for _ in range(100):
                self.wfile.write(b"x")
                self.wfile.flush()
                time.sleep(0.05)
        elif kind == "slow-head":
            for _ in range(100):
                self.wfile.write(b"H")
                time.sleep(0.05)
        else:
            size = int(rest)
            self.send_response(200)
            if kind in ("sized", "short"):
                self.send_header("Content-Length", str(size))
            self.end_headers()
            self.wfile.write(bytes(3 if kind == "short" else size))

    def log_message(self, *_):
        pass

    def handle_one_request(self):
        try:
            super().handle_one_request()
        except OSError:  # the client left
            self.close_connection = True


@pytest.fixture
def server(monkeypatch):
    """A server of this machine, which the tests may reach."""
    monkeypatch.setenv(ALLOW_PRIVATE, "1")
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        http.seen = []
        threading.Thread(target=http.serve_forever, daemon=True).start()
        http.address = f"http://127.0.0.1:{http.server_port}"
        yield http
        http.shutdown()


@pytest.mark.parametrize("kind", ["sized", "unsized"])
def test_an_answer_has_a_size_limit(server, kind):
    assert fetch(f"{server.address}/{kind}/1000", max_bytes=1000) == bytes(1000)
    with pytest.raises(FetchError, match="more than 999 bytes"):
        fetch(f"{server.address}/{kind}/1000", max_bytes=999)


def test_an_answer_that_ends_early_is_no_answer(server):
    with pytest.raises(FetchError, match="ended after 3 of 1000 bytes"):
        fetch(f"{server.address}/short/1000")


def test_a_redirection_is_followed(server):
    assert fetch(f"{server.address}/to/{server.address}/sized/3") == bytes(3)


@pytest.mark.parametrize("kind", ["drip/", "slow-head/"])
def test_an_answer_has_a_limit_of_its_whole_time(server, kind):
    start = time.monotonic()
    with pytest.raises(FetchError, match=r"took more than 0\.3 s"):
        fetch(f"{server.address}/{kind}", seconds=0.3)
    assert time.monotonic() - start < 2


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost", "[::1]", "[::ffff:127.0.0.1]", "2130706433", "0x7f.1"]
)
def test_a_private_address_is_refused_before_anything_is_sent(server, monkeypatch, host):
    monkeypatch.delenv(ALLOW_PRIVATE)
    with pytest.raises(FetchError, match=f"no public address. Set {ALLOW_PRIVATE}=1"):
        fetch(f"http://{host}:{server.server_port}/sized/3")
    assert server.seen == []


@pytest.mark.parametrize(
    "host", ["10.0.0.1", "169.254.169.254", "192.168.1.1", "[fd00::1]", "[2002:a00:1::]", "0.0.0.0"]
)
def test_addresses_of_private_networks_are_refused(host, monkeypatch):
    monkeypatch.delenv(ALLOW_PRIVATE, raising=False)
    with pytest.raises(FetchError, match="no public address"):
        fetch(f"http://{host}/")


def test_a_redirection_to_a_private_address_is_refused(server, monkeypatch):
    """The first server counts as public here."""
    check = fetch_owl._check_public
    refuse_second = iter([lambda *_: None, lambda *_: None, check, check])
    monkeypatch.delenv(ALLOW_PRIVATE)
    monkeypatch.setattr(fetch_owl, "_check_public", lambda *place: next(refuse_second)(*place))
    with pytest.raises(FetchError, match="no public address"):
        fetch(f"{server.address}/to/{server.address}/sized/3")
    assert len(server.seen) == 1


@pytest.mark.parametrize("target", ["file:///etc/hostname", "ftp://127.0.0.1/a", "data:,a"])
def test_a_redirection_to_another_scheme_is_refused(server, target):
    with pytest.raises(FetchError):
        fetch(f"{server.address}/to/{target}")


def test_a_data_url_is_read_and_limited(monkeypatch):
    encoded = base64.b64encode(bytes(300)).decode()
    assert read_source(f"data:image/png;base64,{encoded}") == bytes(300)
    for wrong in ("data:image/png,abc", "data:;base64,###", "data:;base64"):
        with pytest.raises(FetchError, match="not base64"):
            read_source(wrong)
    monkeypatch.setattr(fetch_owl, "MAX_FILE_BYTES", 100)
    with pytest.raises(FetchError, match="more than 100 bytes"):
        read_source(f"data:;base64,{encoded}")


def test_a_file_is_a_plain_file_within_the_limit(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "a b").write_bytes(bytes(300))
    assert read_source(f"file://{tmp_path}/a%20b") == bytes(300)
    for path in (tmp_path / "pipe", "/dev/zero", tmp_path):
        with pytest.raises(FetchError, match=r"not a plain file|directory"):
            read_source(path)
    monkeypatch.setattr(fetch_owl, "MAX_FILE_BYTES", 299)
    with pytest.raises(FetchError, match="more than 299 bytes"):
        read_source(tmp_path / "a b")
