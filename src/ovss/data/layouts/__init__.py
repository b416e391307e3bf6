"""Layouts: how each data set's archives are laid out. One module per layout, its name is the layout's name.

A layout module has one function

``extract(archives: Mapping[str, Path], split: str, out: Path) -> list[Entry]``

that unpacks what the split needs below ``out`` and returns its images with their label files, in any order.
``archives`` is file name -> downloaded file. Labels are images of the source's raw values, 8-bit, or 16-bit where
a source has values above 255.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from ovss.data import archives
from ovss.errors import UserError


class Entry(NamedTuple):
    """One image of a split, unpacked."""

    id: str
    image: Path
    label: Path


Extract = Callable[[Mapping[str, Path], str, Path], list[Entry]]


def load(name: str) -> Extract:
    """The extraction function of a layout.

    Raises:
        UserError: there is no such layout.
    """
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or not (Path(__file__).parent / f"{name}.py").is_file():
        raise UserError(f"layout {name!r} does not exist; see ovss/data/layouts")
    extract: Extract = importlib.import_module(f"{__name__}.{name}").extract
    return extract


def need(files: Mapping[str, Path], name: str) -> Path:
    """The downloaded file of this name.

    Raises:
        UserError: it is not among the archives.
    """
    if name not in files:
        raise UserError(f"{name}: this file is needed but the source's archives have only: {', '.join(sorted(files))}")
    return files[name]


def ids_in(text: bytes, name: str) -> list[str]:
    """Ids of a split list, one per line; blank lines are skipped.

    Raises:
        UserError: the list is empty, is not text, or an id is no plain file name or occurs twice.
    """
    try:
        ids = [line.strip() for line in text.decode("ascii").splitlines() if line.strip()]
    except UnicodeDecodeError:
        raise UserError(f"{name}: this split list is not plain text; fetch the archive again") from None
    bad = [item for item in ids if not re.fullmatch(r"\w[\w.-]*", item)]
    if bad or not ids or len(set(ids)) < len(ids):
        what = f"has the bad id {bad[0]!r}" if bad else "has an id twice" if ids else "is empty"
        raise UserError(f"{name}: this split list {what}; fetch the archive again")
    return ids


def unpack(archive: Path, out: Path, pattern: str, ids: Collection[str] | None = None) -> dict[str, Path]:
    """Unpack the members that match ``pattern`` and return them by its group ``id``, only those in ``ids`` if given."""
    compiled = re.compile(pattern)

    def item(name: str) -> str | None:
        match = compiled.fullmatch(name)
        return match["id"] if match and (ids is None or match["id"] in ids) else None

    names = archives.extract(archive, out, lambda name: item(name) is not None)
    return {found: out / name for name in names if (found := item(name)) is not None}


def pair(images: Mapping[str, Path], labels: Mapping[str, Path], where: str, ids: Iterable[str] = ()) -> list[Entry]:
    """Entries of images and labels with the same ids; ``ids`` must be among them.

    Raises:
        UserError: an image has no label, a label no image, or an id neither (names the first).
    """
    every = sorted({*images, *labels, *ids})
    for files, what in ((images, "image"), (labels, "label")):
        lonely = [item for item in every if item not in files]
        if lonely:
            raise UserError(f"{where}: {lonely[0]} has no {what} ({len(lonely)} such); the archives do not match")
    return [Entry(item, images[item], labels[item]) for item in every]
