"""What a person still has to place, once for every archive, and which cells wait for it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace

from ovss.plan.job import Job
from ovss.plan.plan import Plan, make_plan
from ovss.plan.project import Project
from ovss.plan.rows import Empty

Cell = tuple[str, str, str, str]


@dataclass(frozen=True)
class Step:
    """Files of one archive, model or set of descriptions that a person has to place.

    paths: where, relative to the project. page: to visit. how: what to do. sizes: bytes of the files, where known.
    failure: why a download failed, where one was tried. cells: every cell that needs it; alone: those that need
    nothing else.
    """

    name: str
    title: str
    licence: str
    paths: tuple[str, ...]
    page: str | None
    how: str | None
    bytes: int | None
    failure: str | None
    cells: tuple[Cell, ...]
    alone: tuple[Cell, ...]


def opened(cells: tuple[Cell, ...]) -> str:
    """Cells in words, by table: "TTD table1 12, table4 3"."""
    counts = Counter((paper, table) for paper, table, _, _ in cells)
    papers = dict.fromkeys(paper for paper, _ in counts)
    return "; ".join(
        f"{paper} " + ", ".join(f"{table} {count}" for (at, table), count in sorted(counts.items()) if at == paper)
        for paper in papers
    )


def with_everything(project: Project, scale: str) -> Plan:
    """The plan as it would be were every file placed that a person has to place (keys are those of no run)."""
    return make_plan(replace(project, placed=True), scale)


def steps(project: Project, plan: Plan, whole: Plan) -> list[Step]:
    """What is still to be placed, that which opens most cells first.

    Args:
        project: the project.
        plan: the plan as it is.
        whole: the plan of ``with_everything``.
    """
    needs = _Needs()
    waiting: dict[Cell, frozenset[str]] = {}
    for at, made in whole.cells.items():
        if isinstance(plan.cells.get(at), Empty) and not isinstance(made, Empty):
            waiting[at] = frozenset().union(*(needs.of(job) for job in made))
    found = [_step(project, name, needs.paths[name], waiting) for name in needs.paths]
    return sorted((step for step in found if step.cells), key=lambda step: (-len(step.cells), step.name))


class _Needs:
    """Names of what each job waits for, itself or by its inputs; ``paths``: the files behind each name."""

    def __init__(self) -> None:
        self.paths: dict[str, tuple[str, ...]] = {}
        self._known: dict[str, frozenset[str]] = {}

    def of(self, job: Job) -> frozenset[str]:
        if job.key not in self._known:
            own: set[str] = set()
            if placed := job.params.get("to_place"):
                name = placed[0].split("/")[2] if job.stage == "text" else job.name
                own.add(name)
                self.paths[name] = tuple(dict.fromkeys((*self.paths.get(name, ()), *placed)))
            self._known[job.key] = frozenset(own).union(*(self.of(other) for other in job.inputs.values()))
        return self._known[job.key]


def _step(project: Project, name: str, paths: tuple[str, ...], waiting: Mapping[Cell, frozenset[str]]) -> Step:
    config = project.datasets
    entry = config.archives.get(name) or project.weights.weights.get(name)
    cells = tuple(at for at, wanted in waiting.items() if name in wanted)
    alone = tuple(at for at in cells if waiting[at] == {name})
    title, licence, page, how, size = name, "not known", None, None, None
    if entry is not None:
        title, licence, how = entry.title, entry.licence, (entry.manual or "").replace("<name of this archive>", name)
        page = getattr(entry, "landing", None)
        wanted = [file.bytes for file in entry.files if f"data/manual/{name}/{file.name}" in paths]
        known = [each for each in wanted if each is not None]
        size = sum(known) if known and len(known) == len(wanted) else None
    elif (described := config.descriptions.get(name.removeprefix("descriptions_"))) is not None:
        title, licence, how = described.title, described.licence, described.manual
    return Step(name, title, licence, paths, page, how, size, project.left_out.get(name), cells, alone)
