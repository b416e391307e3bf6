"""Where files lie that a person places by hand, unfinished downloads, and locks (relative to the repository)."""

from __future__ import annotations

from pathlib import Path

MANUAL = Path("data") / "manual"
PARTIAL = Path("data") / "partial"
CHECKSUMS = Path("data") / "checksums"
"""Part of the repository, unlike the rest of ``data``."""


def manual_path(archive: str, file: str) -> Path:
    """Where a person places a file of an archive (or of a model)."""
    return MANUAL / archive / file
