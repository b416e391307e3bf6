"""The files of a Debian package: an ``ar`` file that holds a tar, ``data.tar.xz`` or ``data.tar.gz``."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import IO, Any

from ovss.errors import UserError

MAGIC = b"!<arch>\n"
_HEADER = 60
_KNOWN = ("data.tar", "data.tar.xz", "data.tar.gz", "data.tar.bz2")


class _Window(io.RawIOBase):
    """A stretch of an open file, as a file of its own."""

    def __init__(self, stream: IO[bytes], start: int, size: int) -> None:
        self._stream, self._start, self._size, self._at = stream, start, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._at = max(0, offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence])
        return self._at

    def readinto(self, buffer: Any) -> int:
        self._stream.seek(self._start + self._at)
        data = self._stream.read(min(len(buffer), max(self._size - self._at, 0)))
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)


def open_data(stream: IO[bytes], path: Path) -> io.BufferedReader:
    """The (compressed) tar with a package's files, inside the open package ``stream``.

    Raises:
        UserError: no such member, one that is compressed in another way, or the package is cut short (names ``path``).
    """
    end = stream.seek(0, os.SEEK_END)
    at = len(MAGIC)
    while at < end:
        stream.seek(at)
        header = stream.read(_HEADER)
        name, digits = header[:16].rstrip(b" /").decode("latin-1"), header[48:58].strip()
        at += _HEADER
        if header[58:] != b"`\n" or not digits.isdigit() or at + int(digits) > end:
            raise UserError(f"{path}: damaged or truncated Debian package; delete it and fetch it again")
        if name in _KNOWN:
            return io.BufferedReader(_Window(stream, at, int(digits)))
        if name.startswith("data.tar"):
            raise UserError(f"{path}: {name} is compressed in a way that is not read here; repack it with xz or gzip")
        at += int(digits) + int(digits) % 2
    raise UserError(f"{path}: a Debian package without data.tar; delete it and fetch it again")
