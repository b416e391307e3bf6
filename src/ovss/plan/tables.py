"""Jobs that turn row outputs into tables, claims and the report."""

from __future__ import annotations

from typing import Any

from ovss.config.papers import Claim, Paper, Row, Table
from ovss.config.params import Scale
from ovss.plan.data import CAPTIONS, fetch_job
from ovss.plan.job import Job
from ovss.plan.models import trained_job
from ovss.plan.pictures import NumberedInputs, Pictures
from ovss.plan.project import Project
from ovss.plan.rows import Empty, Rows


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
        table, inputs = paper.tables[name], NumberedInputs("rows")
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

    def _row(self, paper: Paper, table_name: str, table: Table, row: Row, inputs: NumberedInputs) -> dict[str, Any]:
        cells: dict[str, Any] = {}
        for column in table.columns:
            if column in table.derived:
                continue
            made = self._cell(paper, table_name, row.id, column)
            cells[column] = {"why": made.why} if isinstance(made, Empty) else {"inputs": inputs.add(made)}
            if row.run is not None and column in row.run.metrics:
                cells[column]["metric"] = row.run.metrics[column]
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
        inputs = NumberedInputs("rows")
        claims = [self._claim(paper, claim, inputs) for claim in paper.claims]
        params = {"paper": paper.paper, "claims": claims, **self._statistics()}
        return self.project.job("claims", paper.paper, params, inputs.jobs)

    def _claim(self, paper: Paper, claim: Claim, inputs: NumberedInputs) -> dict[str, Any]:
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
        pictures = Pictures(self.project, self.cells)
        rows, gallery, datasets = pictures.gallery()
        everything = NumberedInputs("rows")
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
        words, shown = pictures.words()
        captioned, asked = pictures.captioned()
        inputs |= shown | asked
        params = {
            "words": words,
            "captioned": captioned,
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
            "trained": {name: dict(job.params.get("model", job.params)) for name, job in models.items()},
        }
        templates = self.project.root / "src" / "ovss" / "report" / "templates"
        files = {f"templates/{file.name}": _hash(file.read_bytes()) for file in sorted(templates.glob("*.*"))}
        return self.project.job("report", self.scale_name, params, inputs, files=files)

    def _collection_title(self, index: Job) -> str:
        return self.project.datasets.captions[index.inputs["captions"].params["collection"]].title

    @staticmethod
    def _about(paper: Paper) -> dict[str, Any]:
        keep = {"title", "citation", "url", "code", "differences", "protocols"}
        return paper.model_dump(mode="json", include=keep)

    def _trained(self) -> list[Job]:
        """Models trained from scratch, and those that rows ask for."""
        train = self.scale.train
        made = [trained_job(self.project, self.scale, name) for name in (*train.clip, *train.dino, *train.tcl)]
        jobs = [job for job in made if isinstance(job, Job)]
        rows = {job.key: job for cell in self.cells.values() if not isinstance(cell, Empty) for job in cell}
        asked = {
            job.key: job for row in rows.values() for job in (row, *row.inputs.values()) if job.stage == "train_ttd"
        }
        return [*jobs, *sorted(asked.values(), key=lambda job: job.name)]

    def _worlds(self) -> list[Job]:
        made = {job.key: job for cell in self.cells.values() if not isinstance(cell, Empty) for job in cell}
        worlds: dict[str, Job] = {}
        for row in made.values():
            if "dataset" not in row.params:
                continue
            for fetch in row.inputs["source"].inputs.values():
                worlds |= {job.name: job for job in fetch.inputs.values()}
        return [worlds[name] for name in sorted(worlds)]


def _hash(data: bytes) -> str:
    import hashlib

    return hashlib.sha256(data).hexdigest()[:16]
