"""Bars of our numbers: one panel per column, one bar per row, with intervals, as a small SVG."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from ovss.report.colours import EXTRA, INK, LINE, MUTED, OWN, PAPER, PUBLISHED
from ovss.report.tableview import Cell, Column, Row, TableView

_PANELS, _PANEL, _GAP, _STEP, _HEAD, _FOOT = 4, 150, 20, 19, 26, 26
_LONGEST = 34


def draw(table: TableView) -> str:
    """The chart of a table; '' if fewer than two rows have numbers."""
    rows = [row for row in table.rows if any(cell.value is not None for cell in row.cells)]
    shown = [i for i in range(len(table.own_columns)) if any(row.cells[i].value is not None for row in rows)]
    if len(rows) < 2 or not shown:
        return ""
    left = 14 + 6.6 * max(len(_short(row.name)) for row in rows)
    wide = min(len(shown), _PANELS)
    height = _HEAD + _STEP * len(rows) + _FOOT
    size = left + wide * (_PANEL + _GAP), math.ceil(len(shown) / wide) * height
    parts = []
    for place, index in enumerate(shown):
        x, y = left + place % wide * (_PANEL + _GAP), place // wide * height
        cells = [row.cells[index] for row in rows]
        names = rows if place % wide == 0 else []
        panel = _panel(table.own_columns[index], rows, cells, names)
        parts.append(f'<g transform="translate({x:.0f} {y})">{panel}</g>')
    return (f'<svg xmlns="http://www.w3.org/2000/svg" width="{size[0]:.0f}" height="{size[1]}" '
            f'viewBox="0 0 {size[0]:.0f} {size[1]}" font-family="system-ui, DejaVu Sans, sans-serif" font-size="11.5">'
            f'<rect width="100%" height="100%" fill="{PAPER}"/>{"".join(parts)}</svg>\n')  # fmt: skip


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST else f"{name[: _LONGEST - 1]}…"


def _panel(column: Column, rows: Sequence[Row], cells: Sequence[Cell], names: Sequence[Row]) -> str:
    low = min((cell.value for cell in cells if cell.value is not None), default=0.0)
    bottom = _HEAD + _STEP * len(rows)
    words = escape(f"{_short(column.label)} {column.arrow}")
    title = f'<text x="0" y="16" style="fill:{INK};font-weight:600">{words}</text>'
    labels = "".join(f'<text x="-8" y="{_HEAD + _STEP * i + 14}" text-anchor="end" style="fill:{INK}">'
                     f"{escape(_short(row.name))}</text>" for i, row in enumerate(names))  # fmt: skip
    if low < 0 or column.top <= 0:
        return f'{title}{labels}<text x="0" y="{_HEAD + 14}" style="fill:{MUTED}">negative: see table</text>'
    scale = _PANEL / (column.top * 1.04)
    grid = "".join(_tick(value, value * scale, bottom) for value in _ticks(column.top))
    bars = "".join(_bar(row, cell, column.top * scale / 100, _HEAD + _STEP * i)
                   for i, (row, cell) in enumerate(zip(rows, cells, strict=True)))  # fmt: skip
    return title + grid + labels + bars


def _ticks(top: float) -> list[float]:
    step = 10.0 ** math.floor(math.log10(top))
    step = next(step * part for part in (1, 0.5, 0.2) if top / (step * part) >= 2)
    return [step * i for i in range(math.floor(top / step) + 1)]


def _tick(value: float, x: float, bottom: float) -> str:
    return (f'<path d="M{x:.1f} {_HEAD - 4}V{bottom}" style="stroke:{LINE}"/>'
            f'<text x="{x:.1f}" y="{bottom + 14}" text-anchor="middle" style="fill:{MUTED}">'
            f"{value:.10g}</text>")  # fmt: skip


def _bar(row: Row, cell: Cell, percent: float, y: float) -> str:
    if cell.value is None or cell.bar is None:
        return f'<text x="4" y="{y + 14}" style="fill:{MUTED}">not run</text>'
    start, width, point = (value * percent for value in cell.bar)
    colour = EXTRA if row.kind == "extra" else OWN
    mark = ""
    if cell.mark is not None:
        mark = f'<path d="M{cell.mark * percent:.1f} {y + 2}v15" style="stroke:{PUBLISHED};stroke-width:2"/>'
    return (f'<rect x="0" y="{y + 3}" width="{point:.1f}" height="13" style="fill:{colour}"/>'
            f'<path d="M{start:.1f} {y + 9.5}h{width:.1f}" style="stroke:{INK};stroke-width:1.5"/>{mark}')  # fmt: skip
