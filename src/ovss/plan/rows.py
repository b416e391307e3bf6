"""From a row and a column of a paper's table to the jobs that make its number, or the reason why there are none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from ovss.config.papers import Cell, Paper
from ovss.config.params import Scale
from ovss.config.runs import Training
from ovss.plan.check import check_data, check_row, check_segments
from ovss.plan.data import source_job
from ovss.plan.job import Job, file_name
from ovss.plan.models import model_job, process_of
from ovss.plan.project import Project
from ovss.plan.text_rows import TextRows
from ovss.plan.texts import own_texts, text_job
from ovss.plan.training import METHODS, Trainings
from ovss.plan.words import WordRows

SEGMENTATION_METRICS = frozenset({"miou", "fpr", "fnr"})
# What the stage evaluate imports for rows with companion models, and for no other.
_COMPANIONS = {"modules": ("ovss.models.companions",), "packages": ("transformers",)}
_PIXELS = ("short_side", "crop", "stride", "ambiguity_crop")


@dataclass(frozen=True)
class Empty:
    """Why a cell has no number of ours."""

    why: str


class Rows:
    """Row jobs of one scale. Equal rows of two tables are one job."""

    def __init__(self, project: Project, scale: Scale) -> None:
        self.project = project
        self.scale = scale
        self._jobs: dict[str, Job] = {}
        self._text = cache(self._text_job)
        self._source = cache(lambda source: source_job(project, scale, source))
        self._models: dict[str, Job | str] = {}
        self.words = WordRows(project, scale)
        self.texts = TextRows(project, scale)
        self.trainings = Trainings(project, scale)

    def cell(self, paper: Paper, table: str, row: str, column: str) -> list[Job] | Empty:
        """The jobs (one per shard) that make a cell, or why it stays empty.

        Raises:
            UserError: the row names a method setting that does not exist.
        """
        where = f"tables.{table}.rows.{row}"
        cell = paper.cell(table, row, column)
        if cell is None:
            return self._count(paper, where, table, row, column) or Empty(self._why_none(paper, table, row, column))
        check_row(self.project, paper, where, cell)
        if not self.scale.columns.get(cell.dataset):
            return Empty(f"no data set for {cell.dataset} at this scale")
        if cell.dataset in self.scale.left_out.get(paper.paper, ()):
            return Empty(f"data set {cell.dataset} is left out for this paper at this scale")
        check_data(self.project, self.scale, cell.dataset)
        return self._not_yet(cell) or self.jobs_of(paper, where, cell)

    def _count(self, paper: Paper, where: str, table: str, row: str, column: str) -> list[Job] | Empty | None:
        """The training whose pairs a column counts; None where it counts none."""
        run = paper.tables[table].row(row).run
        if paper.columns[column].metric != "count" or run is None or run.training is None or run.model is None:
            return None
        model = self._trained(paper, where, run.model, run.training)
        return Empty(model) if isinstance(model, str) else [model]

    @staticmethod
    def _why_none(paper: Paper, table: str, row: str, column: str) -> str:
        line = paper.tables[table].row(row)
        if line.run is None:
            return "cited" if line.citation else "derived"
        if paper.columns[column].metric == "hours":
            return "times differ from run to run and are no result; they are under benchmarks/"
        return "not measured on a data set" if paper.columns[column].dataset is None else "not run on this column"

    def _not_yet(self, cell: Cell) -> Empty | None:
        if cell.method not in self.project.methods:
            return Empty(f"not implemented: method {cell.method}")
        name = str(self.scale.columns[cell.dataset])
        if name in self.project.datasets.text_sources:
            if missing := self.texts.missing(name, cell.method, cell.metric):
                return Empty(missing)
        elif cell.metric not in SEGMENTATION_METRICS:
            return Empty(f"not implemented: metric {cell.metric}")
        if cell.training and cell.training.method not in METHODS:
            return Empty(f"not implemented: training {cell.training.method}")
        if cell.needs:
            return Empty(f"not provided: {', '.join(cell.needs)}")
        return None

    def jobs_of(self, paper: Paper, where: str, cell: Cell) -> list[Job] | Empty:
        """The jobs of a cell that everything is written for, or why one of them cannot run."""
        name = str(self.scale.columns[cell.dataset])
        if name in self.project.datasets.text_sources:
            return self._text_row(paper, where, cell, name)
        dataset = self.project.datasets.datasets[name]
        source = self._source(dataset.source)
        if isinstance(source, str):
            return Empty(source)
        if cell.model is None:
            return Empty("not implemented: rows without a model")
        protocol = self._protocol(cell)
        inputs = self._inputs(paper, where, cell, name, protocol)
        if isinstance(inputs, str):
            return Empty(inputs)
        view = {"name": name, "labels": dataset.labels.model_dump(mode="json"), "num_classes": dataset.num_classes,
                "background": dataset.background}  # fmt: skip
        shared = {"dataset": view, "protocol": protocol, "examples": self.scale.examples}
        shards = self._shards(dataset.source)
        parts = [shared | {"shard": [index, shards]} for index in range(shards)]
        if cell.captions is not None:
            return self._word_jobs(paper, cell, inputs, parts, source)
        check_segments(self.project, cell.method)
        params = {"method": cell.method, "settings": dict(cell.settings)}
        return [self._row(params | part, inputs | {"source": source}) for part in parts]

    def _text_row(self, paper: Paper, where: str, cell: Cell, name: str) -> list[Job] | Empty:
        models = self._models_of(paper, where, cell)
        if isinstance(models, str):
            return Empty(models)
        job = self.texts.job(name, cell, self._protocol(cell), models)
        return Empty(job) if isinstance(job, str) else [self._jobs.setdefault(job.key, job)]

    def _word_jobs(
        self, paper: Paper, cell: Cell, models: Mapping[str, Job], parts: list[dict[str, Any]], source: Job
    ) -> list[Job] | Empty:
        made = [self.words.jobs(paper, cell, models, part, source) for part in parts]
        missing = [why for why in made if isinstance(why, str)]
        if missing:
            return Empty(missing[0])
        known = [[self._jobs.setdefault(job.key, job) for job in jobs] for jobs in made if not isinstance(jobs, str)]
        return [label for _, _, label in known]

    def _inputs(
        self, paper: Paper, where: str, cell: Cell, dataset: str, protocol: Mapping[str, Any]
    ) -> dict[str, Job] | str:
        """Models and texts of a cell, or why one of them is missing."""
        models = self._models_of(paper, where, cell)
        if isinstance(models, str):
            return models
        found: dict[str, Job | str] = {**models}
        for key, texts in (("text", protocol["templates"]), ("descriptions", protocol.get("descriptions"))):
            if texts and cell.captions is None:
                found[key] = self._text(dataset, protocol["names"], texts, models["model"])
        return _all_there(found)

    def _models_of(self, paper: Paper, where: str, cell: Cell) -> dict[str, Job] | str:
        """``model`` and ``companion_<name>``, or why one of them is missing."""
        found: dict[str, Job | str] = {"model": self._trained(paper, where, str(cell.model), cell.training)}
        for name, role in cell.companions.items():
            made = self._model(paper, role)
            found[f"companion_{name}"] = f"companion {name}: {made}" if isinstance(made, str) else made
        return _all_there(found)

    def _trained(self, paper: Paper, where: str, role: str, training: Training | None) -> Job | str:
        """The model that plays a role, after the training if there is one."""
        model = self._model(paper, role)
        if training is None or isinstance(model, str):
            return model
        asked = _all_there({name: self._model(paper, role) for name, role in training.companions.items()})
        if isinstance(asked, str):
            return asked
        made = self.trainings.model(paper, where, training, model, asked)
        return made if isinstance(made, str) else self._jobs.setdefault(made.key, made)

    def _model(self, paper: Paper, role: str) -> Job | str:
        at = f"{paper.paper}.{role}"
        if at not in self._models:
            self._models[at] = model_job(self.project, self.scale, paper.models[role])
        return self._models[at]

    def _shards(self, source: str) -> int:
        images = self.project.datasets.sources[source].images
        if not self.scale.shard_images or not images:
            return 1
        return -(-images // self.scale.shard_images)

    def _protocol(self, cell: Cell) -> dict[str, Any]:
        """Protocol values of a row, with sizes in pixels of this scale's models and its own texts."""
        values = own_texts(self.project, self.scale, cell.protocol.params())
        if self.scale.world is not None:
            values.pop("normalisation", None)  # models of the tiny world are fed as they were trained
        if self.scale.image_scales and len(values.get("scales", ())) > 1:
            values["scales"] = list(self.scale.image_scales)
        if self.scale.model_input and self.scale.model_patch:
            for name in _PIXELS:
                if values.get(name):
                    patches = values[name] * self.scale.model_input / 224 / self.scale.model_patch
                    values[name] = max(1, round(patches)) * self.scale.model_patch
        return values

    def _text_job(self, dataset: str, names: str, texts: str, model: Job) -> Job | str:
        job = text_job(self.project, self.scale, dataset, names, texts, model)
        return job if isinstance(job, str) else self._jobs.setdefault(job.key, job)

    def _row(self, params: dict[str, Any], inputs: dict[str, Job]) -> Job:
        companions = _COMPANIONS if any(name.startswith("companion_") for name in inputs) else {}
        modules = (f"ovss.methods.{params['method']}", *companions.get("modules", ()))
        index, count = params["shard"]
        shard = f"-{index:04d}of{count:04d}" if count > 1 else ""
        group = f"{inputs['source'].name}-{process_of(self.scale, inputs['model'])}{shard}"
        job = self.project.job("evaluate", _row_name(params, inputs) + shard, params, inputs,
                               modules=modules, packages=companions.get("packages", ()), group=group)  # fmt: skip
        return self._jobs.setdefault(job.key, job)


def _all_there(found: Mapping[str, Job | str]) -> dict[str, Job] | str:
    """The jobs, or why the first that is none is missing."""
    missing = [why for why in found.values() if isinstance(why, str)]
    return missing[0] if missing else {name: job for name, job in found.items() if isinstance(job, Job)}


def _row_name(params: Mapping[str, Any], inputs: Mapping[str, Job]) -> str:
    """A name for people, from what is run alone: the same whichever table asks first."""
    protocol = params["protocol"]
    window = "" if protocol["crop"] is None else f"c{protocol['crop']}r{protocol['stride']}"
    settings = [str(value) for _, value in sorted(params["settings"].items())]
    words = [params["dataset"]["name"], inputs["model"].name, params["method"], *settings,
             f"s{protocol['short_side']}{window}", protocol["names"]]  # fmt: skip
    return file_name(words, 150)
