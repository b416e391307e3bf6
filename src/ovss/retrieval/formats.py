"""One streaming reader per format of caption files: rows in the file's order, one in memory at a time."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO

from ovss.data import deb
from ovss.data.archives import open_file, open_members
from ovss.errors import UserError
from ovss.retrieval.columns import read_cased, read_parquet
from ovss.retrieval.rows import ADDRESS, COLUMNS, ENCODING, Row, Skipped, caption, field, json_array, lines

WIT_TEXT = "caption_reference_description"
_OTHER_LANGUAGE = Skipped("another language", bad=False)
_NO_REFERENCE = Skipped("no reference description", bad=False)
_NOT_NOUN = Skipped("not a line of index.noun")
_NOT_JSON = Skipped("not JSON")


def _pair(path: Path, column: int) -> Iterator[Row]:
    """Two tab-separated columns, a caption and an address (CC3M, CC12M); no header."""
    with open_file(path) as stream:
        for line in lines(stream):
            yield line if isinstance(line, Skipped) else _cell(line, column)


def _cell(line: bytes, column: int) -> Row:
    try:
        cells = line.decode().split("\t")
    except UnicodeDecodeError:
        return ENCODING
    if len(cells) != 2:
        return COLUMNS
    text = cells[column]
    return ADDRESS if text.startswith(("http://", "https://")) and " " not in text else caption(text)


def _is_archive(path: Path) -> bool:
    with path.open("rb") as stream:
        start = stream.read(8)
    return start.startswith(b"PK") or start == deb.MAGIC or path.name.endswith((".tar", ".tar.gz", ".tgz", ".tar.xz"))


def _streams(path: Path, wanted: Callable[[str], bool], what: str) -> Iterator[tuple[str, IO[bytes]]]:
    """The wanted files of an archive or a folder, or the file itself, one after the other.

    Raises:
        UserError: there is none.
    """
    found = False
    if path.is_dir():
        for file in sorted(file for file in path.rglob("*") if file.is_file() and wanted(file.name)):
            found = True
            with open_file(file) as stream:
                yield file.name, stream
    elif _is_archive(path):
        for name, stream in open_members(path, wanted):
            found = True
            yield name, stream
    else:
        found = True
        with open_file(path) as stream:
            yield path.name, stream
    if not found:
        raise UserError(f"{path}: there is no {what} in it; this is not the expected archive")


def _single(path: Path, wanted: Callable[[str], bool], what: str) -> Iterator[bytes | Skipped]:
    """Lines of the one wanted file."""
    for count, (_, stream) in enumerate(_streams(path, wanted, what)):
        if count:
            raise UserError(f"{path}: there is more than one {what} in it; this is not the expected archive")
        yield from lines(stream)


def _wordnet(path: Path) -> Iterator[Row]:
    """Lemmas of WordNet's index.noun (wndb(5)): first field of a line; the licence's lines begin with two blanks."""
    for line in _single(path, lambda name: PurePosixPath(name).name == "index.noun", "index.noun"):
        if isinstance(line, Skipped):
            yield line
        elif not line.startswith(b"  "):
            fields = line.split()
            is_noun = len(fields) >= 6 and fields[1] == b"n"
            yield caption(fields[0].decode("ascii", "surrogateescape").replace("_", " ")) if is_noun else _NOT_NOUN


def _is_word_list(name: str) -> bool:
    path = PurePosixPath(name)
    return path.suffix == ".txt" or (path.parent.as_posix() == "usr/share/dict" and path.name != "words")


def _words(path: Path) -> Iterator[Row]:
    """A word a line, in a text file, or in the only list of a zip or a Debian package."""
    for line in _single(path, _is_word_list, "word list (*.txt or usr/share/dict/*)"):
        yield line if isinstance(line, Skipped) else caption(line.decode("utf-8", "surrogateescape"))


def _objects(path: Path, wanted: Callable[[str], bool], what: str, key: str) -> Iterator[object]:
    """Elements of an array in each of the wanted JSON files."""
    for name, stream in _streams(path, wanted, what):
        try:
            yield from json_array(stream, key)
        except UserError:
            raise
        except ValueError as error:
            raise UserError(f"{path}: {name} cannot be read as JSON ({error}); fetch it again") from error


def _coco(path: Path) -> Iterator[Row]:
    """COCO: annotations of captions_*.json."""

    def wanted(name: str) -> bool:
        file = PurePosixPath(name).name
        return file.startswith("captions_") and file.endswith(".json")

    return map(field, _objects(path, wanted, "captions_*.json", "annotations"))


def _redcaps(path: Path) -> Iterator[Row]:
    """RedCaps: annotations of a JSON file for each subreddit and year; ``caption`` is the cleaned text."""
    return map(field, _objects(path, lambda name: name.endswith(".json"), "annotations/*.json", "annotations"))


def _sbu(path: Path) -> Iterator[Row]:
    """SBU: the array ``captions`` of sbu-captions-all.json."""
    is_file = "sbu-captions-all.json".__eq__
    return map(caption, _objects(path, lambda name: is_file(PurePosixPath(name).name), "*.json", "captions"))


def _json_lines(path: Path) -> Iterator[Row]:
    """A JSON object a line, with the field ``caption`` (Localized Narratives, own files)."""
    with open_file(path) as stream:
        for line in lines(stream):
            if isinstance(line, Skipped):
                yield line
                continue
            try:
                yield field(json.loads(line.decode("utf-8", "surrogateescape")))
            except (ValueError, RecursionError):
                yield _NOT_JSON


def _wit(path: Path) -> Iterator[Row]:
    """WIT: English reference descriptions of a tab-separated file with a header; cells may be quoted."""
    with open_file(path) as stream, io.TextIOWrapper(stream, "utf-8", "surrogateescape", newline="") as text:
        table = csv.reader(text, delimiter="\t")
        header = next(table, [])
        missing = [name for name in ("language", WIT_TEXT) if name not in header]
        if missing:
            raise UserError(f"{path}: column {' and '.join(missing)} is missing; is this a file of WIT?")
        language, column = header.index("language"), header.index(WIT_TEXT)
        while True:
            try:
                row = next(table, None)
            except csv.Error:
                yield COLUMNS
                continue
            if row is None:
                return
            yield _wit_row(row, len(header), language, column)


def _wit_row(row: list[str], width: int, language: int, column: int) -> Row:
    if len(row) != width:
        return COLUMNS
    if row[language] != "en":
        return _OTHER_LANGUAGE
    return caption(row[column]) if row[column].strip() else _NO_REFERENCE


def _plain(read: Callable[[Path], Iterator[Row]]) -> Callable[[Path, Path], Iterator[Row]]:
    return lambda path, scratch: read(path)


READERS: dict[str, Callable[[Path, Path], Iterator[Row]]] = {
    "caption_url_tsv": _plain(partial(_pair, column=0)),
    "url_caption_tsv": _plain(partial(_pair, column=1)),
    "wordnet_nouns": _plain(_wordnet),
    "words": _plain(_words),
    "coco_captions": _plain(_coco),
    "redcaps": _plain(_redcaps),
    "sbu": _plain(_sbu),
    "wit": _plain(_wit),
    "json_lines": _plain(_json_lines),
    "parquet": _plain(read_parquet),
    "cased": read_cased,
}
"""Format -> reader of (file, folder for what has to be unpacked)."""

HINTS = {
    "caption_url_tsv": "are the columns those of CC3M (caption, address), without a header?",
    "url_caption_tsv": "are the columns those of CC12M (address, caption), without a header?",
    "wordnet_nouns": "is it WordNet's index.noun?",
    "words": "is it a list with one word a line?",
    "wit": "is it a file of WIT with English rows?",
}
