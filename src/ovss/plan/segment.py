"""What one's own pictures are segmented with: the models and captions of the main row of a paper, at one scale."""

from __future__ import annotations

from dataclasses import replace

from ovss.errors import UserError
from ovss.plan.job import Job
from ovss.plan.project import Project
from ovss.plan.rows import Empty, Rows
from ovss.segment.recipe import Recipe

_PAPER, _TABLE, _ROW = "tag", "table2", "tag"


def own_image_jobs(project: Project, scale_name: str, captions: str) -> Recipe:
    """TAG as its main row runs it, with the captions of a role of the paper (pmd, cc12m, ...).

    Raises:
        UserError: no such role, or the scale cannot make its models or captions.
    """
    paper = project.papers[_PAPER]
    if captions not in paper.captions:
        known = ", ".join(paper.captions)
        raise UserError(f"--captions {captions}: not a caption collection of papers/{_PAPER}.yaml; it has: {known}")
    scale = project.params.at(scale_name)
    rows = Rows(project, scale)
    cell = paper.cell(_TABLE, _ROW, paper.tables[_TABLE].columns[0])
    if cell is None or not scale.columns.get(cell.dataset):
        raise UserError(f"scale {scale_name}: papers/{_PAPER}.yaml has no data set there for {_TABLE}.{_ROW}")
    made = rows.jobs_of(paper, f"tables.{_TABLE}.rows.{_ROW}", replace(cell, captions=captions))
    if isinstance(made, Empty):
        raise UserError(f"--captions {captions}: {made.why}")
    neighbours, sentences = made[0].inputs["neighbours"], made[0].inputs["sentences"]
    segments, collection = neighbours.inputs["segments"], neighbours.inputs["captions"]
    jobs: dict[str, Job] = {
        "model": neighbours.inputs["model"],
        "segmenter": segments.inputs["clusters"].inputs["segmenter"],
        "sentences": sentences,
        "captions": collection,
        "index": rows.words.indexes[collection.name],
    }
    return Recipe(scale_name, cell.method, captions, jobs, dict(cell.settings), dict(segments.params["protocol"]))
