"""A caption collection on disk: shards of unit vectors with their captions, and a manifest that names every byte.

A shard has three files: NAME.vectors.npy, float16 (n, D); NAME.text, the captions in UTF-8 one after the other;
NAME.offsets.npy, int64 (n + 1), where each caption begins and ends.
"""

from __future__ import annotations

import json
import os
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ovss.data.remote import digest, place
from ovss.errors import UserError

FORMAT = 1
MANIFEST = "manifest.json"
FOLDER = "shards"
PREBUILT = "text.index"
VECTORS, TEXT, OFFSETS = "vectors.npy", "text", "offsets.npy"
Files = dict[str, dict[str, Any]]
"""File name -> {"sha256", "bytes"}."""


@dataclass(frozen=True)
class Shard:
    """A shard's name, its rows and its files."""

    name: str
    rows: int
    files: Files


class Collection:
    """A collection opened for reading; vectors and captions are read from memory maps, only where they are needed.

    ``prebuilt``: the FAISS index that came with the captions (row = its id), None where they came without one.
    """

    def __init__(self, directory: Path, record: Mapping[str, Any]) -> None:
        self.directory = directory
        self.name, self.rows, self.dimension = str(record["collection"]), int(record["rows"]), int(record["dimension"])
        self.encoder = str(record["encoder"])
        self.shards = [Shard(entry["name"], int(entry["rows"]), entry["files"]) for entry in record["shards"]]
        self.prebuilt: Path | None = directory / PREBUILT if PREBUILT in record.get("other", {}) else None
        self._starts = [0, *accumulate(shard.rows for shard in self.shards)]
        self._texts: dict[int, tuple[NDArray[np.int64], NDArray[np.uint8]]] = {}

    @classmethod
    def open(cls, directory: Path, check: bool = False) -> Collection:
        """Read the manifest and compare the files' sizes (with ``check`` their hashes too).

        Raises:
            UserError: a file is missing or is not what the manifest says.
        """
        path = directory / MANIFEST
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            if record["format"] != FORMAT:
                raise UserError(f"{path}: format {record['format']} is not {FORMAT}; make the collection again")
            found = cls(directory, record)
        except UserError:
            raise
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path}: no readable manifest ({error}); make the collection again") from error
        if found.rows != found._starts[-1] or not found.rows:
            raise UserError(f"{path}: its shards have {found._starts[-1]} rows, not {found.rows}; make it again")
        for number, shard in enumerate(found.shards):
            if check:
                found.verify_shard(number)
            else:
                _refuse(directory, _wrong_size(directory / FOLDER, shard.files))
        other = record.get("other", {})
        _refuse(directory, wrong_file(directory, other) if check else _wrong_size(directory, other))
        return found

    def verify_shard(self, number: int) -> None:
        """Compare a shard's bytes with the manifest.

        Raises:
            UserError: names the file that differs.
        """
        _refuse(self.directory, wrong_file(self.directory / FOLDER, self.shards[number].files))

    def first_row(self, number: int) -> int:
        """Global number of a shard's first row."""
        return self._starts[number]

    def vectors(self, number: int) -> np.memmap[Any, np.dtype[np.float16]]:
        """Unit vectors of a shard, a memory map (n, D) float16.

        Raises:
            UserError: the file is damaged or has another shape.
        """
        shape = (self.shards[number].rows, self.dimension)
        return self._load(number, VECTORS, np.dtype(np.float16), shape)  # type: ignore[return-value]

    def captions(self, ids: Sequence[int]) -> list[str]:
        """Captions of rows by their global numbers.

        Raises:
            IndexError: a number is not in the collection.
            UserError: a shard's text is damaged.
        """
        return [self._caption(int(row)) for row in ids]

    def _caption(self, row: int) -> str:
        if not 0 <= row < self.rows:
            raise IndexError(f"row {row} is not among the {self.rows} rows of '{self.name}'")
        number = bisect_right(self._starts, row) - 1
        if number not in self._texts:
            offsets = self._load(number, OFFSETS, np.dtype(np.int64), (self.shards[number].rows + 1,))
            self._texts[number] = offsets, np.memmap(self._path(number, TEXT), np.uint8, "r")
        offsets, text = self._texts[number]
        start, end = offsets[row - self._starts[number] :][:2]
        try:
            return text[start:end].tobytes().decode()
        except UnicodeDecodeError as error:
            raise UserError(f"{self._path(number, TEXT)}: damaged ({error}); make the collection again") from error

    def _path(self, number: int, kind: str) -> Path:
        return self.directory / FOLDER / f"{self.shards[number].name}.{kind}"

    def _load(self, number: int, kind: str, dtype: np.dtype[Any], shape: tuple[int, ...]) -> NDArray[Any]:
        path = self._path(number, kind)
        try:
            array: NDArray[Any] = np.load(path, mmap_mode="r")
        except (OSError, ValueError) as error:
            raise UserError(f"{path}: cannot be read ({error}); make the collection again") from error
        if array.dtype != dtype or array.shape != shape or not array.flags.c_contiguous:
            raise UserError(
                f"{path}: {array.dtype} {array.shape} instead of {dtype} {shape}; make the collection again"
            )
        return array


def _wrong_size(folder: Path, files: Files) -> Path | None:
    for name, facts in files.items():
        path = folder / name
        if not path.is_file() or path.stat().st_size != facts["bytes"]:
            return path
    return None


def wrong_file(folder: Path, files: Files) -> Path | None:
    """The first of the files that is missing or has other bytes than stated; None: all are as stated."""
    missing = _wrong_size(folder, files)
    if missing is not None:
        return missing
    return next(
        (folder / name for name, facts in files.items() if digest(folder / name, "sha256") != facts["sha256"]), None
    )


def _refuse(directory: Path, path: Path | None) -> None:
    if path is not None:
        raise UserError(f"{path}: missing or not the bytes of {directory / MANIFEST}; make the collection again")


def write_shard(folder: Path, name: str, captions: Sequence[str], blocks: Iterable[NDArray[np.float16]]) -> Files:
    """Write a shard's files, each under a temporary name first.

    Args:
        folder: where to.
        name: the shard's name.
        captions: its n captions.
        blocks: its vectors, float16 (rows of the block, D) each, n rows together.

    Returns:
        The files' sizes and hashes.
    """
    texts = [caption.encode() for caption in captions]
    offsets = np.array([0, *accumulate(map(len, texts))], dtype=np.int64)
    parts = {kind: folder / f"{name}.{kind}.part" for kind in (VECTORS, TEXT, OFFSETS)}
    parts[TEXT].write_bytes(b"".join(texts))
    with parts[OFFSETS].open("wb") as stream:
        np.save(stream, offsets)
    with parts[VECTORS].open("wb") as stream:
        for number, block in enumerate(blocks):
            if not number:
                header = {"descr": "<f2", "fortran_order": False, "shape": (len(texts), block.shape[1])}
                np.lib.format.write_array_header_1_0(stream, header)
            stream.write(np.ascontiguousarray(block, dtype="<f2").tobytes())
    files: Files = {}
    for kind, part in parts.items():
        os.replace(part, folder / f"{name}.{kind}")
        files[f"{name}.{kind}"] = describe(folder / f"{name}.{kind}")
    return files


def describe(path: Path) -> dict[str, Any]:
    """{"sha256", "bytes"} of a file."""
    return {"sha256": digest(path, "sha256"), "bytes": path.stat().st_size}


def write_json(path: Path, value: object) -> None:
    """Write JSON under a temporary name and rename it."""
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(value, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    os.replace(part, path)


def publish(
    source: Path, out: Path, shards: Sequence[Shard], record: Mapping[str, Any], prebuilt: Path | None = None
) -> None:
    """Give finished shards (and a prebuilt index) their place and write the manifest (the rest of it is ``record``)."""
    (out / FOLDER).mkdir()
    for shard in shards:
        for name in shard.files:
            place(source / name, out / FOLDER / name)
    other: dict[str, object] = {}
    if prebuilt is not None:
        place(prebuilt, out / PREBUILT)
        other = {"other": {PREBUILT: describe(out / PREBUILT)}}
    write_json(out / MANIFEST, {"format": FORMAT, **record, **other, "shards": [asdict(shard) for shard in shards]})
