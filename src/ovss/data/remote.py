"""What is known of a downloadable file, and whether given bytes are that file."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ovss.errors import UserError

HASHES = ("sha256", "sha1", "md5")
"""Hash kinds, the one to trust most first; the last two guard against damage only."""
_HEAD = 1024
_PAGE = re.compile(rb"(\xef\xbb\xbf)?\s*(<\?xml[^>]*>\s*)?(<!--.*?-->\s*)*<(!doctype\s+html|html|head|body)\b", re.S)


@dataclass(frozen=True)
class RemoteFile:
    """What is known of a file: its name, where it is, its size in bytes and its hashes (hexadecimal).

    ``lock``: the file that the sha256 is from, where none is published.
    """

    name: str
    urls: tuple[str, ...] = ()
    size: int | None = None
    sha256: str | None = None
    sha1: str | None = None
    md5: str | None = None
    lock: str | None = None

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
        head = stream.read(_HEAD).lower()
    if _PAGE.match(head) and not file.name.endswith((".html", ".htm")):
        return "it is a web page, not the file (a login or a confirmation is asked for)"
    if size == 0:
        return "it is empty"
    if file.size is not None and size != file.size:
        return f"it has {size} bytes instead of {file.size}" + (" (cut short)" if size < file.size else "")
    if file.strongest is None:
        return None
    kind, expected = file.strongest
    found = digest(path, kind)
    if found == expected:
        return None
    if file.lock is None:
        return f"its {kind} is {found} instead of {expected}"
    return (
        f"its sha256 is {found}, at the first use it was {expected}; if the new file is wanted, state its sha256 in "
        f"datasets.yaml or weights.yaml and delete {file.lock}"
    )


def verify(path: Path, file: RemoteFile) -> dict[str, Any]:
    """Check a file against what is known of it.

    Returns:
        {"size", "sha256", "verified_by": kind of the hash that was compared, "first use", or None}; sha256 is always
        measured.

    Raises:
        UserError: the file is missing, or is not the expected one.
    """
    if not path.is_file():
        raise UserError(f"{path}: this file is missing")
    if problem := problem_of(path, file):
        raise UserError(f"{path}: {problem}; {'otherwise ' if file.lock else ''}delete it and fetch it again")
    kind = file.strongest[0] if file.strongest else None
    sha256 = file.sha256 if kind == "sha256" else digest(path, "sha256")
    return {"size": path.stat().st_size, "sha256": sha256, "verified_by": "first use" if file.lock else kind}


def digest(path: Path, kind: str) -> str:
    """Hexadecimal hash of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, kind).hexdigest()


def place(source: Path, target: Path) -> None:
    """Give a file a second name (hard link), or copy it where the file system cannot."""
    try:
        os.link(source, target)
    except OSError:
        copy(source, target)


def copy(source: Path, target: Path) -> None:
    """Copy a file; its name appears when it is whole.

    Raises:
        UserError: there is no room.
    """
    temporary = target.with_name(f"{target.name}.part-{os.getpid()}")
    try:
        shutil.copyfile(source, temporary)
        os.replace(temporary, target)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise UserError(f"{target}: the disk is full; make room and start again") from error
        raise
    finally:
        temporary.unlink(missing_ok=True)


def move(source: Path, target: Path) -> None:
    """Rename a file, or copy and delete it where the target lies on another file system.

    Raises:
        UserError: there is no room.
    """
    try:
        os.replace(source, target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        copy(source, target)
        source.unlink()
