"""One paper table, cell by cell: own value with its interval, verdict, or the reason for having none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ovss.errors import UserError
from ovss.evaluation.bootstrap import Resampled, mean
from ovss.report.rows import Measure, Rows, Score, rounded


@dataclass(frozen=True)
class Grid:
    """The resolved table of the job's parameters, its row directories and what has been computed so far.

    Derived rows and columns are computed from other cells resample by resample, so that their intervals keep what
    the parts have in common; a derived row is taken apart first, then a derived column.
    """

    spec: Mapping[str, Any]
    rows: Rows
    _known: dict[tuple[str, str], Score | UserError] = field(default_factory=dict)

    def measure(self, column: str) -> Measure:
        """Metric and absent-class convention of a column: its own, else the table's."""
        own = self._by_id("columns", column)
        metric, absent = (own.get(name) or self.spec.get(name) for name in ("metric", "absent"))
        return Measure(str(metric), absent or "skip")

    def score(self, row: str, column: str) -> Score:
        """The cell's number.

        Raises:
            UserError: the reason why the cell has none.
        """
        place = (row, column)
        if place not in self._known:
            self._known[place] = UserError(f"cell {row} / {column} is derived from itself")
            try:
                self._known[place] = self._compute(row, column)
            except UserError as error:
                self._known[place] = error
        found = self._known[place]
        if isinstance(found, UserError):
            raise found
        return found

    def _compute(self, row: str, column: str) -> Score:
        line = self._by_id("rows", row)
        if line.get("derived"):
            return self._combine(line["derived"], {part: (part, column) for part in _parts(line["derived"])})
        derived = self.spec.get("derived", {}).get(column)
        if derived:
            return self._combine(derived, {part: (row, part) for part in _parts(derived)})
        cell = line.get("cells", {}).get(column, {})
        if not cell.get("inputs"):
            raise UserError(_why_empty(line, cell))
        measure = self.measure(column)
        return self.rows.score(cell["inputs"], replace(measure, metric=cell.get("metric", measure.metric)))

    def _combine(self, derived: Mapping[str, Any], places: Mapping[str, tuple[str, str]]) -> Score:
        parts = []
        for name, place in places.items():
            try:
                parts.append(self.score(*place))
            except UserError as error:
                raise UserError(f"needs {name}: {error}") from error
        keys = tuple(dict.fromkeys(key for part in parts for key in part.keys))
        return Score(combine(derived, [part.resampled for part in parts]), keys)

    def keys(self, row: str, column: str) -> tuple[str, ...]:
        """Keys of the row directories of a cell, also where they are refused."""
        cell = self._by_id("rows", row).get("cells", {}).get(column, {})
        return self.rows.keys(cell.get("inputs", ()))

    def _by_id(self, kind: str, name: str) -> Mapping[str, Any]:
        for entry in self.spec[kind]:
            if entry["id"] == name:
                found: Mapping[str, Any] = entry
                return found
        raise UserError(f"{name!r} is not among the table's {kind}")


def _why_empty(row: Mapping[str, Any], cell: Mapping[str, Any]) -> str:
    """Why nothing is computed in a cell."""
    if row["kind"] == "citation":
        return row.get("note") or "number quoted by the paper, not computed here"
    return cell.get("why") or row.get("note") or "nothing is planned for this cell"


def _parts(derived: Mapping[str, Any]) -> list[str]:
    return list(derived.get("mean_of") or derived["difference_of"])


def combine(derived: Mapping[str, Any], parts: Sequence[Resampled]) -> Resampled:
    """Apply ``mean_of`` or ``difference_of`` (first minus second)."""
    return mean(parts) if derived.get("mean_of") else parts[0] - parts[1]


@dataclass(frozen=True)
class Comparison:
    """When an own number is held against the published one: only at full scale, by a tolerance in the metric's unit."""

    scale: str
    tolerance: float | None

    def verdict(self, published: Any, ours: float, low: float, high: float) -> str:
        """ "within": |ours - published| <= tolerance or the interval covers it, else "off"; "effect_only" elsewhere."""
        number = isinstance(published, int | float) and not isinstance(published, bool)
        if self.scale != "full" or self.tolerance is None or not number:
            return "effect_only"
        near = abs(ours - published) <= self.tolerance + 1e-9
        return "within" if near or low <= published <= high else "off"


def cell(grid: Grid, row: Mapping[str, Any], column: str, comparison: Comparison) -> dict[str, Any]:
    """One cell as table.json has it."""
    published = row.get("published", {}).get(column)
    out: dict[str, Any] = {"published": published, "ours": None, "low": None, "high": None, "difference": None,
                           "images": None, "why": None, "key": _key(grid.keys(row["id"], column))}  # fmt: skip
    try:
        score = grid.score(row["id"], column)
    except UserError as error:
        return out | {"verdict": "citation" if row["kind"] == "citation" else "not_run", "why": str(error)}
    ours, low, high = (rounded(value) for value in score.resampled.interval(grid.rows.bootstrap.level))
    verdict = comparison.verdict(published, ours, low, high)
    difference = rounded(ours - published) if verdict in ("within", "off") else None
    return out | {"ours": ours, "low": low, "high": high, "verdict": verdict, "difference": difference,
                  "images": len(score.images) or None, "key": _key(score.keys)}  # fmt: skip


def _key(keys: Sequence[str]) -> str | list[str] | None:
    """None, one key, or the keys of all shards and parts."""
    return None if not keys else keys[0] if len(keys) == 1 else list(keys)


def per_class(grid: Grid, row: str, column: str) -> list[float | None] | None:
    """IoU of every class in percent (null: absent), or None where the cell has no counts of its own."""
    try:
        classes = grid.score(row, column).classes
    except UserError:
        return None
    return None if classes is None else [None if np.isnan(value) else rounded(value) for value in classes]
