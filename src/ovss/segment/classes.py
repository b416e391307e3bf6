"""The classes that pictures of one's own are segmented into, as a user writes them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ovss.errors import UserError

BACKGROUND = "background"
MOST_CLASSES = 255
"""Classes that a label PNG can hold beside the value of "no class"."""


def read_classes(text: str | None, file: Path | None) -> tuple[list[list[str]] | None, str]:
    """Names of each class from ``--classes`` or ``--classes-file``, and which of the two; None: neither is given.

    Raises:
        UserError: both are given, or what is given is empty, has a class twice or too many.
    """
    if text is not None and file is not None:
        raise UserError("--classes and --classes-file: give one of them")
    if text is None and file is None:
        return None, ""
    found, origin = ([[name] for name in class_names(text)], "--classes") if file is None else (_lines(file), str(file))
    if len(found) > MOST_CLASSES:
        raise UserError(f"{origin}: {len(found)} classes; at most {MOST_CLASSES} fit in a label PNG, name fewer")
    return found, origin


def class_names(text: str | None) -> list[str]:
    """Names in ``cat, dog, grass``, each once; none where no list is given.

    Raises:
        UserError: the list is empty, or parted by something else.
    """
    if text is not None and ";" in text:
        raise UserError("--classes: commas part the names; write it like --classes 'cat, dog, grass'")
    names = list(dict.fromkeys(name.strip() for name in (text or "").split(",") if name.strip()))
    if text is not None and not names:
        raise UserError("--classes: no name is in the list; write it like --classes 'cat, dog, grass'")
    return names


def _lines(file: Path) -> list[list[str]]:
    """One class a line, further names of it after ', '; empty lines are left out."""
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise UserError(
            f"--classes-file: {file} cannot be read ({reason}); give a text file, one class a line"
        ) from None
    found: list[list[str]] = []
    for number, line in enumerate(lines, start=1):
        if line.startswith("#"):
            raise UserError(f"{file}: line {number} starts with '#'; every line is a class, take it out")
        names = [name.strip() for name in line.split(", ")] if line.strip() else []
        if not all(names):
            raise UserError(f"{file}: line {number} has an empty name; write it like 'cat' or 'sofa, couch'")
        if names in found:
            raise UserError(f"{file}: line {number} has '{line.strip()}' a second time; leave it out")
        found += [names] if names else []
    if not found:
        raise UserError(f"{file}: no class is in the file; write one a line, like 'cat' or 'sofa, couch'")
    return found


def with_background(listed: Sequence[Sequence[str]], asked: Sequence[Sequence[str]]) -> list[list[str]]:
    """A user's classes behind a data set's background as class 0.

    Background words that are among the user's are left out: a word cannot be both. A class that the user calls
    ``background`` takes the place of the data set's.

    Args:
        listed: classes of the data set, the background first.
        asked: the user's.
    """
    own = [list(names) for names in asked if names[0].lower() == BACKGROUND]
    others = [list(names) for names in asked if names[0].lower() != BACKGROUND]
    named = {name for names in others for name in names}
    return [own[0] if own else [word for word in listed[0] if word not in named] or [BACKGROUND], *others]
