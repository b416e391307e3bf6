"""Layouts of data sets whose images come with texts. One module per layout, its name is the layout's name.

A layout module has one function

``extract(archives: Mapping[str, Path], split: str, out: Path) -> Extracted``

that unpacks what the split needs below ``out`` and returns its texts, in any order. ``archives`` is file name ->
downloaded file.
"""

from __future__ import annotations

import importlib
import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from ovss.errors import UserError


class TextEntry(NamedTuple):
    """One text of a split and its image, unpacked.

    ``relevant`` says of each word whether the image shows it (None: not known). The text's mask is the union of the
    images in ``masks``, in which everything but 0 is foreground; several texts may share one under its ``mask_id``.
    """

    id: str
    image_id: str
    image: Path
    caption: str
    words: tuple[str, ...]
    relevant: tuple[bool, ...] | None = None
    mask_id: str | None = None
    masks: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Extracted:
    """The texts of a split, and how many were left out for which reason."""

    entries: list[TextEntry]
    left_out: Counter[str] = field(default_factory=Counter)


Extract = Callable[[Mapping[str, Path], str, Path], Extracted]


def load(name: str) -> Extract:
    """The extraction function of a layout.

    Raises:
        UserError: there is no such layout.
    """
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or not (Path(__file__).parent / f"{name}.py").is_file():
        raise UserError(f"text layout {name!r} does not exist; see ovss/data/text_layouts")
    extract: Extract = importlib.import_module(f"{__name__}.{name}").extract
    return extract


def words_of(text: str) -> tuple[str, ...]:
    """Words of a caption: lower case, split at blanks, everything kept (TTD, Section 3.1)."""
    return tuple(text.lower().split())


def is_text(value: object) -> bool:
    """Whether it is a text that can be written (JSON also holds halves of characters)."""
    try:
        return isinstance(value, str) and value.encode() is not None
    except UnicodeEncodeError:
        return False


def mostly_there(archive: Path, what: str, missing: int, total: int) -> None:
    """Check that of ``total`` things at most half are missing; a few are lost in every copy of such a data set.

    Raises:
        UserError: more are.
    """
    if 2 * missing > total:
        raise UserError(f"{archive}: {missing} of {total} {what} are missing; this is not the expected archive")
