"""A small HTTP server for download tests, with the faults that real servers have.

Paths are ``/<mode>/<name>``: ``plain`` (Range, HEAD, strong ETag), ``no-range``, ``redirect`` (302 to plain), ``loop``
(302 to itself), ``once`` (503 the first time), ``busy`` (always 503), ``truncated`` (declares more than it sends),
``page`` (an HTML page, status 200: that of ``pages`` for this name, or ``PAGE``), ``drip`` (a pause between chunks),
``unsaid`` (no length, in chunks), ``gzip`` (declares a content encoding), ``forbidden``, ``empty``, ``moved-range``
(answers a Range with another one), ``new-version`` (answers a Range with another ETag). Anything else is 404.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

PAGE = b"<!DOCTYPE html><html><body>please log in</body></html>"


class Server(ThreadingHTTPServer):
    """Serves ``files`` (name -> bytes) on 127.0.0.1; ``requests`` records method, path and Range of each request."""

    daemon_threads = True

    def __init__(self, files: dict[str, bytes]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files = files
        self.requests: list[tuple[str, str, str]] = []
        self.pages: dict[str, bytes] = {}
        self.pause_s = 0.02

    def handle_error(self, request: object, client_address: object) -> None:
        """Quiet: clients hang up on purpose."""

    def url(self, mode: str, name: str) -> str:
        """Address of a file under a mode."""
        return f"http://127.0.0.1:{self.server_port}/{mode}/{name}"


class _Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, body: bool) -> None:
        asked = self.headers.get("Range", "")
        self.server.requests.append((self.command, self.path, asked))
        _, mode, name = unquote(self.path.split("?")[0]).split("/", 2)
        earlier = sum(path == self.path for _, path, _ in self.server.requests) - 1
        content = self.server.files.get(name)
        refusal = {"busy": 503, "forbidden": 403}.get(mode) or (503 if mode == "once" and not earlier else None)
        if refusal or content is None:
            self._send(refusal or 404, b"no", body)
        elif mode in ("redirect", "loop"):
            self._send(302, b"", body, Location=f"/{'plain' if mode == 'redirect' else 'loop'}/{name}")
        elif mode == "page":
            self._send(200, self.server.pages.get(name, PAGE), body, **{"Content-Type": "text/html"})
        elif mode == "empty":
            self._send(200, b"", body)
        else:
            self._send_file(mode, content, asked, body)

    def _send_file(self, mode: str, content: bytes, asked: str, body: bool) -> None:
        etag = f'"{hashlib.md5(content).hexdigest()}"'
        headers = {"ETag": etag}
        found = re.fullmatch(r"bytes=(\d+)-", asked)
        same = self.headers.get("If-Range", etag) == etag
        if mode == "gzip":
            headers["Content-Encoding"] = "gzip"
        if not found or not same or mode == "no-range":
            self._send(200, content, body, mode, **headers)
            return
        start = int(found[1])
        if start >= len(content):
            self._send(416, b"", body, **{"Content-Range": f"bytes */{len(content)}"})
            return
        shown = 0 if mode == "moved-range" else start
        if mode == "new-version":
            headers["ETag"] = '"another"'
        headers["Content-Range"] = f"bytes {shown}-{len(content) - 1}/{len(content)}"
        self._send(206, content[shown:], body, mode, **headers)

    def _send(self, status: int, content: bytes, body: bool, mode: str = "", **headers: str) -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        if mode == "unsaid":
            self.send_header("Transfer-Encoding", "chunked")
        else:
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if not body:
            return
        if mode == "truncated":
            self.wfile.write(content[: len(content) // 2])
            self.close_connection = True
        elif mode == "unsaid":
            for position in range(0, len(content), 10_000):
                piece = content[position : position + 10_000]
                self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
            self.wfile.write(b"0\r\n\r\n")
        elif mode == "drip":
            for position in range(0, len(content), 1024):
                self.wfile.write(content[position : position + 1024])
                time.sleep(self.server.pause_s)
        else:
            self.wfile.write(content)


@contextlib.contextmanager
def serve(files: dict[str, bytes]) -> Iterator[Server]:
    """A running server; set ``NO_PROXY=127.0.0.1`` around it."""
    server = Server(files)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
