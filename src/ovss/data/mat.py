"""Label maps in MATLAB files (version 5), the part of the format that they need; nothing in such a file is ever run.

A file is a header of 128 bytes and elements: type, size, content. A matrix is an element of elements: flags, sides,
name, values; a structure has field names and a matrix for each in place of values. An element may be compressed. scipy
reads all of the format, but ends the program on some damaged files (a wrong size of an element is enough).
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ovss.data.rle import LARGEST
from ovss.errors import UserError

LARGEST_FILE = 1 << 24
"""Bytes of a file, also after unpacking; a label map has one or two a pixel."""
_HEADER, _MOST_ELEMENTS = 128, 10_000
_ORDERS = {b"IM": "<", b"MI": ">"}
_MATRIX, _COMPRESSED = 14, 15
_STRUCTURE = 2
_STORED = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4"}
"""How whole numbers are stored: MATLAB takes the smallest type that holds them, whatever the class of the matrix."""
_CLASSES: dict[int, type[np.unsignedinteger[Any]]] = {9: np.uint8, 11: np.uint16}


def read_label_map(path: Path, name: str, field: str | None = None) -> np.ndarray:
    """A label map in a MATLAB file: a variable, or a field of one that is a structure.

    Returns:
        (H, W) uint8 or uint16, as in the file.

    Raises:
        UserError: the file is missing, damaged, larger than a label map can be, or has no such label map.
    """
    try:
        if path.stat().st_size > LARGEST_FILE:
            raise ValueError(f"more than {LARGEST_FILE} bytes")
        matrix = _variable(path.read_bytes(), name)
        return _label(matrix if field is None else _field(matrix, field))
    except (OSError, ValueError, LookupError, struct.error, zlib.error) as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:100]
        what = f"no MATLAB file with the label map {field or name!r}"
        raise UserError(f"{path}: {what} ({reason}); fetch the archive again") from error


@dataclass(frozen=True)
class _Element:
    """kind: of the content. order: of its bytes, < or >."""

    kind: int
    content: memoryview
    order: str

    def numbers(self) -> np.ndarray:
        """The content as whole numbers."""
        return np.frombuffer(self.content, np.dtype(self.order + _STORED[self.kind]))

    def text(self) -> bytes:
        return bytes(self.content)


@dataclass(frozen=True)
class _Matrix:
    """kind: its class; values: the elements after its name."""

    kind: int
    sides: tuple[int, ...]
    name: str
    values: list[_Element]


def _elements(data: memoryview, order: str) -> Iterator[_Element]:
    """Elements one after the other; each starts at a multiple of 8, except after a compressed one."""
    at = count = 0
    while at < len(data):
        count += 1
        if count > _MOST_ELEMENTS:
            raise ValueError(f"more than {_MOST_ELEMENTS} elements")
        (kind,) = struct.unpack_from(f"{order}I", data, at)
        if kind >> 16:  # up to four bytes stand in the place of the size
            start, size, after = at + 4, kind >> 16, at + 8
        else:
            (size,) = struct.unpack_from(f"{order}I", data, at + 4)
            start, after = at + 8, at + 8 + size
            after += 0 if kind == _COMPRESSED else -after % 8
        content = data[start : start + size]
        if len(content) < size or (kind >> 16 and size > 4):
            raise ValueError("an element is cut off")
        yield _Element(kind & 0xFFFF, content, order)
        at = after


def _variable(data: bytes, name: str) -> _Matrix:
    order = _ORDERS[data[126:_HEADER]]
    room = LARGEST_FILE
    for element in _elements(memoryview(data)[_HEADER:], order):
        parts: Iterator[_Element] = iter([element])
        if element.kind == _COMPRESSED:
            unpacked = zlib.decompressobj().decompress(element.content, room + 1)
            room -= len(unpacked)
            if room < 0:
                raise ValueError(f"more than {LARGEST_FILE} bytes after unpacking")
            parts = _elements(memoryview(unpacked), order)
        for part in parts:
            if part.kind == _MATRIX and (matrix := _matrix(part)).name == name:
                return matrix
    raise LookupError(f"no variable {name}")


def _matrix(element: _Element) -> _Matrix:
    if element.kind != _MATRIX:
        raise ValueError("no matrix")
    flags, sides, name, *values = _elements(element.content, element.order)
    kind = int(flags.numbers()[0]) & 0xFF
    return _Matrix(kind, tuple(sides.numbers().tolist()), name.text().decode("ascii"), values)


def _field(matrix: _Matrix, field: str) -> _Matrix:
    if matrix.kind != _STRUCTURE or math.prod(matrix.sides) != 1:
        raise ValueError(f"{matrix.name} is not one structure")
    width, names, *values = matrix.values
    (step,) = width.numbers().tolist()
    if step < 1:
        raise ValueError("field names without letters")
    joined = names.text()
    known = [joined[at : at + step].split(b"\0")[0] for at in range(0, len(joined), step)]
    return _matrix(values[known.index(field.encode())])


def _label(matrix: _Matrix) -> np.ndarray:
    kind = _CLASSES[matrix.kind]
    values = matrix.values[0].numbers()
    if len(matrix.sides) != 2 or min(matrix.sides) < 1 or len(values) > LARGEST:
        raise ValueError(f"sides {matrix.sides}")
    if values.min() < 0 or values.max() > np.iinfo(kind).max:
        raise ValueError("a value does not fit its class")
    return values.astype(kind).reshape(matrix.sides, order="F")
