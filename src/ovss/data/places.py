"""Where files lie that a person places by hand, and unfinished downloads (both relative to the repository)."""

from __future__ import annotations

from pathlib import Path

MANUAL = Path("data") / "manual"
PARTIAL = Path("data") / "partial"


def manual_path(archive: str, file: str) -> Path:
    """Where a person places a file of an archive (or of a model)."""
    return MANUAL / archive / file
