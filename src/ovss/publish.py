"""Copies of finished tables, claims and the report under stable names in ``results/``, and the summary of them."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import sys
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

from ovss import origin
from ovss.errors import UserError
from ovss.failures import left_out_of
from ovss.plan.job import Job
from ovss.plan.plan import Plan
from ovss.plan.rows import Empty
from ovss.plan.stages import STAGES

_TABLE_FILES = {"metrics.json": ".json", "table.md": ".md", "table.csv": ".csv"}
_CLAIM_FILES = {"claims.json": "claims.json", "claims.md": "claims.md"}


def _copy(source: Path, target: Path) -> None:
    """Copy a file where its bytes differ, by a temporary name and a rename."""
    _write_bytes(target, source.read_bytes())


def _write_bytes(target: Path, data: bytes) -> None:
    if target.is_file() and target.read_bytes() == data:
        return
    temporary = target.with_name(f"{target.name}.part-{os.getpid()}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(data)
        os.replace(temporary, target)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise UserError(
            f"{target}: cannot be written ({error.strerror}); make room or mend the permissions and run the same "
            "command again"
        ) from error


def wide_curves(text: str) -> str:
    """Curves with one column per split and metric, for ``dvc plots``, from lines ``step,split,metric,value``."""
    steps: dict[int, dict[str, str]] = defaultdict(dict)
    for line in csv.DictReader(io.StringIO(text)):
        steps[int(line["step"])][f"{line['split']}_{line['metric']}"] = line["value"]
    columns = sorted({name for values in steps.values() for name in values})
    out = io.StringIO()
    writer = csv.DictWriter(out, ["step", *columns], lineterminator="\n")
    writer.writeheader()
    writer.writerows({"step": step, **values} for step, values in sorted(steps.items()))
    return out.getvalue()


def _publish_job(job: Job, plan: Plan, root: Path) -> None:
    directory, results = root / job.directory, root / "results" / plan.scale
    origin.check(directory)
    if job.stage == "table":
        paper, table = job.params["paper"], job.params["table"]["id"]
        for name, suffix in _TABLE_FILES.items():
            _copy(directory / name, results / paper / f"{table}{suffix}")
    elif job.stage == "claims":
        for name, target in _CLAIM_FILES.items():
            _copy(directory / name, results / job.params["paper"] / target)
    else:
        for path in sorted(directory.rglob("*")):
            if path.is_file() and path.name != origin.FILE:
                _copy(path, results / "report" / path.relative_to(directory))
        for name, model in job.inputs.items():
            curves = root / model.directory / "curves.csv"
            if name.startswith("models/") and curves.is_file():
                text = wide_curves(curves.read_text(encoding="utf-8"))
                _write_bytes(results / "curves" / f"{model.name}.csv", text.encode())


def publish(plan: Plan, root: Path, target: str | None) -> None:
    """Copy a target's outputs (default: everything) to ``results/<scale>/``.

    Raises:
        UserError: an output is missing or was edited, the target does not exist, or results/ cannot be written.
    """
    everything = [*plan.tables.values(), *plan.claims.values(), plan.report]
    if target is not None and target not in plan.targets:
        raise UserError(f"{target}: no such paper or table; there are: {', '.join(sorted(plan.targets))}")
    for stage in STAGES:
        (root / "work" / stage).mkdir(parents=True, exist_ok=True)  # DVC wants every folder that it tracks
    for job in plan.targets[target] if target else everything:
        _publish_job(job, plan, root)
    for paper, table in plan.left_out:
        _write_bytes(root / "results" / plan.scale / paper / f"{table}.json", b"{}\n")  # DVC wants every metrics file
    print(f"published under results/{plan.scale}/", file=sys.stderr)


def _claims(plan: Plan, root: Path, paper: str) -> str:
    path = root / "results" / plan.scale / paper / "claims.json"
    if not path.is_file():
        return "-"
    record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    counts = Counter(claim["verdict"] for claim in record["claims"])
    return ", ".join(f"{counts[name]} {name.replace('_', ' ')}" for name in sorted(counts)) or "-"


def summary(plan: Plan, root: Path) -> str:
    """What the results hold, paper by paper, and where the report is."""
    lines = [f"{'paper':<10} {'tables':>6} {'cells':>6} {'filled':>6}  claims"]
    for paper in dict.fromkeys(name for name, _ in plan.tables):
        cells = [cell for at, cell in plan.cells.items() if at[0] == paper and not _cited(cell)]
        filled = sum(not isinstance(cell, Empty) for cell in cells)
        tables = sum(name == paper for name, _ in plan.tables)
        lines.append(f"{paper:<10} {tables:>6} {len(cells):>6} {filled:>6}  {_claims(plan, root, paper)}")
    report = root / "results" / plan.scale / "report" / "index.html"
    return "\n".join([f"scale {plan.scale}", *lines, *_incomplete(plan, root), "", f"report: {report}"])


def _incomplete(plan: Plan, root: Path) -> list[str]:
    """What the results lack because it could not be fetched, and how many cells that is."""
    lines = []
    for archive, why in sorted(left_out_of(root).items()):
        cells = sum(
            isinstance(cell, Empty) and f"could not be fetched: {why}" in cell.why for cell in plan.cells.values()
        )
        lines.append(f"INCOMPLETE: {archive} could not be fetched, {cells} cells are empty for it: {why}")
    return ["", *lines] if lines else []


def _cited(cell: list[Job] | Empty) -> bool:
    return isinstance(cell, Empty) and cell.why in {"cited", "derived"}
