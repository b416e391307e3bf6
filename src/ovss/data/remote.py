"""What is known of a downloadable file, and whether given bytes are that file."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ovss.errors import UserError

HASHES = ("sha256", "sha1", "md5")
"""Hash kinds, the one to trust most first; the last two guard against damage only."""


@dataclass(frozen=True)
class RemoteFile:
    """What is known of a file: its name, where it is, its size in bytes and its hashes (hexadecimal)."""

    name: str
    urls: tuple[str, ...] = ()
    size: int | None = None
    sha256: str | None = None
    sha1: str | None = None
    md5: str | None = None

    @classmethod
    def of(cls, entry: Mapping[str, Any]) -> RemoteFile:
        """From a file entry of a job's parameters (``name``, ``url``, ``mirrors``, ``size``, hashes)."""
        urls = tuple(filter(None, [entry.get("url"), *entry.get("mirrors", ())]))
        return cls(entry["name"], urls, **{key: entry.get(key) for key in ("size", *HASHES)})

    @property
    def strongest(self) -> tuple[str, str] | None:
        """The most trustworthy hash that is known: (kind, digits)."""
        return next(((kind, value) for kind in HASHES if (value := getattr(self, kind))), None)


def problem_of(path: Path, file: RemoteFile) -> str | None:
    """Why the bytes at ``path`` are not the file, cheapest check first; None = they are (as far as can be told)."""
    size = path.stat().st_size
    with path.open("rb") as stream:
        head = stream.read(512).lstrip().lower()
    if head.startswith((b"<!doctype html", b"<html")) and not file.name.endswith((".html", ".htm")):
        return "it is a web page, not the file (a login or a confirmation is asked for)"
    if size == 0:
        return "it is empty"
    if file.size is not None and size != file.size:
        return f"it has {size} bytes instead of {file.size}" + (" (cut short)" if size < file.size else "")
    if file.strongest is None:
        return None
    kind, expected = file.strongest
    found = digest(path, kind)
    return None if found == expected else f"its {kind} is {found} instead of {expected}"


def verify(path: Path, file: RemoteFile) -> dict[str, Any]:
    """Check a file against what is known of it.

    Returns:
        {"size", "sha256", "verified_by": kind of the hash that was compared, or None}; sha256 is always measured.

    Raises:
        UserError: the file is missing, or is not the expected one.
    """
    if not path.is_file():
        raise UserError(f"{path}: this file is missing")
    if problem := problem_of(path, file):
        raise UserError(f"{path}: {problem}; delete it and fetch it again")
    kind = file.strongest[0] if file.strongest else None
    sha256 = file.sha256 if kind == "sha256" else digest(path, "sha256")
    return {"size": path.stat().st_size, "sha256": sha256, "verified_by": kind}


def digest(path: Path, kind: str) -> str:
    """Hexadecimal hash of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, kind).hexdigest()


def place(source: Path, target: Path) -> None:
    """Give a file a second name (hard link), or copy it where the file system cannot."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
