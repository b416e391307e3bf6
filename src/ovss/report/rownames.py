"""What to call a row of a table in a figure or a list."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

_NAMES = ("method", "model")


def label_order(key_columns: Sequence[str]) -> list[str]:
    """Label columns with the one that names the method first: it stays in sight when a table is scrolled."""
    return sorted(key_columns, key=lambda column: column.lower() not in _NAMES)


def row_names(table: Mapping[str, Any]) -> dict[str, str]:
    """A short name of every row, by row id: its method, and where that is not enough the labels that differ."""
    order = label_order(table["key_columns"])
    heads = {row["id"]: _words(row, order[:1]) if order and order[0].lower() in _NAMES else "" for row in table["rows"]}
    often = Counter(heads.values())
    differ = [column for column in order if len({str(row["labels"].get(column)) for row in table["rows"]}) > 1]
    names = {}
    for row in table["rows"]:
        head = heads[row["id"]]
        names[row["id"]] = head if head and often[head] == 1 else _words(row, differ or order) or head or str(row["id"])
    return names


def _words(row: Mapping[str, Any], columns: Sequence[str]) -> str:
    """Labels in a few words: text as it is, numbers with their column's name."""
    labels = [(column, row["labels"].get(column)) for column in columns]
    return " · ".join(str(value) if isinstance(value, str) else f"{column} {value}"
                      for column, value in labels if value not in (None, ""))  # fmt: skip
