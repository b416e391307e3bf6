"""``ovss segment --list``: names of rows, and what each needs before it runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path

from ovss.errors import UserError
from ovss.plan.job import Job
from ovss.plan.project import Project
from ovss.plan.segment import finds_words, offered, own_maps, own_words
from ovss.segment.outputs import Download, Outputs
from ovss.segment.recipe import CAPTIONS, MODEL, SEGMENTER, Asked, Named

_NAMED = 2


def listing(root: Path, scale: str) -> str:
    """Names for ``--method``, paper by paper, with their rows and what is missing at a scale."""
    project = Project.load(root)
    outputs = Outputs.of(project, scale)
    rows = list(offered(project).values())
    wide = max(len(str(row.name)) for row in rows)
    lines = [f"Names for --method, and what they need at scale {scale}. Any other row: paper.table.row."]
    for title, group in groupby(rows, key=lambda row: row.paper_title):
        lines += ["", title]
        lines += [f"  {row.name:{wide}}  {row.title} [{row}]: {_needs(project, outputs, row)}" for row in group]
    return "\n".join(lines)


def _needs(project: Project, outputs: Outputs, row: Named) -> str:
    """What a row is given, and what it lacks."""
    try:
        jobs = _jobs(project, outputs, row)
    except UserError as error:
        return str(error).removeprefix(f"{row}").lstrip(":, ")
    kind = "no classes" if finds_words(project, row) else "classes"
    if far := outputs.elsewhere(jobs):
        first = dict.fromkeys(f"{job.stage}/{job.name}" for job in far.values())
        return f"{kind}; not made yet: {', '.join(first)}"
    files = outputs.downloads(outputs.missing(jobs.values()))
    return f"{kind}; {f'downloads {_sizes(files)}' if files else 'ready'}"


def _sizes(files: Sequence[Download]) -> str:
    """The first files by name, all others together."""
    words = [f"{file.name} ({file.size})" for file in files[:_NAMED]]
    return ", ".join(words + ([f"{len(files) - len(words)} more files"] if len(files) > len(words) else []))


def _jobs(project: Project, outputs: Outputs, row: Named) -> Mapping[str, Job]:
    if finds_words(project, row):
        jobs = own_words(project, outputs.scale, row, None).jobs
        return {name: jobs[name] for name in (MODEL, SEGMENTER, CAPTIONS)}
    return own_maps(project, outputs.scale, row, Asked(), lambda _: {}).jobs
