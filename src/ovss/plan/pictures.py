"""Which rows the report shows in pictures: predictions, words for segments, words and masks of captions."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ovss.plan.data import class_queries
from ovss.plan.job import Job
from ovss.plan.project import Project
from ovss.plan.rows import Empty

GALLERY_ROWS = 6


class NumberedInputs:
    """Numbered inputs of a job; the same job is listed once."""

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self.jobs: dict[str, Job] = {}
        self._names: dict[str, str] = {}

    def add(self, jobs: list[Job]) -> list[str]:
        """Names of the inputs that these jobs are."""
        for job in jobs:
            if job.key not in self._names:
                self._names[job.key] = f"{self.prefix}/{len(self._names)}"
                self.jobs[self._names[job.key]] = job
        return [self._names[job.key] for job in jobs]


@dataclass(frozen=True)
class Pictures:
    """What is shown of the cells of a scale, by (paper, table, row, column)."""

    project: Project
    cells: Mapping[tuple[str, str, str, str], list[Job] | Empty]

    def words(self) -> tuple[list[dict[str, Any]], dict[str, Job]]:
        """Rows whose segments and words are shown: those that their table names for the gallery."""
        inputs, sources, shown = NumberedInputs("words"), {}, []
        for (paper, table, row, _), made in self.cells.items():
            if isinstance(made, Empty) or made[0].stage != "label":
                continue
            if row in self.project.papers[paper].tables[table].gallery:
                source = made[0].inputs["source"]
                sources[f"sources/{source.name}"] = source
                place = {"paper": paper, "table": table, "row": row, "dataset": made[0].params["dataset"]["name"]}
                shown.append({**place, "input": inputs.add([made[0]])[0], "source": f"sources/{source.name}"})
        return shown, inputs.jobs | sources

    def captioned(self) -> tuple[list[dict[str, Any]], dict[str, Job]]:
        """Rows whose words and masks of captions are shown: those that their table names for the gallery."""
        inputs, sources, seen, shown = NumberedInputs("captioned"), {}, set[str](), []
        for (paper, table, row, _), made in self.cells.items():
            if isinstance(made, Empty) or made[0].params.get("task") not in ("tags", "captions"):
                continue
            if row in self.project.papers[paper].tables[table].gallery and made[0].key not in seen:
                seen.add(made[0].key)
                source = made[0].inputs["source"]
                sources[f"sources/{source.name}"] = source
                place = {"paper": paper, "table": table, "row": row, "task": made[0].params["task"]}
                shown.append({**place, "input": inputs.add([made[0]])[0], "source": f"sources/{source.name}"})
        return shown, inputs.jobs | sources

    def gallery(self) -> tuple[dict[str, Job], list[dict[str, Any]], dict[str, Any]]:
        """Rows whose predictions are shown: for each data set, those of the table that names most rows to show there,
        or else of the one that runs most."""
        by_place: dict[str, dict[tuple[str, str], dict[str, Job]]] = defaultdict(lambda: defaultdict(dict))
        for (paper, table, row, _), made in self.cells.items():
            if not isinstance(made, Empty) and "dataset" in made[0].params:
                dataset = made[0].params["dataset"]["name"]
                by_place[dataset][paper, table].setdefault(row, made[0])
        inputs, datasets = NumberedInputs("gallery"), {}
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
