"""The plan in words and as JSON: jobs, GPU-hours, downloads, disk, manual steps, cells that stay empty."""

from __future__ import annotations

import json
import textwrap
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ovss.plan.assumed import THROUGHPUT, TYPICAL
from ovss.plan.cost import Costs, Estimate
from ovss.plan.disk import Download, downloads, made
from ovss.plan.job import Job
from ovss.plan.manual import Step, opened, steps, with_everything
from ovss.plan.plan import Plan
from ovss.plan.project import Project
from ovss.plan.rows import Empty
from ovss.plan.stages import STAGES

WIDTH = 100
CPU = "CPU"


def as_json(plan: Plan, costs: Costs | None = None) -> str:
    """Every job: stage, name, and the parts of its key, by output directory; with ``costs`` its GPU-hours by itself
    (null: not estimated; 0 on a CPU)."""
    jobs: dict[str, dict[str, Any]] = {
        path: {"stage": job.stage, "name": job.name, "key": job.key, "parts": job.parts,
               "inputs": {name: other.directory for name, other in job.inputs.items()}}
        for path, job in plan.jobs.items()}  # fmt: skip
    if costs is not None:
        for path, job in plan.jobs.items():
            cost = costs.of([job])
            jobs[path]["gpu_hours"] = None if cost.unknown else float(f"{cost.work.hours:.2g}")
    return json.dumps({"scale": plan.scale, "jobs": jobs}, sort_keys=True)


def job_list(plan: Plan, root: Path, costs: Costs, stage: str | None = None) -> str:
    """Every job (of a stage): whether it is there, its GPU-hours by itself, its output and its inputs."""
    lines = []
    for path, job in plan.jobs.items():
        if stage in (None, job.stage):
            state = "there " if (root / job.done).is_file() else "to run"
            lines.append(f"{state} {_hours(job.stage, costs.of([job])):>7}  {path}")
            lines += [f"{'':>16}{name}: {other.directory}" for name, other in job.inputs.items()]
    return "\n".join(lines)


def overview(project: Project, plan: Plan) -> str:
    """What a run would do and cost, and what it would lack; at most 100 columns."""
    costs, root = Costs(project), project.root
    real = project.params.at(plan.scale).world is None
    todo = [job for job in plan.jobs.values() if not (root / job.done).is_file()]
    whole = with_everything(project, plan.scale)
    waiting = steps(project, plan, whole)
    filled = sum(not isinstance(cell, Empty) for cell in plan.cells.values())
    parts = [
        [f"scale {plan.scale}: {len(plan.jobs)} outputs, {len(todo)} of them to make; {filled} cells get a number"],
        _stages(plan, todo, costs if real else None),
        _papers(plan, whole, todo, costs) if real else [],
        _downloads(downloads(project, plan.jobs.values())),
        _disk(project, plan, todo, costs) if real else [],
        _manual(waiting),
        _empty(plan, whole),
    ]
    return "\n\n".join("\n".join(part) for part in parts if part)


def _hours(stage: str, cost: Estimate) -> str:
    return str(cost) if STAGES[stage].gpus else CPU


def _stages(plan: Plan, todo: Sequence[Job], costs: Costs | None) -> list[str]:
    """Jobs of each stage; submissions are what a cluster's queue sees, since a pass makes many outputs."""
    lines = [f"{'stage':<16} {'there':>7} {'to run':>7} {'submissions':>12}" + (f" {'GPU-hours':>10}" if costs else "")]
    total = 0
    for stage in STAGES:
        jobs, missing = ([job for job in some if job.stage == stage] for some in (plan.jobs.values(), todo))
        if not jobs:
            continue
        submissions = len({job.group or job.key for job in missing})
        total += submissions
        hours = f" {_hours(stage, costs.of(missing)):>10}" if costs else ""
        lines.append(f"{stage:<16} {len(jobs) - len(missing):>7} {len(missing):>7} {submissions:>12}{hours}")
    whole = f" {costs.of(todo)!s:>10}" if costs else ""
    return [*lines, f"{'all':<16} {len(plan.jobs) - len(todo):>7} {len(todo):>7} {total:>12}{whole}"]


def _papers(plan: Plan, whole: Plan, todo: Sequence[Job], costs: Costs) -> list[str]:
    """GPU-hours of each paper by itself, now and with every file placed."""
    missing = {job.key for job in todo}
    lines = [f"{'paper by itself':<16} {'GPU-hours':>10} {'if all that is missing below were placed':>42}"]
    for paper in dict.fromkeys(name for name, _ in plan.tables):
        now = [job for job in _needed(plan, paper) if job.key in missing]
        lines.append(f"{paper:<16} {costs.of(now)!s:>10} {costs.of(_needed(whole, paper))!s:>42}")
    fast, faster = THROUGHPUT.fp32 / 1e12, THROUGHPUT.bf16 / 1e12
    note = (
        "An estimate of the order, no promise: operations of the networks, each counted once a pass, at an ASSUMED "
        f"{fast:g} TFLOP/s in float32 and {faster:g} in bfloat16 for {THROUGHPUT.gpu}, all else included; images of "
        f"{TYPICAL.image[1]}x{TYPICAL.image[0]}, Cityscapes 2048x1024. Papers share work, so their sum is more than "
        "the whole. '?': not known. Job by job: ovss plan --jobs --stage evaluate."
    )
    return [*lines, *textwrap.wrap(note, WIDTH)]


def _needed(plan: Plan, paper: str) -> list[Job]:
    """Every job that a paper's cells need."""
    found: dict[str, Job] = {}
    todo = [job for at, cell in plan.cells.items() if at[0] == paper and not isinstance(cell, Empty) for job in cell]
    while todo:
        job = todo.pop()
        if job.key not in found:
            found[job.key] = job
            todo.extend(job.inputs.values())
    return list(found.values())


def _downloads(found: Sequence[Download]) -> list[str]:
    if not found:
        return []
    lines = [f"downloads {'':<54} {'size':>12}  state"]
    for each in found:
        size = f"{'about ' if each.rough else ''}{_bytes(each.known)}" if each.known else "not known"
        state = "there" if each.there else "placed by hand" if each.placed else "to fetch"
        lines.append(f"  {each.name:<24.24} {each.title:<36.36} {size:>13}  {state}")
        if each.unknown and each.known:
            lines.append(f"  {'':<24} and of unknown size: {_few(each.unknown)}")
    there = sum(each.known for each in found if each.there)
    unknown = sum(len(each.unknown) for each in found)
    lines.append(
        f"  in all {_bytes(sum(each.known for each in found))}, {_bytes(there)} of it there"
        + (f", and {unknown} files of unknown size" if unknown else "")
    )
    return lines


def _disk(project: Project, plan: Plan, todo: Sequence[Job], costs: Costs) -> list[str]:
    sizes: Counter[str] = Counter()
    unknown: Counter[str] = Counter()
    for job in todo:
        size = made(project, costs, job)
        unknown[job.stage] += size is None
        sizes[job.stage] += int(size or 0)
    sizes["fetch"] = sum(each.known for each in downloads(project, todo))
    named = [f"{stage} {_bytes(size)}" for stage, size in sizes.most_common() if size >= 1e8]
    text = f"disk, to come: about {_bytes(sum(sizes.values()))}" + (f" ({', '.join(named)})" if named else "")
    if some := [stage for stage, count in unknown.items() if count]:
        text += f", without what is not known ({', '.join(some)})"
    text += ". The DVC cache takes as much again where the file system cannot share blocks between files (reflinks)."
    return textwrap.wrap(text, WIDTH)


def _manual(waiting: Sequence[Step]) -> list[str]:
    if not waiting:
        return []
    lines = ["to be placed by hand, each opening these cells (in brackets: those that need nothing else)"]
    for step in waiting:
        lines += [
            "",
            *textwrap.wrap(f"{step.name}: {step.title}", WIDTH, initial_indent="  ", subsequent_indent="    "),
        ]
        if step.failure is not None:
            lines += _item("failed", step.failure)
        lines += _item("cells", f"{len(step.cells)} ({len(step.alone)}): {opened(step.cells)}")
        for path in step.paths:
            lines += _item("place", path)
        if step.bytes:
            lines += _item("size", f"about {_bytes(step.bytes)}")
        for word, text in (("page", step.page), ("licence", step.licence), ("how", step.how)):
            lines += _item(word, text) if text else []
    return lines


def _item(word: str, text: str) -> list[str]:
    return textwrap.wrap(
        text, WIDTH, initial_indent=f"    {word:<8}", subsequent_indent=" " * 12, break_on_hyphens=False
    )


def _empty(plan: Plan, whole: Plan) -> list[str]:
    """Cells that stay empty whatever is placed, by reason."""
    reasons = Counter(cell.why for cell in whole.cells.values() if isinstance(cell, Empty))
    lines = ["cells that stay empty, by reason"] if reasons else []
    for why, count in reasons.most_common():
        lines += textwrap.wrap(why, WIDTH, initial_indent=f"{count:>6} ", subsequent_indent=" " * 7)
    return lines


def _few(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"


def _bytes(count: float) -> str:
    """Two digits, decimal units as on the providers' pages."""
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{float(f'{count / size:.2g}'):g} {unit}"
    return f"{count:g} B"
