"""The plan in words and as JSON."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

from ovss.plan.plan import Plan
from ovss.plan.rows import Empty
from ovss.plan.stages import STAGES


def as_json(plan: Plan) -> str:
    """Every job: stage, name, and the parts of its key, by output directory."""
    jobs = {path: {"stage": job.stage, "name": job.name, "key": job.key, "parts": job.parts,
                   "inputs": {name: other.directory for name, other in job.inputs.items()}}
            for path, job in plan.jobs.items()}  # fmt: skip
    return json.dumps({"scale": plan.scale, "jobs": jobs}, sort_keys=True)


def overview(plan: Plan, root: Path) -> str:
    """Jobs per stage (there, to run), and why cells stay empty."""
    lines = [f"scale {plan.scale}: {len(plan.jobs)} outputs", f"{'stage':<12} {'there':>6} {'to run':>6}"]
    for stage in STAGES:
        jobs = [job for job in plan.jobs.values() if job.stage == stage]
        there = sum((root / job.done).is_file() for job in jobs)
        if jobs:
            lines.append(f"{stage:<12} {there:>6} {len(jobs) - there:>6}")
    reasons = Counter(cell.why for cell in plan.cells.values() if isinstance(cell, Empty))
    filled = sum(not isinstance(cell, Empty) for cell in plan.cells.values())
    lines += ["", f"cells: {filled} computed", *(f"{count:>6} {why}" for why, count in reasons.most_common())]
    return "\n".join(lines)
