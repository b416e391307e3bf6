"""Captions in columnar files: Parquet, and the Arrow files beside CaSED's prebuilt indexes."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ovss.data.archives import extract
from ovss.errors import UserError
from ovss.retrieval.rows import Row, caption

_BATCH = 8192


def read_parquet(path: Path) -> Iterator[Row]:
    """The column ``caption`` (or ``text``) of a Parquet file, piece by piece.

    Raises:
        UserError: damaged, or without such a column.
    """
    try:
        file = pq.ParquetFile(path)
        name = _column(path, file.schema_arrow.names, ("caption", "text"))
        batches = file.iter_batches(batch_size=_BATCH, columns=[name])
        yield from map(caption, _texts(batch.column(0) for batch in batches))
    except UserError:
        raise
    except (pa.ArrowException, OSError, ValueError) as error:
        raise _damaged(path, error) from error


def read_cased(path: Path, scratch: Path) -> Iterator[Row]:
    """The column ``caption`` of the Arrow files in a database of CaSED (clip-retrieval's layout), sorted by name.

    A row's number is its number in the prebuilt index: so no row is left out, an empty one has the caption "-".

    Raises:
        UserError: damaged, without Arrow files or without the column.
    """
    files = sorted(_unpacked(path, scratch).rglob("*.arrow"))
    if not files:
        raise UserError(f"{path}: there is no metadata/*.arrow in it; this is not one of CaSED's databases")
    for file in files:
        try:
            with pa.memory_map(str(file)) as mapped:
                table = pa.ipc.open_file(mapped)
                index = table.schema.names.index(_column(path, table.schema.names, ("caption",)))
                batches = (table.get_batch(number).column(index) for number in range(table.num_record_batches))
                for text in _texts(part for batch in batches for part in _slices(batch)):
                    row = caption(text)
                    yield row if isinstance(row, str) else "-"
        except UserError:
            raise
        except (pa.ArrowException, OSError, ValueError) as error:
            raise _damaged(path, error) from error


def prebuilt_index(path: Path, scratch: Path) -> Path:
    """The FAISS index of a database of CaSED, unpacked.

    Raises:
        UserError: there is none, or more than one.
    """
    found = sorted(_unpacked(path, scratch).rglob("text.index"))
    if len(found) != 1:
        raise UserError(f"{path}: {len(found)} files text.index in it, not one; this is none of CaSED's databases")
    return found[0]


def _unpacked(archive: Path, scratch: Path) -> Path:
    """A folder with the archive's Arrow files and its index; a folder that is there is complete."""
    folder = scratch / "unpacked" / archive.name
    if not folder.is_dir():
        part = folder.with_name(folder.name + ".part")
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        extract(archive, part, lambda name: name.endswith((".arrow", "text.index")))
        os.replace(part, folder)
    return folder


def _column(path: Path, names: Iterable[str], wanted: tuple[str, ...]) -> str:
    found = next((name for name in wanted if name in names), None)
    if found is None:
        raise UserError(f"{path}: there is no column '{' or '.join(wanted)}' (there are: {', '.join(names)})")
    return found


def _slices(column: Any) -> Iterator[Any]:
    return (column.slice(start, _BATCH) for start in range(0, len(column), _BATCH))


def _texts(columns: Iterable[Any]) -> Iterator[object]:
    """Values as text; bytes that are no UTF-8 become surrogates."""
    for column in columns:
        if not pa.types.is_string(column.type) and not pa.types.is_large_string(column.type):
            yield from column.to_pylist()
            continue
        wide = pa.types.is_large_string(column.type)
        for value in column.cast(pa.large_binary() if wide else pa.binary()).to_pylist():
            yield None if value is None else value.decode("utf-8", "surrogateescape")


def _damaged(path: Path, error: Exception) -> UserError:
    return UserError(f"{path}: damaged or not of the expected kind ({str(error).split(chr(10))[0]}); fetch it again")
