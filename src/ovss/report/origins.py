"""The origin of every own number: which cells use a row, its tooltip, the appendix."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ovss.report import formats
from ovss.report.inputs import RowSource


@dataclass(frozen=True)
class Entry:
    """One row of the appendix."""

    key: str
    anchor: str
    name: str
    problem: str
    commit: str
    seed: str
    device: str
    wall: str
    memory: str
    facts: str
    inputs: list[tuple[str, str]]
    files: list[tuple[str, str]]
    packages: str
    used_by: list[str]

    @property
    def tooltip(self) -> str:
        """What a cell shows when pointed at."""
        if self.problem:
            return f"refused: {self.problem}"
        return (f"key {self.key} · commit {self.commit[:12]} · seed {self.seed} · {self.device} · {self.wall} · "
                f"peak {self.memory} · {self.name}")


def keys_of(cell: Mapping[str, Any]) -> list[str]:
    """Keys of the rows a cell was computed from: none, one, or one per shard and ingredient."""
    key = cell.get("key")
    return list(key) if isinstance(key, list) else [key] if key else []


def entries(rows: Iterable[RowSource], used_by: Mapping[str, list[str]]) -> dict[str, Entry]:
    """Appendix entries by key, in the rows' order."""
    return {row.key: _entry(row, used_by.get(row.key, [])) for row in rows}


def _entry(row: RowSource, used_by: list[str]) -> Entry:
    record = row.record
    folders = record.get("input_names", {})
    inputs = record.get("parts", {}).get("inputs", {})
    return Entry(
        key=row.key,
        anchor=f"o-{row.key}",
        name=str(record.get("name", row.directory.name.rpartition(".")[0])),
        problem=row.problem,
        commit=str(record.get("commit", "unknown")),
        seed=str(record.get("seed", "unknown")),
        device=str(record.get("device", "unknown")),
        wall=formats.duration(record.get("wall_seconds")),
        memory=formats.memory(record.get("peak_memory_bytes")),
        facts=formats.settings(record.get("facts")),
        inputs=[(name, str(folders.get(name, key)).removeprefix("work/")) for name, key in sorted(inputs.items())],
        files=sorted(record.get("files", {}).items()),
        packages=", ".join(f"{name} {version}" for name, version in sorted(record.get("installed", {}).items())),
        used_by=used_by,
    )


def package_sets(found: Iterable[Entry]) -> list[tuple[str, list[Entry]]]:
    """Rows grouped by the installed package versions that made them, largest group first."""
    groups: dict[str, list[Entry]] = {}
    for entry in found:
        if entry.packages:
            groups.setdefault(entry.packages, []).append(entry)
    return sorted(groups.items(), key=lambda item: (-len(item[1]), item[0]))
