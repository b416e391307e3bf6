"""The captions of a collection's files, in order, with a count of what was left out and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ovss.errors import UserError
from ovss.retrieval.formats import HINTS, READERS
from ovss.retrieval.rows import Skipped


@dataclass(frozen=True)
class CaptionFile:
    """A file (or folder) and the name of its format, a key of ``ovss.retrieval.formats.READERS``."""

    path: Path
    format: str


@dataclass
class Tally:
    """What was read: captions of each file, and rows left out by file and by reason."""

    rows: dict[Path, int] = field(default_factory=dict)
    skipped: dict[Path, Counter[str]] = field(default_factory=dict)

    def reasons(self) -> Counter[str]:
        """Rows left out by reason, over all files."""
        return sum(self.skipped.values(), Counter())


def caption_files(sources: Sequence[Mapping[str, Any]], inputs: Mapping[str, Path]) -> list[CaptionFile]:
    """Files of a job's parameter ``sources``: {"input", "format", "files"} each, in order.

    Raises:
        UserError: an unknown format or input, or no file.
    """
    found = []
    for source in sources:
        if source["format"] not in READERS:
            raise UserError(f"captions: format '{source['format']}' is none of {', '.join(READERS)}")
        if source["input"] not in inputs:
            raise UserError(f"captions: '{source['input']}' is not among the inputs ({', '.join(inputs)})")
        found += [CaptionFile(inputs[source["input"]] / name, source["format"]) for name in source["files"]]
    if not found:
        raise UserError("captions: no file is named under 'sources'; name at least one")
    return found


def read_captions(files: Sequence[CaptionFile], scratch: Path, tally: Tally) -> Iterator[str]:
    """Captions of the files one after the other; rows without one are counted in ``tally``.

    Args:
        files: what to read.
        scratch: folder for what has to be unpacked before it can be read.
        tally: filled while the captions are read.

    Raises:
        UserError: a file is missing, empty or damaged, none of its rows is a caption, or more than half are bad.
    """
    for file in files:
        if not file.path.exists():
            raise UserError(f"{file.path}: this file is missing; fetch it again")
        if file.path.is_file() and not file.path.stat().st_size:
            raise UserError(f"{file.path}: this file is empty; fetch it again")
        skipped = tally.skipped.setdefault(file.path, Counter())
        bad = 0
        tally.rows.setdefault(file.path, 0)
        for row in READERS[file.format](file.path, scratch):
            if isinstance(row, Skipped):
                skipped[row.reason] += 1
                bad += row.bad
            else:
                tally.rows[file.path] += 1
                yield row
        _judge(file, tally.rows[file.path], bad, skipped)


def _judge(file: CaptionFile, good: int, bad: int, skipped: Mapping[str, int]) -> None:
    if good and bad <= good:
        return
    rows = good + sum(skipped.values())
    share = f"{bad} of its {rows} rows are no captions" if good else f"none of its {rows} rows is a caption"
    reasons = ", ".join(f"{reason}: {count}" for reason, count in sorted(skipped.items())) or "there are none"
    hint = HINTS.get(file.format, f"is its format '{file.format}'?")
    raise UserError(f"{file.path}: {share} ({reasons}); {hint} Fetch it again, or correct its entry in datasets.yaml")
