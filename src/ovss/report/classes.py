"""Per-class IoU of every row on a data set, for the heat map and its table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ovss.errors import UserError
from ovss.report.inputs import read_json
from ovss.report.rownames import row_names

MOST_ROWS, MOST_CLASSES = 24, 60


@dataclass(frozen=True)
class PerClass:
    """Per-class IoU on one data set.

    values: (C, M) float64 percent, nan where a class occurs neither in labels nor in predictions. shown: the classes
    of the figure, in class order; where there are too many, those on which the rows differ most.
    """

    dataset: str
    title: str
    classes: list[str]
    names: list[str]
    values: npt.NDArray[np.float64]
    shown: list[int]
    left_out: int

    @property
    def lines(self) -> list[tuple[str, list[str]]]:
        """Class name and its values as text."""
        return [(name, ["–" if np.isnan(value) else f"{value:.1f}" for value in row])
                for name, row in zip(self.classes, self.values, strict=True)]  # fmt: skip


def collect(
    tables: Iterable[tuple[Mapping[str, Any], Path]], datasets: Mapping[str, Mapping[str, Any]]
) -> list[PerClass]:
    """Per-class IoU by data set, in the order of ``datasets``; a run that stands in two tables is listed once.

    Args:
        tables: table.json content and the directory with its per_class.json ({row: {column: [C values or null]}}).
        datasets: title and class_names by data set name.

    Raises:
        UserError: a row has another number of classes than its data set.
    """
    found: dict[str, dict[str, tuple[Any, list[float | None]]]] = {}
    for table, directory in tables:
        path = directory / "per_class.json"
        values = read_json(path) if path.is_file() else {}
        names = row_names(table)
        for row in table["rows"]:
            for column in table["columns"]:
                one = values.get(row["id"], {}).get(column["id"])
                if one is not None and column.get("dataset") in datasets:
                    _check(path, row["id"], one, datasets[column["dataset"]])
                    rows = found.setdefault(column["dataset"], {})
                    _add(rows, names[row["id"]], table["table"], column["label"], row["cells"][column["id"]], one)
    return [_per_class(name, datasets[name], found[name]) for name in datasets if name in found]


def _check(path: Path, row: str, values: list[float | None], dataset: Mapping[str, Any]) -> None:
    if len(values) != len(dataset["class_names"]):
        raise UserError(f"{path}: row '{row}' has {len(values)} classes, its data set has "
                        f"{len(dataset['class_names'])}; delete the folder and rerun its job")  # fmt: skip


def _add(
    rows: dict[str, tuple[Any, list[float | None]]], name: str, table: str, column: str, cell: Mapping[str, Any],
    values: list[float | None],
) -> None:  # fmt: skip
    """Add a row under the shortest name that is free."""
    if any(key == cell.get("key") for key, _ in rows.values()):
        return
    wanted = [name, f"{name} ({table})", f"{name} ({table}, {column})"]
    free = next((text for text in wanted if text not in rows), f"{wanted[-1]} {len(rows)}")
    rows[free] = (cell.get("key"), values)


def _per_class(name: str, dataset: Mapping[str, Any], rows: Mapping[str, tuple[Any, list[float | None]]]) -> PerClass:
    shown = list(rows)[:MOST_ROWS]
    values = np.array([[np.nan if value is None else value for value in rows[row][1]] for row in shown], np.float64).T
    filled = np.nan_to_num(values)
    spread = filled.max(axis=1) - filled.min(axis=1)
    order = sorted(np.argsort(-spread, kind="stable")[:MOST_CLASSES].tolist())
    return PerClass(name, str(dataset.get("title", name)), [str(label) for label in dataset["class_names"]], shown,
                    values, order, len(rows) - len(shown))  # fmt: skip
