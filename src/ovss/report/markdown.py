"""Tables and claims as Markdown, for reading in the repository."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ovss.report import formats

_MARKS = {"within": " ✓", "off": " ✗"}
_EFFECTS = (
    "Ours were computed on the procedurally generated world with models trained on it: the two numbers of a cell are "
    "not comparable, only effects between rows are."
)


def grid(header: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A Markdown table; bars and line breaks in cells are escaped."""
    rows = [header, ["---"] * len(header), *lines]
    return "".join(f"| {' | '.join(_escape(text) for text in row)} |\n" for row in rows)


def _escape(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def table_text(table: Mapping[str, Any]) -> str:
    """A paper's table, ``published / ours [low, high]`` in each cell, and the reasons of empty cells below it."""
    columns, labels = table["columns"], table["key_columns"]
    places = {column["id"]: _places(table, column) for column in columns}
    lines = [
        [f"{row['id']} †" if row["kind"] == "extra" else row["id"]]
        + [formats.published(row["labels"].get(name)) for name in labels]
        + [_cell(row["cells"][column["id"]], places[column["id"]]) for column in columns]
        for row in table["rows"]
    ]
    body = grid(["row", *labels, *(column["label"] for column in columns)], lines)
    unit = f" ({table['unit']})" if table["unit"] else ""
    parts = [f"# {table['paper']}, {table['table']}: {table['title']}", _legend(table, unit), body.rstrip("\n")]
    if any(row["kind"] == "extra" for row in table["rows"]):
        parts.append("† a row of our own that the paper does not have.")
    if reasons := _reasons(table):
        parts.append("Cells without a number of ours:\n\n" + "\n".join(f"* {reason}" for reason in reasons))
    return "\n\n".join(parts) + "\n"


def _legend(table: Mapping[str, Any], unit: str) -> str:
    level = 100 * table["bootstrap"]["level"]
    text = (f"{table['metric']}{unit}, scale {table['scale']}. Each cell: published / **ours** "
            f"[{level:g} % interval over images]; – = no number.")  # fmt: skip
    if table["scale"] != "full":
        computed = any(cell["ours"] is not None for row in table["rows"] for cell in row["cells"].values())
        return f"{text} {_EFFECTS}" if computed else text
    if table["tolerance"] is None:
        return text
    return f"{text} ✓: within {table['tolerance']:g} of the published number or the interval covers it; ✗: neither."


def _places(table: Mapping[str, Any], column: Mapping[str, Any]) -> int:
    published = [row["cells"][column["id"]]["published"] for row in table["rows"]]
    return formats.decimals(published, column.get("unit") or table["unit"] or "")


def _cell(cell: Mapping[str, Any], places: int) -> str:
    published = formats.published(cell["published"])
    if cell["ours"] is None:
        return f"{published} / –" if published and cell["verdict"] != "citation" else published or "–"
    ours, low, high = (formats.number(cell[name], places) for name in ("ours", "low", "high"))
    own = f"**{ours}** [{low}, {high}]{_MARKS.get(cell['verdict'], '')}"
    return f"{published} / {own}" if published else own


def _reasons(table: Mapping[str, Any]) -> list[str]:
    """``reason: row (column, column); row`` for each reason, in the order of the table; derived columns left out."""
    direct = [column["id"] for column in table["columns"] if column["id"] not in (table["derived"] or {})]
    found: dict[str, dict[str, list[str]]] = {}
    for row in table["rows"]:
        for column in direct:
            if row["cells"][column]["verdict"] == "not_run":
                found.setdefault(row["cells"][column]["why"], {}).setdefault(row["id"], []).append(column)
    lines = []
    for why, rows in found.items():
        names = [row if columns == direct else f"{row} ({', '.join(columns)})" for row, columns in rows.items()]
        lines.append(f"{why}: {'; '.join(names)}")
    return lines


def claims_text(claims: Mapping[str, Any]) -> str:
    """The claims of a paper: verdict with its explanation, difference with interval, and the columns one by one."""
    words = {"supported": "supported", "contradicted": "contradicted", "inconclusive": "inconclusive",
             "not_run": "not run"}  # fmt: skip
    level = 100 * claims["bootstrap"]["level"]
    lines = []
    for claim in claims["claims"]:
        numbers = [f"{entry['column']}: {_difference(entry)}" for entry in claim["columns"] if _has_number(entry)]
        left_out = [entry["column"] for entry in claim["columns"] if not _has_number(entry)]
        columns = "; ".join([*numbers, *([f"not run: {', '.join(left_out)}"] if numbers and left_out else [])])
        verdict = ". ".join(filter(None, [words[claim["verdict"]], claim.get("explanation")]))
        lines.append([claim["text"], claim["source"], verdict, _difference(claim), columns])
    header = ["claim", "source", "verdict", "mean difference", "columns"]
    note = (
        f"Scale {claims['scale']}. Differences are better minus worse on the same images with their {level:g} % "
        "interval. Supported: both ends of the interval bear the claim out; contradicted: neither does."
    )
    return f"# {claims['paper']}: claims\n\n{note}\n\n{grid(header, lines)}"


def _has_number(entry: Mapping[str, Any]) -> bool:
    return entry["difference"] is not None


def _difference(entry: Mapping[str, Any]) -> str:
    if not _has_number(entry):
        return str(entry["why"])
    low, high = (formats.number(entry[name], 2) for name in ("low", "high"))
    return f"{formats.signed(entry['difference'], 2)} [{low}, {high}]"
