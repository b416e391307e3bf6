"""Lists inside a large JSON object, one item at a time: annotation files of a gigabyte are never held as a whole."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator
from typing import IO, Any

LARGEST_ITEM = 1 << 26
"""Characters of one item of a list, or of a value that is no list."""
_CHUNK = 1 << 20
_LONGEST_TAIL = 3  # a number that is cut off may read as a shorter one: 1e+5 as 1
_BLANK = re.compile(r"[ \t\n\r]*")
_DECODER = json.JSONDecoder()


def items(stream: IO[bytes], keys: Collection[str]) -> Iterator[tuple[str, Any]]:
    """(key, item) of the lists under ``keys`` of a JSON object, in the order of the file; all else is passed over.

    Memory: a chunk of the file and one item.

    Raises:
        ValueError: the text is no JSON object, a key of ``keys`` is no list, or an item is larger than LARGEST_ITEM.
        RecursionError: lists in lists without end.
    """
    text = _Text(stream)
    text.take("{")
    more = text.peek() != "}"
    if not more:
        text.take("}")
    while more:
        key = text.value()
        text.take(":")
        if text.peek() == "[":
            wanted = key in keys
            yield from ((key, item) for item in _list(text) if wanted)
        elif key in keys:
            raise ValueError(f"{key!r} is no list")
        else:
            text.value()
        more = text.peek() == ","
        text.take("," if more else "}")
    if text.peek():
        raise ValueError("there is more after the end of the object")


def _list(text: _Text) -> Iterator[Any]:
    text.take("[")
    if text.peek() == "]":
        text.take("]")
        return
    more = True
    while more:
        yield text.value()
        more = text.peek() == ","
        text.take("," if more else "]")


class _Text:
    """Text of a stream from where it was read to."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream, self._text, self._at, self._rest = stream, "", 0, b""

    def _read(self) -> bool:
        """Append a chunk, and forget what was taken; False (and nothing changes) at the end."""
        data = self._stream.read(max(_CHUNK, len(self._text) - self._at))
        if not data:
            self._rest.decode("utf-8")  # an error if a character is cut off
            return False
        text, self._rest = _decoded(self._rest + data)
        self._text, self._at = self._text[self._at :] + text, 0
        return True

    def peek(self) -> str:
        """The next character that is no blank; none at the end."""
        while True:
            found = _BLANK.match(self._text, self._at)
            self._at = found.end() if found else self._at
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._read():
                return ""

    def take(self, character: str) -> None:
        """Pass over a character that has to come next."""
        if self.peek() != character:
            raise ValueError(f"{character!r} is missing")
        self._at += 1

    def value(self) -> Any:
        """The next value, whatever it is."""
        self.peek()
        while True:
            try:
                value, end = _DECODER.raw_decode(self._text, self._at)
            except json.JSONDecodeError:
                if len(self._text) - self._at > LARGEST_ITEM or not self._read():
                    raise
                continue
            if end + _LONGEST_TAIL > len(self._text) and self._read():
                continue
            self._at = end
            return value


def _decoded(data: bytes) -> tuple[str, bytes]:
    """UTF-8 text, and the bytes of a character that is not complete yet."""
    for cut in range(4):
        try:
            return data[: len(data) - cut].decode("utf-8"), data[len(data) - cut :]
        except UnicodeDecodeError:
            continue
    return data.decode("utf-8"), b""
