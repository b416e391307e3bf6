"""The report: one self-contained index.html (and its figures as files) from tables, claims, rows and models.

params:
  scale, about        name of the scale and one sentence on it
  papers              by paper: title, citation, url, code {url, commit, licence, note}, differences, protocols
  gallery             [{input, row, paper, table, dataset, source}]: predictions to show
  words               the same for rows that find words of their own (stage label; optional)
  captioned           [{input, row, paper, table, source, task}]: rows that find words and masks of captions (optional)
  collections         [{name, title, input, index}]: caption collections, index null where there is none (optional)
  datasets            by name: title, labels (label map), class_names, background
  trained             by model name: what it was trained with (optional)
inputs:
  tables/<paper>/<table>, claims/<paper>, rows/<n>, gallery/<n>, words/<n>, captioned/<n>, sources/<name>,
  models/<name>, world/<archive>, and those that collections name
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from ovss.errors import UserError
from ovss.jobs import JobContext
from ovss.report import (
    bars,
    captioned,
    captions,
    classes,
    figures,
    forest,
    formats,
    gallery,
    origins,
    summary,
    words,
    world,
)
from ovss.report.colours import themed
from ovss.report.inputs import Inputs, load
from ovss.report.tableview import TableView, build

GALLERY_IMAGES, WORDS_IMAGES, CAPTIONS = 3, 2, 4
GALLERY_BYTES, WORDS_BYTES, CAPTION_BYTES = 1_200_000, 700_000, 300_000
"""Images per data set, and the size of all of a gallery together, that keep the page below 3 MB."""


def run(ctx: JobContext) -> dict[str, object]:
    """Write index.html and figures/*.svg.

    Raises:
        UserError: an input is damaged or a parameter is missing.
    """
    for name in ("scale", "about", "papers"):
        if name not in ctx.params:
            raise UserError(f"params of the report: '{name}' is missing; plan the report again")
    page = Page(ctx)
    text = page.render()
    (ctx.out / "index.html").write_text(text, encoding="utf-8", newline="\n")
    return {"bytes": len(text.encode()), "tables": sum(map(len, page.grids.values())), "figures": page.drawn}


class Page:
    """Collects what the template shows, writing figures as they are drawn."""

    def __init__(self, ctx: JobContext) -> None:
        self.params = ctx.params
        self.out = ctx.out
        self.directories = ctx.inputs
        self.inputs: Inputs = load(ctx.inputs)
        self.drawn = 0
        self.entries = origins.entries(self.inputs.rows_by_key.values(), self._used_by())
        self.grids: dict[str, list[TableView]] = {
            paper: [build(table, self.entries) for table in tables] for paper, tables in self.inputs.tables.items()
        }

    def _used_by(self) -> dict[str, list[str]]:
        """Cells by the key of the rows they come from."""
        found: dict[str, list[str]] = {}
        for table, row, column, cell in self._cells():
            for key in origins.keys_of(cell):
                place = f"{table['paper']}.{table['table']}.{row['id']}.{column}"
                found.setdefault(key, []).append(place)
        return found

    def _cells(self) -> list[tuple[Mapping[str, Any], Mapping[str, Any], str, Mapping[str, Any]]]:
        return [(table, row, column, cell) for tables in self.inputs.tables.values() for table in tables
                for row in table["rows"] for column, cell in row["cells"].items()]  # fmt: skip

    def _figure(self, name: str, svg: str, label: str) -> Markup:
        """Write a figure's file and return it as an element of the page; '' for none."""
        if not svg:
            return Markup()
        folder = self.out / "figures"
        folder.mkdir(exist_ok=True)
        (folder / f"{name}.svg").write_text(svg, encoding="utf-8", newline="\n")
        self.drawn += 1
        return Markup(figures.inline(svg, name, escape(label)))

    def render(self) -> str:
        """The page's HTML: the same bytes for the same inputs."""
        environment = Environment(
            loader=PackageLoader("ovss.report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
            lstrip_blocks=True, keep_trailing_newline=True,
        )  # fmt: skip
        environment.filters |= {"cell_anchor": _cell_anchor, "table_title": formats.title,
                                "table_titles": formats.titles}  # fmt: skip
        known = self.params["papers"]
        shown = origins.distinct(self.entries)
        papers = [self._paper(name, known.get(name, {})) for name in dict.fromkeys([*known, *self.grids])]
        return environment.get_template("page.html").render(
            scale=self.params["scale"], about=self.params["about"], full=self.params["scale"] == "full",
            commits=sorted({entry.commit for entry in shown if not entry.problem}),
            papers=papers, cells=summary.cell_counts(grid for grids in self.grids.values() for grid in grids),
            claims=summary.claim_counts(claim for claims in self.inputs.claims.values() for claim in claims),
            marks=summary.MARKS, words=summary.WORDS, per_class=self._per_class(), curves=self._curves(),
            galleries=self._galleries(), words_of=self._words(), captioned=self._captioned(),
            collections=captions.load(self.params.get("collections") or [], self.directories),
            world=world.load(self.inputs.worlds), entries=shown, package_sets=origins.package_sets(shown),
        )  # fmt: skip

    def _paper(self, name: str, about: Mapping[str, Any]) -> dict[str, Any]:
        grids = self.grids.get(name, [])
        claims = self.inputs.claims.get(name, [])
        panels = [(claim["id"], forest.lines(claim)) for claim in claims]
        self._figure(f"{formats.slug(name)}-claims", forest.stack(panels), "")
        return {
            "id": name,
            "anchor": formats.slug(name),
            "about": {"title": name, "citation": "", "url": "", "code": None, **about},
            "tables": [(grid, self._bars(grid)) for grid in grids],
            "claims": [
                (claim, self._forest(claim["id"], lines)) for claim, (_, lines) in zip(claims, panels, strict=True)
            ],
            "claim_counts": summary.claim_counts(claims),
            "cells": summary.cell_counts(grids),
            "protocols": protocols(about.get("protocols") or {}),
            "differences": about.get("differences") or [],
        }  # fmt: skip

    def _bars(self, grid: TableView) -> Markup:
        label = f"Bars of our numbers in {grid.title}"
        return self._figure(grid.anchor, bars.draw(grid), label)

    @staticmethod
    def _forest(name: str, lines: list[forest.Line]) -> Markup:
        return Markup(themed(forest.svg(lines, f"Differences of claim {name}")))

    def _per_class(self) -> list[tuple[classes.PerClass, Markup]]:
        tables = [(table, self.inputs.table_folders[paper, table["table"]])
                  for paper, tables in self.inputs.tables.items() for table in tables]  # fmt: skip
        found = classes.collect(tables, self.params.get("datasets", {}))
        return [(one, self._figure(f"classes-{formats.slug(one.dataset)}", _heat(one), f"Per-class IoU on {one.title}"))
                for one in found]  # fmt: skip

    def _curves(self) -> list[tuple[str, str, Markup]]:
        trained = self.params.get("trained", {})
        drawn = {name: figures.curves(path / "curves.csv") for name, path in self.inputs.models.items()
                 if (path / "curves.csv").is_file()}  # fmt: skip
        return [(name, formats.settings(trained.get(name)),
                 self._figure(f"curves-{formats.slug(name)}", svg, f"Training of {name}"))
                for name, svg in drawn.items()]  # fmt: skip

    def _galleries(self) -> list[gallery.Gallery]:
        entries = self._titled(self.params.get("gallery") or [])
        return gallery.build(entries, self.params.get("datasets", {}), self.inputs, GALLERY_IMAGES, GALLERY_BYTES)

    def _words(self) -> list[words.WordGallery]:
        entries = self._titled(self.params.get("words") or [])
        return words.build(entries, self.params.get("datasets", {}), self.inputs, WORDS_IMAGES, WORDS_BYTES)

    def _captioned(self) -> list[captioned.Captioned]:
        return captioned.build(self._titled(self.params.get("captioned") or []), self.inputs, CAPTIONS, CAPTION_BYTES)

    def _titled(self, entries: Sequence[Mapping[str, str]]) -> list[dict[str, str]]:
        """Entries of a gallery with the rows called as in their table."""
        named = {(grid.paper, grid.id, row.id): row.name
                 for grids in self.grids.values() for grid in grids for row in grid.rows}  # fmt: skip
        places = [(entry.get("paper", ""), entry.get("table", ""), entry["row"]) for entry in entries]
        return [{**entry, "row": named.get(at, at[2])} for entry, at in zip(entries, places, strict=True)]


def _cell_anchor(place: str) -> str:
    paper, table, row = place.split(".")[:3]
    return f"{formats.slug(paper, table)}-{row}"


def _heat(one: classes.PerClass) -> str:
    return figures.heat(one.names, [one.classes[i].split(",")[0] for i in one.shown], one.values[one.shown])


def protocols(found: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Protocols side by side: their names, the fields with each protocol's value, and whether they differ."""
    names = list(found)
    shown = {name: formats.flat({k: v for k, v in values.items() if k not in ("description", "per_column")})
             for name, values in found.items()}  # fmt: skip
    fields = list(dict.fromkeys(field for values in shown.values() for field in values))
    lines = []
    for field in fields:
        values = [formats.published(shown[name].get(field)) or "–" for name in names]
        lines.append((field, values, len(set(values)) > 1))
    changes = [(name, column, formats.settings(values)) for name in names
               for column, values in (found[name].get("per_column") or {}).items()]  # fmt: skip
    about = [(name, str(found[name].get("description") or "")) for name in names]
    return {"names": names, "lines": lines, "changes": changes, "about": about}
