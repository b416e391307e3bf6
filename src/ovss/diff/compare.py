"""Cell by cell: what changed, whether it is more than noise, and which parts of the key differ."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from ovss.diff.parts import directory_of, explain
from ovss.diff.results import Cell, Side
from ovss.errors import UserError
from ovss.evaluation.bootstrap import Resampled
from ovss.report.cells import combine
from ovss.report.rows import Bootstrap, Measure, Rows, rounded

# For a side without params.yaml; what params.yaml has by default.
_BOOTSTRAP = {"resamples": 1000, "level": 0.95}
_EMPTY = Cell(None, ())


@dataclass(frozen=True)
class Change:
    """One cell that is not the same on both sides.

    status: "changed" (the interval of the difference leaves 0 out), "within noise" (it covers 0), "not judged" (no
    interval, ``note`` says why), "recomputed" (another key, equal number), "only before", "only after".
    """

    table: str
    row: str
    column: str
    before: float | None
    after: float | None
    status: str
    interval: tuple[float, float] | None = None
    note: str = ""
    parts: tuple[str, ...] = ()


@dataclass(frozen=True)
class Comparison:
    """All changes, the number of equal cells per table, tables that only one side has, and claims that turned.

    claims: "paper/claim" with the verdict before and after ("absent" where a side does not have it).
    """

    changes: tuple[Change, ...]
    equal: Mapping[str, int]
    only_before: tuple[str, ...]
    only_after: tuple[str, ...]
    claims: Mapping[str, tuple[str, str]]


@dataclass(frozen=True)
class Evidence:
    """The row directories of one table at hand, to resample both sides of a cell in pairs."""

    repo: Path
    table: str
    before: Side
    after: Side
    bootstrap: Bootstrap
    _rows: dict[tuple[str, ...], Rows] = field(default_factory=dict)

    @cached_property
    def _definition(self) -> Mapping[str, Any]:
        return self.after.definition(self.table)

    @cached_property
    def _derived_rows(self) -> dict[str, Any]:
        rows = self._definition.get("rows") or ()
        return {str(row.get("id")): row["derived"] for row in rows if row.get("derived")}

    def difference(self, row: str, column: str, within: tuple[tuple[str, str], ...] = ()) -> Resampled:
        """after - before on the same resampled images; a derived cell is put together from its parts.

        Raises:
            UserError: why the two cannot be paired.
        """
        if (row, column) in within:
            raise UserError(f"{row} / {column} is derived from itself")
        within += ((row, column),)
        if rule := self._derived_rows.get(row):
            places = [(name, column) for name in rule.get("mean_of") or rule["difference_of"]]
        elif rule := (self._definition.get("derived") or {}).get(column):
            places = [(row, name) for name in rule.get("mean_of") or rule["difference_of"]]
        else:
            return self._direct(row, column)
        return combine(rule, [self.difference(*place, within) for place in places])

    def _direct(self, row: str, column: str) -> Resampled:
        sides = (self.before, self.after)
        keys = [side.tables[self.table].get((row, column), _EMPTY).keys for side in sides]
        if not all(keys):
            raise UserError(f"{row} / {column} has no key on one side")
        measures = [measure(side, self.table, column) for side in sides]
        if measures[0] != measures[1]:
            raise UserError(f"the metric changed from {measures[0]} to {measures[1]}")
        before, after = (self._rows_of(names).score(names, measures[0]) for names in keys)
        if before.images != after.images:
            raise UserError(f"other images ({len(before.images)} before, {len(after.images)} after)")
        if len(after.images) < 2:
            raise UserError("a single image cannot be resampled")
        return after.resampled - before.resampled

    def _rows_of(self, keys: tuple[str, ...]) -> Rows:
        if keys not in self._rows:
            found = {key: directory_of(self.repo, key) for key in keys}
            if missing := [key for key, directory in found.items() if directory is None]:
                raise UserError(f"row {missing[0]} is not under work/ ('dvc fetch' may have it)")
            self._rows[keys] = Rows({key: path for key, path in found.items() if path}, self.bootstrap)
        return self._rows[keys]


def measure(side: Side, table: str, column: str) -> Measure:
    """What a column of a table measures on one side: the column's own metric, else the table's."""
    place = (side.paper(table).get("columns") or {}).get(column) or {}
    definition = side.definition(table)
    return Measure(place.get("metric") or definition.get("metric") or "miou", definition.get("absent") or "skip")


def bootstrap(side: Side) -> Bootstrap:
    """Resamples, level and seed of one side's params.yaml."""
    params = side.params()
    scale = params.get(side.scale) or {}
    return Bootstrap.of({**_BOOTSTRAP, **(scale.get("bootstrap") or {})}, int(params.get("seed") or 0))


def compare(repo: Path, before: Side, after: Side) -> Comparison:
    """Compare two sides; cells that are equal in number and key are only counted."""
    changes: list[Change] = []
    equal: dict[str, int] = {}
    how = bootstrap(after)
    for name in sorted(before.tables.keys() & after.tables.keys()):
        evidence = Evidence(repo, name, before, after, how)
        # The order of the later table, then what only the earlier one has.
        places = dict.fromkeys([*after.tables[name], *before.tables[name]])
        found = {place: _change(evidence, place) for place in places}
        changes += [change for change in found.values() if change is not None]
        filled = [place for place, cell in after.tables[name].items() if cell.ours is not None]
        equal[name] = sum(found[place] is None for place in filled)
    return Comparison(
        tuple(changes),
        equal,
        tuple(sorted(before.tables.keys() - after.tables.keys())),
        tuple(sorted(after.tables.keys() - before.tables.keys())),
        _turned(before.claims(), after.claims()),
    )


def _turned(before: Mapping[str, str], after: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    pairs = {name: (before.get(name, "absent"), after.get(name, "absent")) for name in {**after, **before}}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def _change(evidence: Evidence, place: tuple[str, str]) -> Change | None:
    table = evidence.table
    old, new = (side.tables[table].get(place, _EMPTY) for side in (evidence.before, evidence.after))
    if (old.ours is None and new.ours is None) or old == new:
        return None
    if old.ours is None or new.ours is None:
        status = "only after" if old.ours is None else "only before"
        return Change(table, *place, old.ours, new.ours, status)
    parts = tuple(
        dict.fromkeys(line for pair in zip(old.keys, new.keys, strict=False) for line in explain(evidence.repo, *pair))
    )
    if old.ours == new.ours:
        return Change(table, *place, old.ours, new.ours, "recomputed", parts=parts)
    try:
        _, low, high = evidence.difference(*place).interval(evidence.bootstrap.level)
    except UserError as error:
        return Change(table, *place, old.ours, new.ours, "not judged", note=str(error), parts=parts)
    interval = rounded(low), rounded(high)
    status = "within noise" if interval[0] <= 0 <= interval[1] else "changed"
    return Change(table, *place, old.ours, new.ours, status, interval, parts=parts)
