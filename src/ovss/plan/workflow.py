"""What the Snakefile asks of the plan: paths with keys, missing inputs, passes, targets, commands."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ovss.plan.job import Job
from ovss.plan.plan import Plan, load_plan
from ovss.plan.stages import STAGES

_EARLY = 1000


def _growing(megabytes: int) -> Callable[..., int]:
    """Memory of a job's tries: each asks for as much more as the first one had."""
    return lambda wildcards, attempt: megabytes * attempt


@dataclass(frozen=True)
class Pass:
    """One process that makes several outputs: those of its group that do not exist yet."""

    rule: str
    stage: str
    inputs: list[str]
    outputs: list[str]
    log: str
    benchmark: str
    resources: dict[str, Any]
    priority: int
    command: str


@dataclass(frozen=True)
class Target:
    """A paper or a table as a target of the command line."""

    rule: str
    outputs: list[str]


class Workflow:
    """The plan in Snakemake's terms. The graph is cut at outputs that exist: they have no inputs."""

    def __init__(self, root: Path, plan: Plan, full_graph: bool) -> None:
        self.root = root
        self.plan = plan
        self.full_graph = full_graph
        self._first: dict[tuple[str, str], str] = {}
        self.command = f"{shlex.quote(sys.executable)} -m ovss.cli"
        self.shell = f"{self.command} job --scale {plan.scale} {{output}} 2>&1 | tee {{log}}"
        self.everything = [job.done for job in (plan.report, *plan.tables.values(), *plan.claims.values())]

    @classmethod
    def load(cls, root: str, config: Mapping[str, Any]) -> Workflow:
        """Plan the scale that ``--config scale=...`` names; ``full_graph=1`` keeps inputs of outputs that exist."""
        plan = load_plan(Path(root), config.get("scale"))
        return cls(Path(root), plan, bool(config.get("full_graph")))

    def exists(self, job: Job) -> bool:
        """Whether a job's output is complete."""
        return (self.root / job.done).is_file()

    def _needs(self, job: Job) -> list[str]:
        """What has to be made first: inputs that are missing, one output standing for all of its pass."""
        if self.full_graph:
            return [other.done for other in job.inputs.values()]
        if self.exists(job):
            return []
        missing = [other for other in job.inputs.values() if not self.exists(other)]
        return list(dict.fromkeys(self._standing_for(other) for other in missing))

    def _standing_for(self, job: Job) -> str:
        if job.group is None:
            return job.done
        at = (job.stage, job.group)
        if at not in self._first:
            self._first[at] = next(other.done for other in self.plan.groups[at] if not self.exists(other))
        return self._first[at]

    def inputs(self, stage: str) -> Callable[[Any], list[str]]:
        """Input function of a stage's rule."""
        return lambda wildcards: self._needs(self.plan.jobs[f"work/{stage}/{wildcards.name}.{wildcards.key}"])

    @staticmethod
    def output(stage: str) -> str:
        """Output pattern of a stage's rule."""
        return f"work/{stage}/{{name}}.{{key}}/origin.json"

    @staticmethod
    def log(stage: str) -> str:
        """Log pattern of a stage's rule."""
        return f"logs/{stage}/{{name}}.{{key}}.log"

    @staticmethod
    def benchmark(stage: str) -> str:
        """Benchmark pattern of a stage's rule."""
        return f"benchmarks/{stage}/{{name}}.{{key}}.tsv"

    @staticmethod
    def resources(stage: str, processes: int = 1) -> dict[str, Any]:
        """Memory (MB), time (minutes) and GPUs (none with OVSS_DEVICE=cpu) of a job that starts so many processes."""
        kind = STAGES[stage]
        wanted = {"mem_mb": _growing(processes * kind.memory_mb), "runtime": kind.minutes}
        gpus = 0 if os.environ.get("OVSS_DEVICE") == "cpu" else processes * kind.gpus
        return {**wanted, "gpu": gpus} if gpus else wanted

    def passes(self, *stages: str) -> Iterator[Pass]:
        """The passes of some stages that have outputs still to make (all of them with ``full_graph=1``)."""
        for (stage, group), jobs in self.plan.groups.items():
            missing = [job for job in jobs if self.full_graph or not self.exists(job)]
            if stage in stages and missing:
                needs = sorted({path for job in missing for path in self._needs(job)})
                name = f"{stage}/{group}"
                seal = self.plan.seal(stage, group)
                yield Pass(
                    f"{stage}_{group}".replace("-", "_").replace(".", "_"),
                    stage,
                    needs,
                    [job.done for job in missing],
                    f"logs/{name}.{seal}.log",
                    f"benchmarks/{name}.{seal}.tsv",
                    self.resources(stage, max(int(job.params.get("processes", 1)) for job in missing)),
                    len(missing) + _EARLY * STAGES[stage].early,
                    f"{self.command} job --scale {self.plan.scale} --pass {name} --seal {seal}",
                )

    @property
    def targets(self) -> list[Target]:
        """One target per paper and per table (``freecp``, ``freecp_table2``)."""
        return [Target(name, [job.done for job in jobs]) for name, jobs in self.plan.targets.items()]

    def publish(self, target: str | None = None) -> str:
        """Command that copies tables, claims and report to results/ where they differ."""
        return f"{self.command} publish --scale {self.plan.scale} {target or ''}".rstrip()
