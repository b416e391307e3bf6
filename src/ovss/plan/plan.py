"""The plan: every job of a scale with its content key. Pure: the same files give the same plan."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from ovss.errors import UserError
from ovss.plan.job import Job, digest
from ovss.plan.project import Project
from ovss.plan.rows import Empty
from ovss.plan.tables import Tables

_CHANGED = "the sources or the configuration changed while the workflow was running; start the same command again"


@dataclass(frozen=True)
class Plan:
    """All jobs that lead to a scale's report."""

    scale: str
    seed: int
    report: Job
    tables: dict[tuple[str, str], Job]
    claims: dict[str, Job]
    cells: dict[tuple[str, str, str, str], list[Job] | Empty]
    left_out: tuple[tuple[str, str], ...] = ()

    @cached_property
    def jobs(self) -> dict[str, Job]:
        """Every job by its output directory."""
        found: dict[str, Job] = {}
        todo = [self.report]
        while todo:
            job = todo.pop()
            if job.directory not in found:
                found[job.directory] = job
                todo.extend(job.inputs.values())
        return dict(sorted(found.items()))

    @cached_property
    def groups(self) -> dict[tuple[str, str], list[Job]]:
        """The jobs of every pass, by stage and group."""
        groups: dict[tuple[str, str], list[Job]] = defaultdict(list)
        for job in self.jobs.values():
            if job.group is not None:
                groups[job.stage, job.group].append(job)
        return dict(groups)

    def seal(self, stage: str, group: str) -> str:
        """Digest of the keys of a pass: what it was planned as."""
        return digest([job.key for job in self.groups[stage, group]])

    def group(self, name: str, seal: str | None) -> list[Job]:
        """The jobs of pass ``<stage>/<group>``.

        Raises:
            UserError: there is no such pass, or the plan has changed since the pass was started.
        """
        stage, _, group = name.partition("/")
        if (stage, group) not in self.groups or (seal and seal != self.seal(stage, group)):
            raise UserError(f"pass {name}: {_CHANGED}")
        return self.groups[stage, group]

    def find(self, output: str) -> Job:
        """The job that makes ``work/<stage>/<name>.<key>`` (with or without /origin.json).

        Raises:
            UserError: the plan has no such output.
        """
        job = self.jobs.get(output.removesuffix("/origin.json"))
        if job is None:
            raise UserError(f"{output}: the plan of scale {self.scale} has no such output: {_CHANGED}")
        return job

    @cached_property
    def targets(self) -> dict[str, list[Job]]:
        """What to make for a paper or a table of it, by target name (freecp, freecp_table2)."""
        targets: dict[str, list[Job]] = defaultdict(list)
        for (paper, table), job in self.tables.items():
            targets[paper].append(job)
            targets[f"{paper}_{table}"].append(job)
        for paper, job in self.claims.items():
            targets[paper].append(job)
        return dict(targets)


def make_plan(project: Project, scale: str | None = None) -> Plan:
    """Expand the papers' tables into jobs.

    Raises:
        UserError: a row, a data set or a setting that does not exist.
    """
    name = scale or project.params.scale
    tables = Tables(project, name, project.params.at(name))
    known = [(paper, table) for paper in project.papers for table in project.papers[paper].tables]
    left_out = tuple(at for at in known if not tables.wanted(*at))
    table_jobs = {at: tables.table(project.papers[at[0]], at[1]) for at in known if at not in left_out}
    planned = {paper for paper, _ in table_jobs}
    claim_jobs = {
        name: tables.claims(paper) for name, paper in project.papers.items() if paper.claims and name in planned
    }
    report = tables.report(table_jobs, claim_jobs)
    return Plan(name, project.params.seed, report, table_jobs, claim_jobs, tables.cells, left_out)


def load_plan(root: Path, scale: str | None = None) -> Plan:
    """Read a project's files and plan a scale."""
    project = Project.load(root)
    plan = make_plan(project, scale)
    project.closure.remember()
    return plan
