"""The databases that CaSED (and TAG's published code) searched: somebody else's FAISS index with its captions.

A database is a tar.gz, or the folder in it, with ``text.index`` and ``metadata/*.arrow`` (column ``caption``); a row's
number in the index is its place in the Arrow files, sorted by name, one after the other. The index may be of any type;
a lossy one returns approximate cosines and, for the removal of duplicates, approximate vectors, as it did for them.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ovss.data.archives import extract
from ovss.errors import UserError
from ovss.retrieval.search import check_dimension, unit_queries

INDEX_FILE = "text.index"
ENCODER = "not recorded"
_BLOCK = 64
Hits = tuple[npt.NDArray[np.int64], npt.NDArray[np.float32], npt.NDArray[np.float32]]


@dataclass(frozen=True)
class Prebuilt:
    """An opened database. path: its index file. index: the FAISS index. captions: texts by row numbers."""

    path: Path
    index: Any
    captions: Callable[[Sequence[int]], list[str]]

    @classmethod
    def open(cls, database: Path, scratch: Path, name: str = "") -> Prebuilt:
        """Open a database without reading it into memory.

        Args:
            database: the folder, the tar.gz, or a folder with the tar.gz in it.
            scratch: where a tar.gz is unpacked to.
            name: which tar.gz, where the folder has several.

        Raises:
            UserError: a file is missing, damaged or does not fit the others.
        """
        folder = _unpacked(_archive(database, name), scratch)
        found = sorted(folder.rglob(INDEX_FILE))
        if len(found) != 1:
            raise UserError(f"{database}: {len(found)} files {INDEX_FILE} in it, not one; is this CaSED's database?")
        texts = ArrowCaptions(sorted(found[0].parent.rglob("*.arrow")), found[0].parent)
        opened = cls.of(found[0], texts)
        if opened.index.ntotal != texts.rows:
            raise UserError(
                f"{found[0]}: has {opened.index.ntotal} vectors for {texts.rows} captions; fetch the database again"
            )
        return opened

    @classmethod
    def of(cls, path: Path, captions: Callable[[Sequence[int]], list[str]]) -> Prebuilt:
        """Open an index file whose captions are elsewhere.

        Raises:
            UserError: it is damaged or does not compare by inner product.
        """
        import faiss

        try:
            index = faiss.read_index(str(path), faiss.IO_FLAG_MMAP | faiss.IO_FLAG_READ_ONLY)
        except RuntimeError as error:
            raise UserError(f"{path}: damaged or no FAISS index ({_short(error)}); fetch the database again") from error
        if index.metric_type != faiss.METRIC_INNER_PRODUCT:
            raise UserError(f"{path}: does not compare by inner product; cosines cannot be had from this index")
        return cls(path, index, captions)

    def search(self, queries: npt.NDArray[np.float32], keep: int) -> Iterator[tuple[int, Hits]]:
        """Hits of queries (Q, D), block by block: (first query, (ids, cosines, vectors (q, keep, D)) of the block).

        Blocks have one size (the last is padded), since FAISS sums in another order for few queries than for many.
        Rows are best first, ties by ascending id (which of equal ones it keeps at the end is FAISS's choice).
        Id -1 and vector NaN where the index found no more.

        Raises:
            UserError: a query has no direction or another size, or the index cannot give its vectors back.
        """
        if not len(queries):
            return
        check_dimension(queries, self.index.d, str(self.path))
        unit = unit_queries(queries)
        for first in range(0, len(unit), _BLOCK):
            block = np.zeros((_BLOCK, self.index.d), np.float32)
            block[:] = unit[first]
            block[: len(unit) - first] = unit[first : first + _BLOCK]
            try:
                scores, ids, vectors = self.index.search_and_reconstruct(block, keep)
            except RuntimeError as error:
                raise UserError(
                    f"{self.path}: this kind of index cannot give its vectors back ({_short(error)}), which the "
                    "removal of duplicates needs; use search: exact"
                ) from error
            count = min(_BLOCK, len(unit) - first)
            yield first, _ranked(ids[:count], scores[:count], vectors[:count])


def _ranked(ids: npt.NDArray[np.int64], scores: npt.NDArray[np.float32], vectors: npt.NDArray[np.float32]) -> Hits:
    scores = np.where(ids < 0, np.float32(-np.inf), scores)
    order = np.lexsort((ids, -scores), axis=-1)
    return (
        np.take_along_axis(ids, order, 1),
        np.take_along_axis(scores, order, 1),
        np.take_along_axis(vectors, order[:, :, None], 1),
    )


class ArrowCaptions:
    """Captions of Arrow files by row number, read from memory maps.

    Raises:
        UserError: there is no file, one is damaged or has no column ``caption``.
    """

    def __init__(self, files: Sequence[Path], where: Path) -> None:
        if not files:
            raise UserError(f"{where}: there is no metadata/*.arrow in it; is this CaSED's database?")
        self._columns = [column for file in files for column in _caption_columns(file)]
        self._starts = np.cumsum([0, *map(len, self._columns)])
        self.rows = int(self._starts[-1])

    def __call__(self, ids: Sequence[int]) -> list[str]:
        """Captions by row number; "-" for one that is missing, as no row may be left out."""
        texts: list[str] = []
        for row in ids:
            part = int(np.searchsorted(self._starts, row, side="right")) - 1
            texts.append(self._columns[part][int(row - self._starts[part])].as_py() or "-")
        return texts


def _caption_columns(path: Path) -> list[Any]:
    """The column ``caption`` of an Arrow file or stream, batch by batch."""
    import pyarrow as pa

    try:
        mapped = pa.memory_map(str(path))
        try:
            opened = pa.ipc.open_file(mapped)
            batches = [opened.get_batch(number) for number in range(opened.num_record_batches)]
        except pa.ArrowInvalid:  # not a file with an index of batches at its end, but a stream of them
            mapped.seek(0)
            opened = pa.ipc.open_stream(mapped)
            batches = list(opened)
        if "caption" not in opened.schema.names:
            raise UserError(f"{path}: there is no column 'caption' (there are: {', '.join(opened.schema.names)})")
        return [batch.column(batch.schema.names.index("caption")) for batch in batches]
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path}: damaged or no Arrow file ({_short(error)}); fetch the database again") from error


def _archive(database: Path, name: str) -> Path:
    """The folder, or the archive that holds it."""
    if name:
        return database / name
    if database.is_file() or any(database.rglob(INDEX_FILE)):
        return database
    archives = sorted(database.glob("*.tar.gz"))
    if len(archives) != 1:
        raise UserError(f"{database}: neither {INDEX_FILE} nor a single .tar.gz in it; is this CaSED's database?")
    return archives[0]


def _unpacked(source: Path, scratch: Path) -> Path:
    """A folder with the captions and the index; one that is in ``scratch`` already is complete."""
    if source.is_dir():
        return source
    folder = scratch / "database" / source.name
    if not folder.is_dir():
        part = folder.with_name(f"{folder.name}.part")
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        extract(source, part, lambda name: name.endswith((".arrow", INDEX_FILE)))
        os.replace(part, folder)
    return folder


def _short(error: Exception) -> str:
    return str(error).strip().splitlines()[-1][-160:] if str(error).strip() else type(error).__name__
