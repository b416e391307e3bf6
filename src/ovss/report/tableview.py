"""A paper's table as the page shows it: our block, the published block, and a reason for every empty cell."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ovss.report import formats
from ovss.report.origins import Entry, keys_of
from ovss.report.rownames import label_order, row_names

STATES = ("computed", "cited", "not implemented", "not run", "refused", "blank")
SYMBOLS = {"within": "✓", "off": "✗"}
BADGES = {"citation": "cited", "not_implemented": "not implemented", "extra": "our own row", "derived": "derived"}
_PUBLISHED_ONLY = "no number of ours and no reason recorded in the table file"


@dataclass(frozen=True)
class Column:
    """A value column."""

    id: str
    label: str
    dataset: str
    unit: str
    arrow: str
    places: int
    own: bool
    top: float


@dataclass(frozen=True)
class Cell:
    """One cell of our block. ``state`` is one of STATES; bar positions are percent of the column's width."""

    state: str
    text: str = ""
    interval: str = ""
    bar: tuple[float, float, float] | None = None
    mark: float | None = None
    verdict: str = ""
    difference: str = ""
    note: str = ""
    anchor: str = ""
    tooltip: str = ""
    value: float | None = None


@dataclass(frozen=True)
class Row:
    """One line: names, our cells (or one reason for all of them), published values."""

    id: str
    kind: str
    labels: list[str]
    name: str
    badge: str
    reason: str
    cells: list[Cell]
    published: list[str]
    recipe: list[tuple[str, str]]


@dataclass
class Footnotes:
    """Reasons for empty cells, each with one mark: a, b, ..., z, aa, ..."""

    marks: dict[str, str] = field(default_factory=dict)

    def mark(self, reason: str) -> str:
        """The mark of a reason, a new one if it has none yet."""
        if reason not in self.marks:
            self.marks[reason] = _letters(len(self.marks))
        return self.marks[reason]


def _letters(index: int) -> str:
    head, tail = divmod(index, 26)
    return (_letters(head - 1) if head else "") + chr(ord("a") + tail)


@dataclass(frozen=True)
class TableView:
    """A whole table, ready for the template."""

    paper: str
    id: str
    anchor: str
    title: str
    metric: str
    unit: str
    direction: str
    note: str
    key_columns: list[str]
    columns: list[Column]
    rows: list[Row]
    notes: list[tuple[str, str]]
    counts: Counter[str]

    @property
    def own_columns(self) -> list[Column]:
        """Columns that something of ours can stand in."""
        return [column for column in self.columns if column.own]

    @property
    def computes(self) -> bool:
        """Whether a row of the table is ours to compute."""
        return any(row.kind != "citation" for row in self.rows) and bool(self.own_columns)


def build(table: Mapping[str, Any], entries: Mapping[str, Entry]) -> TableView:
    """Turn a table.json into what the template shows; ``entries``: the rows' origins by key."""
    columns = [_column(column, table) for column in table["columns"]]
    notes, counts = Footnotes(), Counter[str]()
    names = row_names(table)
    rows = [_row(row, names[row["id"]], table, columns, entries, notes) for row in table["rows"]]
    for row, source in zip(rows, table["rows"], strict=True):
        counts.update(_states(row, source, columns))
    better = table["higher_is_better"]
    return TableView(
        paper=table["paper"], id=table["table"], anchor=formats.slug(table["paper"], table["table"]),
        title=table["title"], metric=table["metric"], unit=table["unit"] or "",
        direction="" if better is None else "higher is better" if better else "lower is better",
        note=table.get("note") or "", key_columns=label_order(table["key_columns"]), columns=columns, rows=rows,
        notes=[(mark, reason) for reason, mark in notes.marks.items()], counts=counts,
    )  # fmt: skip


def _cells(table: Mapping[str, Any], column: str) -> list[Mapping[str, Any]]:
    return [row["cells"][column] for row in table["rows"] if column in row["cells"]]


def _column(column: Mapping[str, Any], table: Mapping[str, Any]) -> Column:
    cells = _cells(table, column["id"])
    unit = column.get("unit") or table["unit"] or ""
    better = column.get("higher_is_better")
    better = table["higher_is_better"] if better is None else better
    published = [cell.get("published") for cell in cells]
    own = any(cell.get("ours") is not None for cell in cells) or column.get("dataset") is not None
    own = own or any(formats.is_number(value) for value in published)
    ends = [cell.get(name) for cell in cells for name in ("ours", "high")]
    if table["scale"] == "full":
        ends += published
    return Column(
        id=column["id"], label=column["label"], dataset=column.get("dataset") or "", unit=unit,
        arrow="" if better is None else "↑" if better else "↓", places=formats.decimals(published, unit), own=own,
        top=max((float(value) for value in ends if value is not None and formats.is_number(value)), default=0.0),
    )  # fmt: skip


def _row(
    row: Mapping[str, Any], name: str, table: Mapping[str, Any], columns: list[Column], entries: Mapping[str, Entry],
    notes: Footnotes,
) -> Row:  # fmt: skip
    labels = [formats.published(row["labels"].get(column)) for column in label_order(table["key_columns"])]
    reason = row.get("note") or ""
    if row["kind"] == "citation":
        reason = f"cited, never computed here{': ' + reason if reason else ''}"
    elif row["kind"] == "not_implemented":
        whys = [str(cell["why"]) for cell in row["cells"].values() if cell.get("why")]
        missing = [why for why in whys if "not implemented" in why] or whys
        reason = reason or (missing[0] if missing else "no method of that name in this version")
    own = [column for column in columns if column.own]
    spread = row["kind"] not in ("citation", "not_implemented")
    cells = [_cell(row, column, table["scale"], entries, notes) for column in own] if spread else []
    published = [formats.published(row["cells"].get(column.id, {}).get("published")) for column in columns]
    recipe = [("method", row.get("method") or ""), ("settings", formats.settings(row.get("settings"))),
              ("protocol", row.get("protocol") or ""), ("note", row.get("note") or "")]  # fmt: skip
    recipe = recipe if row["kind"] != "citation" else []
    return Row(row["id"], row["kind"], labels, name, BADGES.get(row["kind"], ""), reason,
               cells, published, [(label, str(text)) for label, text in recipe if text])  # fmt: skip


def _cell(
    row: Mapping[str, Any], column: Column, scale: str, entries: Mapping[str, Entry], notes: Footnotes
) -> Cell:  # fmt: skip
    cell = row["cells"].get(column.id, {})
    used = [entries[key] for key in keys_of(cell) if key in entries]
    refused = [entry.problem for entry in used if entry.problem]
    if refused:
        return Cell("refused", note=notes.mark(f"refused: {refused[0]}"), anchor=used[0].anchor)
    if cell.get("ours") is None:
        return Cell("not run", note=notes.mark(str(cell.get("why") or _PUBLISHED_ONLY)))
    return _own(cell, column, scale, used)


def _own(cell: Mapping[str, Any], column: Column, scale: str, used: list[Entry]) -> Cell:
    ours = cell["ours"]
    if not formats.is_number(ours):
        return Cell("computed", text=str(ours), tooltip=used[0].tooltip if used else "")
    known = formats.is_number(cell.get("low")) and formats.is_number(cell.get("high"))
    low, high = (float(cell[end]) if known else float(ours) for end in ("low", "high"))
    interval = f"{formats.number(low, column.places)} – {formats.number(high, column.places)}" if known else ""
    compare = scale == "full" and formats.is_number(cell.get("published"))
    target = float(cell["published"]) if compare else 0.0
    return Cell(
        "computed",
        text=formats.number(ours, column.places),
        interval=interval,
        bar=_bar(ours, low, high, column.top),
        mark=_percent(target, column.top) if compare and target >= 0 else None,
        verdict=cell.get("verdict", "") if compare else "",
        difference=formats.signed(ours - target, column.places) if compare else "",
        anchor=used[0].anchor if used else "",
        tooltip=used[0].tooltip if used else _without_origin(cell),
        value=float(ours),
    )


def _without_origin(cell: Mapping[str, Any]) -> str:
    keys = keys_of(cell)
    return f"key {', '.join(keys)}; its origin was not handed to this page" if keys else "computed from other cells"


def _percent(value: float, top: float) -> float:
    return round(100 * value / top, 1) if top > 0 else 0.0


def _bar(ours: float, low: float, high: float, top: float) -> tuple[float, float, float] | None:
    """Start, width and point of the interval's bar; None where the column has no scale from zero."""
    if top <= 0 or min(ours, low) < 0:
        return None
    start = _percent(low, top)
    return start, round(_percent(high, top) - start, 1), _percent(ours, top)


def _states(row: Row, source: Mapping[str, Any], columns: list[Column]) -> list[str]:
    own = iter(row.cells)
    states = []
    for column, published in zip(columns, row.published, strict=True):
        shown = next(own) if column.own and row.cells else None
        if row.kind == "citation" or not column.own:
            states.append("cited" if published else "blank")
        else:
            states.append("not implemented" if row.kind == "not_implemented" or shown is None else shown.state)
    return states
