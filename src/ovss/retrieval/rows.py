"""Rows of caption files: one caption each, or the reason why there is none."""

from __future__ import annotations

import codecs
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO

LONGEST_ROW = 1 << 20
LARGEST_ELEMENT = 1 << 26


@dataclass(frozen=True)
class Skipped:
    """A row without a caption. ``bad``: it should have one (False: the file has other rows too, on purpose)."""

    reason: str
    bad: bool = True


Row = str | Skipped

COLUMNS = Skipped("wrong number of columns")
ENCODING = Skipped("not UTF-8")
EMPTY = Skipped("empty caption")
ADDRESS = Skipped("an address in place of the caption")
TOO_LONG = Skipped("longer than 1 MiB")
NO_CAPTION = Skipped("no field 'caption'")


def caption(value: object) -> Row:
    """A caption without blanks around it, or why ``value`` is none (undecodable bytes are surrogates in it)."""
    if value is None or value == "":
        return EMPTY
    if not isinstance(value, str):
        return NO_CAPTION
    try:
        value.encode()
    except UnicodeEncodeError:
        return ENCODING
    return value.strip() or EMPTY


def field(record: object) -> Row:
    """The caption of a JSON object, in its field ``caption``."""
    return caption(record["caption"]) if isinstance(record, dict) and "caption" in record else NO_CAPTION


def lines(stream: IO[bytes]) -> Iterator[bytes | Skipped]:
    """Lines without their ends (LF or CR LF) and without a byte order mark; never more than a MiB in memory."""
    start = codecs.BOM_UTF8
    while line := stream.readline(LONGEST_ROW):
        if len(line) == LONGEST_ROW and not line.endswith(b"\n"):
            while (rest := stream.readline(LONGEST_ROW)) and not rest.endswith(b"\n"):
                pass
            yield TOO_LONG
        else:
            yield line.removeprefix(start).rstrip(b"\r\n")
        start = b""


def json_array(stream: IO[bytes], key: str) -> Iterator[object]:
    """Elements of the array under a top-level key of a JSON object, one in memory at a time.

    Bytes that are no UTF-8 become surrogates, so that a single text is lost and not the file.

    Raises:
        ValueError: not such an object, without the key, or it ends early.
    """
    text = io.TextIOWrapper(stream, encoding="utf-8", errors="surrogateescape")
    try:
        yield from _elements_under(_Scanner(text), key)
    finally:
        text.detach()  # the stream is the caller's to close


def _elements_under(scanner: _Scanner, key: str) -> Iterator[object]:
    scanner.expect("{")
    while scanner.peek() != "}":
        name = scanner.value()
        scanner.expect(":")
        if name == key:
            yield from scanner.elements()
            return
        if scanner.peek() == "[":
            for _ in scanner.elements():
                pass
        else:
            scanner.value()
        if scanner.peek() == ",":
            scanner.expect(",")
    raise ValueError(f"it has no '{key}'")


class _Scanner:
    """Values of a JSON text that is read piece by piece."""

    def __init__(self, stream: io.TextIOWrapper) -> None:
        self._stream, self._text, self._at = stream, "", 0
        self._decode = json.JSONDecoder().raw_decode

    def _more(self) -> None:
        """Read as much again as is left unparsed: each character is looked at a few times only."""
        rest = self._text[self._at :]
        if len(rest) > LARGEST_ELEMENT:
            raise ValueError("an element is larger than 64 MiB, or is no JSON")
        piece = self._stream.read(max(len(rest), 1 << 16))
        if not piece:
            raise ValueError("it ends early, or is no JSON")
        self._text, self._at = rest + piece, 0

    def peek(self) -> str:
        """The next character that is no blank; it stays the next one."""
        while True:
            while self._at < len(self._text):
                if self._text[self._at] not in " \t\r\n":
                    return self._text[self._at]
                self._at += 1
            self._more()

    def expect(self, char: str) -> None:
        """Go past the character."""
        if self.peek() != char:
            raise ValueError(f"{self._text[self._at]!a} in place of '{char}'")
        self._at += 1

    def value(self) -> object:
        """The next value; a number counts only when something follows it."""
        self.peek()
        while True:
            try:
                value, end = self._decode(self._text, self._at)
            except json.JSONDecodeError:
                end = len(self._text)
            except RecursionError:
                raise ValueError("it is nested too deeply") from None
            if end < len(self._text):
                self._at = end
                return value
            self._more()

    def elements(self) -> Iterator[object]:
        """The elements of the array that comes next."""
        self.expect("[")
        while self.peek() != "]":
            yield self.value()
            if self.peek() != "]":
                self.expect(",")
        self.expect("]")
