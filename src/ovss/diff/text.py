"""The comparison as text for a terminal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from ovss.diff.compare import Change, Comparison
from ovss.diff.results import Side

_HEADER = ("row", "column", "before", "after", "difference", "interval", "verdict")


def report(scale: str, before: Side, after: Side, comparison: Comparison) -> str:
    """A heading, one block per table with changes, and what only one side has."""
    parts = [f"{scale}: {before.name} -> {after.name}"]
    for table, equal in comparison.equal.items():
        changes = [change for change in comparison.changes if change.table == table]
        if changes:
            parts.append(_block(table, equal, changes))
    parts += [f"{name}: only at {before.name}" for name in comparison.only_before]
    parts += [f"{name}: only at {after.name}" for name in comparison.only_after]
    if comparison.claims:
        turned = (f"  {name}: {old} -> {new}" for name, (old, new) in comparison.claims.items())
        parts.append("\n".join(["claims", *turned]))
    same = [f"{table} ({equal} cells)" for table, equal in comparison.equal.items()
            if not any(change.table == table for change in comparison.changes)]  # fmt: skip
    if same:
        parts.append(f"equal: {', '.join(same)}")
    return "\n\n".join(parts)


def _block(table: str, equal: int, changes: Sequence[Change]) -> str:
    counts = Counter(change.status for change in changes)
    summary = ", ".join([*(f"{count} {status}" for status, count in counts.items()), f"{equal} equal"])
    known = [abs(value) for change in changes for value in (change.before, change.after) if value is not None]
    places = 2 if max(known) > 2 else 4  # shares need more decimals than percentages
    lines = [f"{table}: {summary}", *_columns([_HEADER, *(_line(change, places) for change in changes)])]
    return "\n".join(lines + [f"  because of {reason}" for reason in _reasons(changes)])


def _line(change: Change, places: int) -> tuple[str, ...]:
    before, after = ("-" if value is None else f"{value:.{places}f}" for value in (change.before, change.after))
    difference = interval = ""
    if change.before is not None and change.after is not None:
        difference = f"{change.after - change.before:+.{places}f}"
    if change.interval is not None:
        interval = f"[{change.interval[0]:+.{places}f}, {change.interval[1]:+.{places}f}]"
    verdict = f"{change.status}: {change.note}" if change.note else change.status
    return (change.row, change.column, before, after, difference, interval, verdict)


def _columns(lines: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(line[index]) for line in lines) for index in range(len(_HEADER))]
    return [("  " + "  ".join(_pad(text, widths[index], index) for index, text in enumerate(line))).rstrip()
            for line in lines]  # fmt: skip


def _pad(text: str, width: int, index: int) -> str:
    return text.rjust(width) if 2 <= index <= 5 else text.ljust(width)


def _reasons(changes: Iterable[Change]) -> list[str]:
    """Each differing part once, with the cells it belongs to."""
    cells: dict[str, list[str]] = {}
    for change in changes:
        for part in change.parts:
            cells.setdefault(part, []).append(f"{change.row}/{change.column}")
    return [f"{part}  ({_few(names)})" for part, names in cells.items()]


def _few(names: Sequence[str]) -> str:
    return ", ".join(names) if len(names) <= 3 else f"{', '.join(names[:2])} and {len(names) - 2} more"
