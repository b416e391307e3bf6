"""Numbers, names and durations as text."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

MINUS = "−"


def is_number(value: Any) -> bool:
    """Whether a cell's value is a number (a bool is not)."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def decimals(values: list[Any], unit: str) -> int:
    """Decimals to print a column with: as many as its published numbers have, else by unit."""
    shown = [str(value).partition(".")[2] for value in values if is_number(value)]
    return min(max((len(text) for text in shown), default=1 if unit == "%" else 3), 4)


def number(value: float, places: int) -> str:
    """A number with a typographic minus; a rounded zero has no sign."""
    text = f"{value:.{places}f}"
    return (MINUS if text.startswith("-") and float(text) else "") + text.lstrip("-")


def signed(value: float, places: int) -> str:
    """A difference: always with its sign."""
    text = number(value, places)
    return text if text.startswith(MINUS) or not float(text) else f"+{text}"


def published(value: Any) -> str:
    """A published value exactly as the table has it; '' for none."""
    text = "" if value is None else str(value)
    return number(value, len(text.partition(".")[2])) if is_number(value) and "e" not in text else text


def duration(seconds: float | None) -> str:
    """Seconds as s, min or h."""
    if seconds is None:
        return "unknown"
    if seconds < 60:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 3600 else f"{seconds / 3600:.1f} h"


def memory(size: float | None) -> str:
    """Bytes as MiB or GiB."""
    if size is None:
        return "unknown"
    return f"{size / 2**20:.0f} MiB" if size < 2**30 else f"{size / 2**30:.1f} GiB"


def title(name: str) -> str:
    """A table's id in words: table5a is Table 5a, readme_results is readme results."""
    found = re.fullmatch(r"table_?(\w+)", name)
    return f"Table {found[1]}" if found else name.replace("_", " ")


def titles(names: Sequence[str]) -> str:
    """Several tables in words: Tables 2, 3 and readme results."""
    words = [title(name) for name in names]
    numbers = [word.removeprefix("Table ") for word in words if word.startswith("Table ")]
    first = [f"Table{'s' if len(numbers) > 1 else ''} {', '.join(numbers)}"] if numbers else []
    return ", ".join([*first, *(word for word in words if not word.startswith("Table "))])


def slug(*parts: str) -> str:
    """An identifier for anchors and file names, from letters, digits and dashes."""
    return "-".join(re.sub(r"[^a-z0-9]+", "-", part.lower()).strip("-") or "x" for part in parts)


def settings(values: Mapping[str, Any] | None) -> str:
    """A settings mapping on one line, nested ones dotted: ``variant=MaskCLIP, family=full_block``."""
    return ", ".join(f"{name}={value}" for name, value in flat(values or {}).items())


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested mapping with dotted names."""
    pairs: dict[str, Any] = {}
    for name, value in values.items():
        pairs |= flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return pairs
