"""Servers with wrong bytes or odd answers: only the right bytes get the final name, all else is one sentence."""

from __future__ import annotations

import contextlib
import hashlib
import socket
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hostile import FEW, damaged, flips, refusal
from http_server import Server, serve
from hypothesis import given, settings
from hypothesis import strategies as st

from ovss.data.download import Patience, RemoteFile, download

QUICK = Patience(attempts=2, pause=0.0, connect=1.0, read=1.0)
CONTENT = np.random.default_rng(0).bytes(3000)
KNOWN = {"size": len(CONTENT), "md5": hashlib.md5(CONTENT).hexdigest()}


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serve({}) as running:
        yield running


def fetched(url: str, known: dict[str, Any], part: bytes | None = None, stamp: bytes | None = None) -> bytes | None:
    """Bytes under the final name, or None after a refusal; nothing else may be there but the unfinished file."""
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root, "done")
        folder.mkdir()
        if part is not None:
            (folder / "a.tar.part").write_bytes(part)
        if stamp is not None:
            (folder / "a.tar.part.json").write_bytes(stamp)
        file = RemoteFile("a.tar", (url,), **known)
        said = refusal(lambda: download(file, folder, patience=QUICK), megabytes=1 << 12)
        names = {path.name for path in Path(root).rglob("*")} - {"done"}
        if said is None:
            assert names == {"a.tar"}
            return (folder / "a.tar").read_bytes()
        assert names <= {"a.tar.part", "a.tar.part.json"}
        return None


@settings(FEW, max_examples=30)
@given(
    mode=st.sampled_from(["plain", "no-range", "moved-range", "once", "truncated", "gzip"]),
    served=st.one_of(
        st.just(CONTENT), st.builds(damaged, st.just(CONTENT), flips, st.sampled_from([1.0, 0.5])), st.binary()
    ),
    part=st.one_of(st.none(), st.just(CONTENT[:1000]), st.just(CONTENT), st.binary(max_size=4000)),
    stamp=st.one_of(
        st.none(), st.binary(max_size=40), st.sampled_from([b"{}", b"[]", b"null", b'{"url": 5}', b"\0" * 9])
    ),
)
def test_only_the_right_bytes_get_the_final_name(
    mode: str, served: bytes, part: bytes | None, stamp: bytes | None, server: Server
) -> None:
    server.files["a.tar"] = served
    assert fetched(server.url(mode, "a.tar"), KNOWN, part, stamp) in (None, CONTENT)
    if mode != "truncated" and served == CONTENT:
        assert fetched(server.url(mode, "a.tar"), KNOWN, part, stamp) == CONTENT


class Raw:
    """Answers every request with ``answer``, and then with zeros up to ``more`` bytes; counts what it got rid of."""

    def __init__(self) -> None:
        self.socket, self.answer, self.more, self.sent = socket.create_server(("127.0.0.1", 0)), b"", 0, 0
        self.url = f"http://127.0.0.1:{self.socket.getsockname()[1]}/a.tar"
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        while True:
            try:
                client, _ = self.socket.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError), client:
            client.recv(1 << 16)
            client.sendall(self.answer)
            for _ in range(self.more >> 16):
                client.sendall(bytes(1 << 16))
                self.sent += 1 << 16
            client.shutdown(socket.SHUT_WR)
            while client.recv(1 << 16):
                pass


@pytest.fixture(scope="module")
def raw() -> Iterator[Raw]:
    running = Raw()
    yield running
    running.socket.close()


STATUS = [b"HTTP/1.1 200 OK", b"HTTP/1.1 206 Part", b"HTTP/1.0 200", b"HTTP/1.1 302 F",
          b"HTTP/1.1 304 N", b"HTTP/1.1 416 R", b"HTTP/1.1 100 C", b"HTTP/1.1 999 \xff", b"HTTP/9 x", b"\0\xff",
          b""]  # fmt: skip
LINES = [b"Content-Length: 3000", b"Content-Length: 9999", b"Content-Length: -5", b"Content-Length: x",
         b"Content-Length: 2, 3", b"Content-Range: bytes 0-2999/3000", b"Content-Range: bytes 9-2/x",
         b"Transfer-Encoding: chunked", b"ETag: \xe9\xff", b"Content-Encoding: br", b"Location: /a.tar",
         b"Location: file:///etc/passwd", b"Location: http://127.0.0.1:99999/", b"Location: http://.a..b/",
         b"Location:", b"no colon", b": no name", b" folded", b"X: " + b"y" * 9999]  # fmt: skip
BODIES = [CONTENT, b"", b"zz\r\n", b"5\r\nabc", b"fffffffffffffff\r\nabc", b"BB8\r\n" + CONTENT + b"\r\n0\r\n\r\n"]


@settings(FEW, max_examples=40)
@given(
    status=st.sampled_from(STATUS),
    lines=st.lists(st.sampled_from(LINES), max_size=3, unique=True),
    body=st.sampled_from(BODIES),
)
def test_no_answer_of_a_server_is_too_odd(status: bytes, lines: list[bytes], body: bytes, raw: Raw) -> None:
    raw.answer, raw.more = b"\r\n".join([status, *lines, b"", body]), 0
    assert fetched(raw.url, KNOWN) in (None, CONTENT)


ANSWERS = {
    "a length that is no decimal": b"HTTP/1.1 200 OK\r\nContent-Length: \xb2\r\n\r\nabc",
    "a length of 5000 digits": b"HTTP/1.1 200 OK\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\nabc",
    "a piece of negative length": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\nabc",
    "half an address": b"HTTP/1.1 302 F\r\nLocation: http://[\r\nContent-Length: 0\r\n\r\n",
    "a port of letters": b"HTTP/1.1 302 F\r\nLocation: http://h:abc/\r\nContent-Length: 0\r\n\r\n",
    "an address of odd bytes": b"HTTP/1.1 302 F\r\nLocation: http://\x00\xff/\r\nContent-Length: 0\r\n\r\n",
}


@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS)
def test_an_answer_that_makes_no_sense_is_refused(answer: bytes, raw: Raw) -> None:
    raw.answer, raw.more = answer, 0
    assert fetched(raw.url, KNOWN) is None


def test_no_more_is_taken_than_the_file_has(raw: Raw) -> None:
    raw.answer, raw.more, raw.sent = b"HTTP/1.1 200 OK\r\n\r\n", 64 << 20, 0
    assert fetched(raw.url, KNOWN) is None
    assert raw.sent < 32 << 20
