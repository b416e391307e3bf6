"""Stage ``table``: joins published numbers and row directories into one table of a paper."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ovss.jobs import JobContext
from ovss.report.cells import Comparison, Grid, cell, per_class
from ovss.report.markdown import table_text
from ovss.report.rows import Bootstrap, Rows, write_json

CSV_HEADER = ("row", "column", "published", "ours", "low", "high", "verdict", "key")
_TABLE_FIELDS = ("title", "metric", "unit", "higher_is_better", "absent", "note", "key_columns", "columns", "derived")
_ROW_FIELDS = ("id", "labels", "kind", "note", "extra_of", "method", "model", "settings", "protocol", "derived")


def run(ctx: JobContext) -> dict[str, object]:
    """Write table.json, table.csv, table.md, metrics.json ({row: {column: value}}) and per_class.json.

    Raises:
        UserError: a cell names an input that the job does not have.
    """
    grid = Grid(ctx.params["table"], Rows(ctx.inputs, Bootstrap.of(ctx.params["bootstrap"], ctx.seed)))
    tolerance = ctx.params.get("tolerance")
    table = build(grid, ctx.params, Comparison(ctx.params["scale"], None if tolerance is None else float(tolerance)))
    write_json(ctx.out / "table.json", table)
    write_json(ctx.out / "metrics.json", metrics(table))
    write_json(ctx.out / "per_class.json", classes(grid, table))
    _write(ctx.out / "table.csv", csv_text(table))
    _write(ctx.out / "table.md", table_text(table))
    cells = [found for row in table["rows"] for found in row["cells"].values()]
    return {"cells": len(cells), "computed": sum(found["ours"] is not None for found in cells)}


def build(grid: Grid, params: Mapping[str, Any], comparison: Comparison) -> dict[str, Any]:
    """The content of table.json."""
    spec = grid.spec
    columns = [column["id"] for column in spec["columns"]]
    rows = [
        {name: row.get(name) for name in _ROW_FIELDS}
        | {"cells": {column: cell(grid, row, column, comparison) for column in columns}}
        for row in spec["rows"]
    ]
    return {name: spec.get(name) for name in _TABLE_FIELDS} | {
        "paper": params["paper"], "table": spec["id"], "scale": params["scale"], "seed": grid.rows.bootstrap.seed,
        "bootstrap": dict(params["bootstrap"]), "tolerance": comparison.tolerance, "rows": rows,
    }  # fmt: skip


def metrics(table: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Own values only, ``{row: {column: value}}``; rows without any are left out."""
    values = {
        row["id"]: {column: found["ours"] for column, found in row["cells"].items() if found["ours"] is not None}
        for row in table["rows"]
    }
    return {row: columns for row, columns in values.items() if columns}


def classes(grid: Grid, table: Mapping[str, Any]) -> dict[str, dict[str, list[float | None]]]:
    """IoU of every class in percent, ``{row: {column: [...]}}``, for the cells that have counts of their own."""
    values = {
        row: {column: found for column in columns if (found := per_class(grid, row, column)) is not None}
        for row, columns in metrics(table).items()
    }
    return {row: columns for row, columns in values.items() if columns}


def csv_text(table: Mapping[str, Any]) -> str:
    """One line per cell; an empty field is a missing value, several keys are joined by ';'."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(CSV_HEADER)
    for row in table["rows"]:
        for column, found in row["cells"].items():
            key = ";".join(found["key"]) if isinstance(found["key"], list) else found["key"]
            values = {**found, "row": row["id"], "column": column, "key": key}
            writer.writerow(["" if values[name] is None else values[name] for name in CSV_HEADER])
    return text.getvalue()


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8", newline="\n")
