"""Reading what the page is made of: tables, claims, rows with their origins, models' curves, the tiny world."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ovss import origin
from ovss.errors import UserError

KINDS = ("run", "citation", "not_implemented", "extra", "derived")
VERDICTS = ("supported", "contradicted", "inconclusive", "not_run")
_TABLE_FIELDS = (
    "paper",
    "table",
    "title",
    "metric",
    "unit",
    "higher_is_better",
    "scale",
    "key_columns",
    "columns",
    "rows",
)
_CLAIM_FIELDS = ("id", "text", "source", "verdict", "why", "explanation", "columns")


@dataclass(frozen=True)
class RowSource:
    """One row directory: where it is, its origin record ({} if unusable) and what is wrong with it ("" if nothing)."""

    name: str
    directory: Path
    record: Mapping[str, Any]
    problem: str

    @property
    def key(self) -> str:
        """Content key of the row, read from the folder's name (``<name>.<key>``)."""
        return self.directory.name.rpartition(".")[2]


@dataclass(frozen=True)
class Inputs:
    """Everything the page shows, checked for shape. Rows are by input name (``rows/3``, ``words/0``)."""

    tables: Mapping[str, list[dict[str, Any]]]
    table_folders: Mapping[tuple[str, str], Path]
    claims: Mapping[str, list[dict[str, Any]]]
    rows: Mapping[str, RowSource]
    sources: Mapping[str, Path]
    models: Mapping[str, Path]
    worlds: Mapping[str, Path]

    @property
    def rows_by_key(self) -> dict[str, RowSource]:
        """Every row once, by content key."""
        return {row.key: row for row in self.rows.values()}


def read_json(path: Path) -> Any:
    """Parse a JSON file.

    Raises:
        UserError: it is missing or not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read as JSON ({error}); delete the folder and rerun its job") from error


def group(inputs: Mapping[str, Path], prefix: str) -> dict[str, Path]:
    """Inputs named ``<prefix>/<rest>``, by <rest>, sorted with numbers as numbers (table9 before table10)."""
    found = {name.removeprefix(f"{prefix}/"): path for name, path in inputs.items() if name.startswith(f"{prefix}/")}
    return {name: found[name] for name in sorted(found, key=_natural)}


def _natural(name: str) -> list[tuple[int, str]]:
    return [(int(number or -1), text) for number, text in re.findall(r"(\d*)(\D*)", name)]


def _require(value: Any, fields: tuple[str, ...], path: Path, what: str) -> None:
    missing = [name for name in fields if not isinstance(value, dict) or name not in value]
    if missing:
        raise UserError(f"{path}: {what} lacks '{missing[0]}'; delete the folder and rerun its job")


def load_table(directory: Path) -> dict[str, Any]:
    """Read and check a table.json.

    Raises:
        UserError: a field is missing, or a row's kind is unknown.
    """
    path = directory / "table.json"
    table: dict[str, Any] = read_json(path)
    _require(table, _TABLE_FIELDS, path, "the table")
    for row in table["rows"]:
        _require(row, ("id", "labels", "kind", "cells"), path, "a row")
        if row["kind"] not in KINDS:
            raise UserError(f"{path}: row '{row['id']}' has kind '{row['kind']}', not one of {', '.join(KINDS)}")
    return table


def load_claims(directory: Path) -> dict[str, Any]:
    """Read and check a claims.json.

    Raises:
        UserError: a field is missing, or a verdict is unknown.
    """
    path = directory / "claims.json"
    claims: dict[str, Any] = read_json(path)
    _require(claims, ("paper", "claims"), path, "the file")
    for claim in claims["claims"]:
        _require(claim, _CLAIM_FIELDS, path, "a claim")
        if claim["verdict"] not in VERDICTS:
            raise UserError(
                f"{path}: claim '{claim['id']}' has verdict '{claim['verdict']}', not one of {', '.join(VERDICTS)}"
            )
    return claims


def load_row(name: str, directory: Path) -> RowSource:
    """A row directory with its origin; a missing or edited origin is kept as the reason to refuse its cells."""
    for problem in origin.problems(directory):
        return RowSource(name, directory, {}, problem.replace(f"{directory.parent}/", ""))
    return RowSource(name, directory, origin.read(directory).record, "")


def load(inputs: Mapping[str, Path]) -> Inputs:
    """Read every input directory of the report job.

    Raises:
        UserError: a table or claims file is damaged.
    """
    tables: dict[str, list[dict[str, Any]]] = {}
    folders: dict[tuple[str, str], Path] = {}
    named = group(inputs, "tables")
    # The numbered tables of a paper before those that this project adds.
    for name in sorted(named, key=lambda name: (name.split("/")[0], not name.split("/")[-1].startswith("table"))):
        directory = named[name]
        table = load_table(directory)
        folders[table["paper"], table["table"]] = directory
        tables.setdefault(table["paper"], []).append(table)
    claims = [load_claims(directory) for directory in group(inputs, "claims").values()]
    return Inputs(
        tables=tables,
        table_folders=folders,
        claims={found["paper"]: found["claims"] for found in claims},
        rows={
            f"{kind}/{name}": load_row(f"{kind}/{name}", directory)
            for kind in ("rows", "gallery", "words", "captioned")
            for name, directory in group(inputs, kind).items()
        },
        sources=group(inputs, "sources"),
        models=group(inputs, "models"),
        worlds=group(inputs, "world"),
    )
