"""Jobs that turn row outputs into tables, claims and the report."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from ovss.config.papers import Claim, Paper, Row, Table
from ovss.config.params import Scale
from ovss.plan.data import CAPTIONS, class_queries, fetch_job
from ovss.plan.job import Job
from ovss.plan.models import trained_job
from ovss.plan.project import Project
from ovss.plan.rows import Empty, Rows

GALLERY_ROWS = 6


class _Inputs:
    """Numbered inputs of a job; the same job is listed once."""

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self.jobs: dict[str, Job] = {}
        self._names: dict[str, str] = {}

    def add(self, jobs: list[Job]) -> list[str]:
        for job in jobs:
            if job.key not in self._names:
                self._names[job.key] = f"{self.prefix}/{len(self._names)}"
                self.jobs[self._names[job.key]] = job
        return [self._names[job.key] for job in jobs]


class Tables:
    """Table, claims and report jobs of one scale."""

    def __init__(self, project: Project, scale_name: str, scale: Scale) -> None:
        self.project = project
        self.scale_name = scale_name
        self.scale = scale
        self.rows = Rows(project, scale)
        self.cells: dict[tuple[str, str, str, str], list[Job] | Empty] = {}

    def wanted(self, paper: str, table: str) -> bool:
        """Whether the scale runs a table."""
        papers, tables = self.scale.papers, self.scale.tables
        return (papers is None or paper in papers) and (tables is None or f"{paper}.{table}" in tables)

    def _cell(self, paper: Paper, table: str, row: str, column: str) -> list[Job] | Empty:
        at = (paper.paper, table, row, column)
        if at not in self.cells:
            if not self.wanted(paper.paper, table):
                return Empty(f"table {table} is not part of scale {self.scale_name}")
            self.cells[at] = self.rows.cell(paper, table, row, column)
        return self.cells[at]

    def _statistics(self) -> dict[str, Any]:
        return {"bootstrap": self.scale.bootstrap.model_dump(), "tolerance": self.scale.tolerance,
                "scale": self.scale_name}  # fmt: skip

    def table(self, paper: Paper, name: str) -> Job:
        """The job of one table."""
        table, inputs = paper.tables[name], _Inputs("rows")
        rows = [self._row(paper, name, table, row, inputs) for row in table.rows]
        keep = {"title", "metric", "unit", "higher_is_better", "absent", "note"}
        spec = {
            "id": name,
            **table.model_dump(mode="json", include=keep),
            "key_columns": list(table.key_columns),
            "columns": [self._column(paper, table, column) for column in table.columns],
            "derived": {column: derived.model_dump(mode="json") for column, derived in table.derived.items()},
            "rows": rows,
        }
        params = {"paper": paper.paper, "table": spec, **self._statistics()}
        group = f"{paper.paper}_{name}" if inputs.jobs else f"{paper.paper}_without_runs"
        return self.project.job("table", f"{paper.paper}_{name}", params, inputs.jobs, group=group)

    def _column(self, paper: Paper, table: Table, name: str) -> dict[str, Any]:
        place = paper.columns[name]
        known = self.scale.columns.get(place.dataset) if place.dataset else None
        derived = name in table.derived
        return {"id": name, **place.model_dump(mode="json"), "dataset": known, "derived": derived}

    def _row(self, paper: Paper, table_name: str, table: Table, row: Row, inputs: _Inputs) -> dict[str, Any]:
        cells: dict[str, Any] = {}
        for column in table.columns:
            if column in table.derived:
                continue
            made = self._cell(paper, table_name, row.id, column)
            cells[column] = {"why": made.why} if isinstance(made, Empty) else {"inputs": inputs.add(made)}
        reasons = [cell["why"] for cell in cells.values() if "why" in cell]
        unmade = row.run is not None and len(reasons) == len(cells) and any("not implemented" in why for why in reasons)
        run = row.run
        return {
            "id": row.id,
            "labels": dict(row.labels),
            "kind": "not_implemented" if unmade else row.kind,
            "note": row.note or row.citation,
            "extra_of": row.extra_of,
            "method": run.method if run else None,
            "model": run.model if run else None,
            "settings": dict(run.settings) if run else None,
            "protocol": run.protocol if run else None,
            "derived": row.derived.model_dump(mode="json") if row.derived else None,
            "published": dict(row.published),
            "cells": cells,
        }

    def claims(self, paper: Paper) -> Job:
        """The job that evaluates a paper's claims."""
        inputs = _Inputs("rows")
        claims = [self._claim(paper, claim, inputs) for claim in paper.claims]
        params = {"paper": paper.paper, "claims": claims, **self._statistics()}
        return self.project.job("claims", paper.paper, params, inputs.jobs)

    def _claim(self, paper: Paper, claim: Claim, inputs: _Inputs) -> dict[str, Any]:
        comparisons = []
        for better_column, worse_column in claim.pairs(paper):
            sides: dict[str, Any] = {"column": better_column}
            for side, column in (("better", better_column), ("worse", worse_column)):
                table, _, row = getattr(claim, side).partition(".")
                made = self._cell(paper, table, row, column)
                if isinstance(made, Empty):
                    sides["why"] = f"{getattr(claim, side)}: {made.why}"
                else:
                    sides[side] = inputs.add(made)
            table = paper.tables[claim.better.partition(".")[0]]
            place = paper.columns[better_column]
            higher = table.higher_is_better if place.higher_is_better is None else place.higher_is_better
            measure = {"metric": place.metric or table.metric, "absent": table.absent, "higher_is_better": higher}
            comparisons.append(sides | measure | {"worse_column": worse_column})
        keep = {"id", "text", "source", "better", "worse", "kind", "margin"}
        own = next((dict(texts) for scale, texts in claim.explanations.items() if scale == self.scale_name), {})
        return claim.model_dump(mode="json", include=keep) | {"explanations": own, "comparisons": comparisons}

    def report(self, tables: dict[tuple[str, str], Job], claims: dict[str, Job]) -> Job:
        """The job of the report page."""
        inputs = {f"tables/{paper}/{name}": job for (paper, name), job in tables.items()}
        inputs |= {f"claims/{paper}": job for paper, job in claims.items()}
        rows, gallery, datasets = self._gallery()
        everything = _Inputs("rows")
        for made in self.cells.values():
            everything.add([] if isinstance(made, Empty) else made)
        inputs |= everything.jobs | rows
        models = {job.name: job for job in self._trained()}
        inputs |= {f"models/{name}": job for name, job in models.items()}
        if self.scale.world is not None:
            captions = fetch_job(self.project, self.scale, CAPTIONS)
            if isinstance(captions, Job):
                inputs |= {"captions": captions, f"world/{CAPTIONS}": captions.inputs["world"]}
            inputs |= {f"world/{job.name}": job for job in self._worlds()}
        inputs |= {f"collections/{name}": job.inputs["captions"] for name, job in self.rows.words.indexes.items()}
        inputs |= {f"indexes/{name}": job for name, job in self.rows.words.indexes.items()}
        words, shown = self._words()
        inputs |= shown
        params = {
            "words": words,
            "collections": [
                {
                    "name": name,
                    "title": self._collection_title(job),
                    "input": f"collections/{name}",
                    "index": f"indexes/{name}",
                }
                for name, job in self.rows.words.indexes.items()
            ],
            "scale": self.scale_name,
            "about": self.scale.about,
            "papers": {name: self._about(paper) for name, paper in self.project.papers.items()},
            "gallery": gallery,
            "datasets": datasets,
            "columns": {name: dataset for name, dataset in self.scale.columns.items() if dataset},
            "trained": {name: dict(job.params["model"]) for name, job in models.items()},
        }
        templates = self.project.root / "src" / "ovss" / "report" / "templates"
        files = {f"templates/{file.name}": _hash(file.read_bytes()) for file in sorted(templates.glob("*.*"))}
        return self.project.job("report", self.scale_name, params, inputs, files=files)

    def _collection_title(self, index: Job) -> str:
        return self.project.datasets.captions[index.inputs["captions"].params["collection"]].title

    def _words(self) -> tuple[list[dict[str, Any]], dict[str, Job]]:
        """Rows whose segments and words are shown: those that their table names for the gallery."""
        inputs, sources, shown = _Inputs("words"), {}, []
        for (paper, table, row, _), made in self.cells.items():
            if isinstance(made, Empty) or made[0].stage != "label":
                continue
            if row in self.project.papers[paper].tables[table].gallery:
                source = made[0].inputs["source"]
                sources[f"sources/{source.name}"] = source
                place = {"paper": paper, "table": table, "row": row, "dataset": made[0].params["dataset"]["name"]}
                shown.append({**place, "input": inputs.add([made[0]])[0], "source": f"sources/{source.name}"})
        return shown, inputs.jobs | sources

    @staticmethod
    def _about(paper: Paper) -> dict[str, Any]:
        keep = {"title", "citation", "url", "code", "differences", "protocols"}
        return paper.model_dump(mode="json", include=keep)

    def _trained(self) -> list[Job]:
        names = [*self.scale.train.clip, *self.scale.train.dino]
        jobs = [trained_job(self.project, self.scale, name) for name in names]
        return [job for job in jobs if isinstance(job, Job)]

    def _worlds(self) -> list[Job]:
        made = {job.key: job for cell in self.cells.values() if not isinstance(cell, Empty) for job in cell}
        worlds: dict[str, Job] = {}
        for row in made.values():
            for fetch in row.inputs["source"].inputs.values():
                worlds |= {job.name: job for job in fetch.inputs.values()}
        return [worlds[name] for name in sorted(worlds)]

    def _gallery(self) -> tuple[dict[str, Job], list[dict[str, Any]], dict[str, Any]]:
        """Rows whose predictions are shown: for each data set, those of the table that names most rows to show there,
        or else of the one that runs most."""
        by_place: dict[str, dict[tuple[str, str], dict[str, Job]]] = defaultdict(lambda: defaultdict(dict))
        for (paper, table, row, _), made in self.cells.items():
            if not isinstance(made, Empty):
                dataset = made[0].params["dataset"]["name"]
                by_place[dataset][paper, table].setdefault(row, made[0])
        inputs, datasets = _Inputs("gallery"), {}
        sources: dict[str, Job] = {}
        gallery = []
        for dataset, tables in sorted(by_place.items()):
            shown = {at: self._shown(at, rows) for at, rows in tables.items()}
            paper, table = max(tables, key=lambda at: (len(shown[at]), len(tables[at]), at))
            rows = shown[paper, table] or tables[paper, table]
            for row, job in list(rows.items())[:GALLERY_ROWS]:
                source = job.inputs["source"]
                sources[f"sources/{source.name}"] = source
                datasets[dataset] = self._view(dataset, job)
                gallery.append({"input": inputs.add([job])[0], "paper": paper, "table": table, "row": row,
                                "dataset": dataset, "source": f"sources/{source.name}"})  # fmt: skip
        return inputs.jobs | sources, gallery, datasets

    def _shown(self, at: tuple[str, str], rows: Mapping[str, Job]) -> dict[str, Job]:
        """Those rows that the table names for the gallery, in its order."""
        paper, table = at
        return {row: rows[row] for row in self.project.papers[paper].tables[table].gallery if row in rows}

    def _view(self, dataset: str, job: Job) -> dict[str, Any]:
        names = [words[0] for words in class_queries(self.project, dataset, "default")]
        entry = self.project.datasets.datasets[dataset]
        if entry.background:
            names[0] = "background"
        return {**job.params["dataset"], "title": entry.title, "class_names": names}


def _hash(data: bytes) -> str:
    import hashlib

    return hashlib.sha256(data).hexdigest()[:16]
