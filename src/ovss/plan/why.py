"""``ovss why``: what a key is made of, and which part of it changed between two commits."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

from ovss.errors import UserError
from ovss.plan.revisions import plan_at

Jobs = Mapping[str, Any]


def differing_parts(old: Any, new: Any, prefix: str = "") -> Iterator[str]:
    """Dotted paths at which two nested values differ, with both values where they are short."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for name in sorted(old.keys() | new.keys()):
            yield from differing_parts(old.get(name), new.get(name), f"{prefix}.{name}" if prefix else name)
    elif old != new:
        before, after = (json.dumps(value, ensure_ascii=False) for value in (old, new))
        yield f"{prefix}: {before} -> {after}" if len(before) + len(after) < 120 else f"{prefix}: changed"


def _select(jobs: Jobs, path: str) -> list[str]:
    wanted = path.removeprefix("./").rstrip("/").removesuffix("/origin.json").removeprefix("work/")
    found = [name for name in jobs if name.removeprefix("work/").startswith(wanted)]
    if not found:
        raise UserError(
            f"{path}: no such output in the plan; 'ovss plan' lists the stages, 'ovss plan --json' all of it"
        )
    return found


def _explain(jobs: Jobs, path: str) -> str:
    parts = jobs[path]["parts"]
    lines = [path, f"  command   {parts['command']}"]
    lines += [f"  input     {name} = {directory}" for name, directory in sorted(jobs[path]["inputs"].items())]
    lines += [
        f"  parameter {name} = {json.dumps(value, ensure_ascii=False)[:150]}" for name, value in parts["params"].items()
    ]
    lines += [f"  package   {name} {version}" for name, version in parts["packages"].items()]
    lines += [f"  source    {name} {value}" for name, value in parts["sources"].items()]
    return "\n".join(lines)


def _own_parts(job: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in job["parts"].items() if name != "inputs"}


def _before(old: Jobs, new: Jobs, path: str) -> Mapping[str, Any] | None:
    """What an output was: itself, or the one of its stage and name that is planned no longer and is most like it."""
    job = new[path]
    if path in old:
        return cast("Mapping[str, Any]", old[path])
    same = {at: other for at, other in old.items() if (other["stage"], other["name"]) == (job["stage"], job["name"])}
    gone = [other for at, other in same.items() if at not in new] or list(same.values())
    parts = _own_parts(job)
    return min(gone, key=lambda other: sum(1 for _ in differing_parts(_own_parts(other), parts)), default=None)


def _compare(old: Jobs, new: Jobs, path: str, depth: int, seen: set[str]) -> Iterator[str]:
    job, before = new[path], _before(old, new, path)
    if before is None:
        yield f"{'  ' * depth}{path}: is new"
        return
    if before["key"] == job["key"] or path in seen:
        return
    seen.add(path)
    yield f"{'  ' * depth}{job['stage']}/{job['name']}: {before['key']} -> {job['key']}"
    for line in differing_parts(_own_parts(before), _own_parts(job)):
        yield f"{'  ' * (depth + 1)}{line}"
    for directory in job["inputs"].values():
        yield from _compare(old, new, directory, depth + 1, seen)


def why(root: Path, path: str, revisions: list[str], scale: str | None) -> str:
    """Explain the outputs whose path starts with ``path``, or what changed their keys between two revisions.

    Raises:
        UserError: no such output, or a revision that cannot be planned.
    """
    if len(revisions) > 2:
        raise UserError("ovss why takes one revision (against the working tree) or two")
    new = plan_at(root, revisions[1] if len(revisions) == 2 else None, scale)
    chosen = _select(new, path)
    if not revisions:
        return "\n\n".join(_explain(new, name) for name in chosen)
    old = plan_at(root, revisions[0], scale)
    seen: set[str] = set()
    lines = [line for name in chosen for line in _compare(old, new, name, 0, seen)]
    return "\n".join(lines) or "no key changed"
