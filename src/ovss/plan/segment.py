"""What one's own pictures are segmented with: a row of a paper with its models, texts or captions, at one scale.

Every row with a method that gives label maps, or words of captions, can be asked for; ``own_images`` of the papers
gives some of them short names. The models, texts and parameters are those that the row has in its tables; the images
alone are others.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ovss.config.papers import Cell, Paper
from ovss.config.params import Scale
from ovss.errors import UserError
from ovss.plan.check import check_row
from ovss.plan.data import class_queries
from ovss.plan.job import Job
from ovss.plan.own_texts import OwnText, OwnTexts, Ready, Texts
from ovss.plan.project import Project
from ovss.plan.rows import Empty, Rows
from ovss.segment.classes import MOST_CLASSES, with_background
from ovss.segment.recipe import MODEL, Asked, Maps, Named, Words

DEFAULT_COLUMN = "VOC21"


def offered(project: Project) -> dict[str, Named]:
    """Rows by their short names, paper by paper.

    Raises:
        UserError: two papers give the same name.
    """
    found: dict[str, Named] = {}
    for paper in project.papers.values():
        for name, place in paper.own_images.items():
            if name in found:
                raise UserError(
                    f"papers/{paper.paper}.yaml: own_images: '{name}' is the name of {found[name]}, too; rename one"
                )
            found[name] = replace(_named(paper, *place.split(".")), name=name)
    return found


def find_row(project: Project, name: str) -> Named:
    """The row of a short name or of ``paper.table.row``.

    Raises:
        UserError: there is none, or it runs nothing; the message has names that are close.
    """
    short = offered(project)
    if name in short:
        return short[name]
    rows = {f"{paper.paper}.{table}.{row.id}": (paper, table, row.id) for paper in project.papers.values()
            for table, spec in paper.tables.items() for row in spec.rows if row.run is not None}  # fmt: skip
    if name in rows:
        known = {str(place): place for place in short.values()}
        return known.get(name) or _named(*rows[name])
    near = difflib.get_close_matches(name, [*short, *rows], n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    raise UserError(f"--method: there is no '{name}'; {hint}'ovss segment --list' has the names")


def _named(paper: Paper, table: str, row: str) -> Named:
    line = paper.tables[table].row(row)
    words = line.labels.get("method") or line.labels.get("model") or row
    method = line.run.method if line.run else ""
    return Named(paper.paper, table, row, method, str(words), f"{paper.title} ({paper.citation})")


def own_words(
    project: Project, scale_name: str, row: Named, captions: str | None, classes: Sequence[str] = ()
) -> Words:
    """A row that finds words in captions, with those of its own role or of another one of the paper (pmd, ...).

    ``classes``: names of which each word gets the nearest.

    Raises:
        UserError: no such role, or the scale cannot make its models or captions.
    """
    paper, scale = project.papers[row.paper], project.params.at(scale_name)
    if captions is not None and captions not in paper.captions:
        known = ", ".join(paper.captions)
        raise UserError(f"--captions {captions}: not a caption collection of papers/{row.paper}.yaml; it has: {known}")
    rows = Rows(project, scale)
    cell = next((cell for cell in _cells(paper, row) if scale.columns.get(cell.dataset)), None)
    if cell is None:
        raise UserError(f"scale {scale_name}: papers/{row.paper}.yaml has no data set there for {row.table}.{row.row}")
    cell = replace(cell, captions=captions or cell.captions)
    made = rows.jobs_of(paper, f"tables.{row.table}.rows.{row.row}", cell)
    if isinstance(made, Empty):
        raise UserError(f"{row}, captions {cell.captions}: {made.why}")
    if "neighbours" not in made[0].inputs or "captions" not in made[0].inputs["neighbours"].inputs:
        raise UserError(f"{row}: searches a published index, which serves the tables alone; take --method tag")
    neighbours, sentences = made[0].inputs["neighbours"], made[0].inputs["sentences"]
    segments, collection = neighbours.inputs["segments"], neighbours.inputs["captions"]
    jobs: dict[str, Job] = {
        "model": neighbours.inputs["model"],
        "segmenter": segments.inputs["clusters"].inputs["segmenter"],
        "sentences": sentences,
        "captions": collection,
        "index": rows.words.indexes[collection.name],
    }
    protocol = dict(segments.params["protocol"])
    return Words(scale_name, row, str(cell.captions), jobs, dict(cell.settings), protocol, tuple(classes))


def own_maps(project: Project, scale_name: str, row: Named, asked: Asked, ready: Ready) -> Maps:
    """A row that labels pixels with the classes of a data set or of a user.

    Args:
        project: the project.
        scale_name: which scale.
        row: which row.
        asked: classes of the user, data set, or neither (then the classes of VOC21 at this scale).
        ready: makes outputs that are missing: downloaded descriptions are read here.

    Raises:
        UserError: the row gives no label maps, the scale lacks something of it, or no such data set.
    """
    return OwnRows(project, project.params.at(scale_name), scale_name).recipe(row, asked, ready)


def own_class_names(project: Project, scale_name: str, row: Named, dataset: str) -> list[str]:
    """First name of each class of a data set but the background, as a row names them."""
    paper, scale = project.papers[row.paper], project.params.at(scale_name)
    name = _dataset(project, scale, dataset)
    naming = next(cell.protocol.names for cell in _cells(paper, row))
    return [
        names[0] for names in class_queries(project, name, naming)[int(project.datasets.datasets[name].background) :]
    ]


def finds_words(project: Project, row: Named) -> bool:
    """Whether a row finds its words in captions and needs no classes."""
    run = project.papers[row.paper].tables[row.table].row(row.row).run
    return run is not None and run.captions is not None


def _cells(paper: Paper, row: Named) -> list[Cell]:
    """What the row runs, column by column."""
    found = (paper.cell(row.table, row.row, column) for column in paper.tables[row.table].columns)
    return [cell for cell in found if cell is not None]


def _dataset(project: Project, scale: Scale, name: str) -> str:
    """The data set of datasets.yaml that a user names, by a column of params.yaml or by its own name."""
    found = scale.columns.get(name) or name
    if found in project.datasets.datasets:
        return found
    known = [
        *(column for column, at in scale.columns.items() if at in project.datasets.datasets),
        *project.datasets.own,
    ]
    near = difflib.get_close_matches(name, [*known, *project.datasets.datasets], n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    raise UserError(f"--dataset: there is no '{name}' with classes at this scale; {hint}there are: {', '.join(known)}")


class OwnRows(Rows):
    """Rows on pictures of one's own: everything but the images is as in a table."""

    def __init__(self, project: Project, scale: Scale, scale_name: str) -> None:
        super().__init__(project, scale)
        self.scale_name = scale_name

    def recipe(self, row: Named, asked: Asked, ready: Ready) -> Maps:
        """See ``own_maps``."""
        paper, where = self.project.papers[row.paper], f"tables.{row.table}.rows.{row.row}"
        self._refuse(row)
        cell, dataset = self._place(paper, row, asked.dataset)
        check_row(self.project, paper, where, cell)
        if (why := self._not_yet(cell)) is not None:
            raise UserError(f"{row}: {why.why}")
        protocol = self._protocol(cell)
        models = self._models_of(paper, where, cell)
        if isinstance(models, str):
            raise UserError(f"{row}: at scale {self.scale_name}: {models}")
        classes, texts = self._texts(dataset, protocol, asked, models, ready)
        entry = self.project.datasets.datasets[dataset]
        view = {"name": dataset, "labels": {}, "num_classes": len(classes), "background": entry.background}
        params = {"method": cell.method, "settings": dict(cell.settings), "dataset": view, "protocol": protocol}
        facts = {
            "classes_from": asked.origin if asked.classes else f"data set {dataset}",
            "dataset": dataset,
            "settings_of": cell.dataset,
            **texts.facts,
        }
        made = {key: job if (self.project.root / job.done).is_file() else OwnText.of(job)
                for key, job in texts.jobs.items()}  # fmt: skip
        return Maps(self.scale_name, row, {**models, **made}, params, classes, facts, texts.notes)

    def _place(self, paper: Paper, row: Named, asked: str | None) -> tuple[Cell, str]:
        """The row's cell and the data set of datasets.yaml that it is asked for.

        A data set without a column in the row's table gets the settings of one that agrees in having a background.
        """
        sets = self.project.datasets.datasets
        cells = [cell for cell in _cells(paper, row) if self.scale.columns.get(cell.dataset) in sets]
        if not cells:
            raise UserError(f"{row}: is measured on no data set with classes at scale {self.scale_name}; "
                            "'ovss segment --list' has rows that are")  # fmt: skip
        if asked is None:
            cell = next((cell for cell in cells if cell.dataset == DEFAULT_COLUMN), cells[0])
            return cell, str(self.scale.columns[cell.dataset])
        dataset = _dataset(self.project, self.scale, asked)
        own = [cell for cell in cells if self.scale.columns[cell.dataset] == dataset]
        wanted = sets[dataset].background
        like = [cell for cell in cells if sets[str(self.scale.columns[cell.dataset])].background == wanted]
        if not own and not like:
            kind = "with" if wanted else "without"
            raise UserError(f"--dataset {asked}: {row} has settings for no data set {kind} a background; leave it out")
        return (own or like)[0], dataset

    def _refuse(self, row: Named) -> None:
        """Refuse a method that cannot label a picture."""
        if row.method in self.project.methods and "segment" not in self.project.definitions[row.method]:
            raise UserError(f"{row}: method {row.method} answers with words or scores of a whole picture, not with a "
                            "label map; 'ovss segment --list' has rows that draw one")  # fmt: skip

    def _texts(
        self, dataset: str, protocol: Mapping[str, Any], asked: Asked, models: Mapping[str, Job], ready: Ready
    ) -> tuple[list[list[str]], Texts]:
        """Names of each class and the jobs that encode them."""
        listed = class_queries(self.project, dataset, protocol["names"])
        names = {"text": protocol["templates"], "descriptions": protocol.get("descriptions")}
        wanted = {key: texts for key, texts in names.items() if texts}
        if asked.classes is None:
            if len(listed) > MOST_CLASSES:
                raise UserError(
                    f"data set {dataset}: {len(listed)} classes; a label PNG holds {MOST_CLASSES}, give --classes"
                )
            jobs = {key: self._text(dataset, protocol["names"], texts, models[MODEL]) for key, texts in wanted.items()}
            if missing := [why for why in jobs.values() if isinstance(why, str)]:
                raise UserError(f"data set {dataset}: {missing[0]}")
            return listed, Texts({key: job for key, job in jobs.items() if isinstance(job, Job)})
        background = self.project.datasets.datasets[dataset].background
        classes = with_background(listed, asked.classes) if background else [list(names) for names in asked.classes]
        return classes, OwnTexts(self.project, self.scale, dataset, classes, models, ready).jobs(wanted)
