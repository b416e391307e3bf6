"""The origin of every own number: which cells use a row, its tooltip, the appendix."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ovss.report import formats
from ovss.report.inputs import RowSource

_HASH = 16
"""Hex digits shown of a file's sha256 where a row has many shards."""


@dataclass(frozen=True, eq=False)
class Entry:
    """One line of the appendix: a row on one data set, all its shards together."""

    keys: list[str]
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
        more = f" and {len(self.keys) - 1} more shards" if len(self.keys) > 1 else ""
        return (f"key {self.keys[0]}{more} · commit {self.commit[:12]} · seed {self.seed} · {self.device} · "
                f"{self.wall} · peak {self.memory} · {self.name}")  # fmt: skip


def keys_of(cell: Mapping[str, Any]) -> list[str]:
    """Keys of the rows a cell was computed from: none, one, or one per shard and ingredient."""
    key = cell.get("key")
    return list(key) if isinstance(key, list) else [key] if key else []


def entries(rows: Iterable[RowSource], used_by: Mapping[str, list[str]]) -> dict[str, Entry]:
    """The appendix's entry of every key, in the rows' order; the shards of one row share theirs."""
    groups: dict[str, list[RowSource]] = {}
    for row in rows:
        groups.setdefault(_identity(row), []).append(row)
    return {row.key: entry for group in groups.values() for entry in [_entry(group, used_by)] for row in group}


def distinct(found: Mapping[str, Entry]) -> list[Entry]:
    """Every entry once."""
    return list(dict.fromkeys(found.values()))


def _identity(row: RowSource) -> str:
    """What shards of one row have in common: everything in the key but the shard."""
    parts = row.record.get("parts", {})
    shared = {name: value for name, value in parts.get("params", {}).items() if name != "shard"}
    same = bool(shared) and "shard" in parts["params"] and not row.problem
    return json.dumps([shared, parts.get("inputs"), row.record.get("commit")], sort_keys=True) if same else row.key


def _entry(shards: Sequence[RowSource], used_by: Mapping[str, list[str]]) -> Entry:
    first, records = shards[0], [shard.record for shard in shards]
    record = first.record
    folders = record.get("input_names", {})
    inputs = record.get("parts", {}).get("inputs", {})
    keys = [shard.key for shard in shards]
    return Entry(
        keys=keys,
        anchor=f"o-{first.key}",
        name=str(record.get("name", first.directory.name.rpartition(".")[0])),
        problem=first.problem,
        commit=str(record.get("commit", "unknown")),
        seed=str(record.get("seed", "unknown")),
        device=", ".join(dict.fromkeys(str(each.get("device", "unknown")) for each in records)),
        wall=formats.duration(_combined(records, "wall_seconds", sum)),
        memory=formats.memory(_combined(records, "peak_memory_bytes", max)),
        facts=formats.settings(record.get("facts")) if len(shards) == 1 else f"{len(shards)} shards",
        inputs=[(name, str(folders.get(name, key)).removeprefix("work/")) for name, key in sorted(inputs.items())],
        files=_files(shards),
        packages=", ".join(f"{name} {version}" for name, version in sorted(record.get("installed", {}).items())),
        used_by=list(dict.fromkeys(place for key in keys for place in used_by.get(key, []))),
    )


def _combined(records: Sequence[Mapping[str, Any]], name: str, how: Any) -> float | None:
    values = [float(record[name]) for record in records if record.get(name) is not None]
    return how(values) if values else None


def _files(shards: Sequence[RowSource]) -> list[tuple[str, str]]:
    """Files and their sha256; of many shards only the counts, their hash cut short."""
    if len(shards) == 1:
        return sorted(shards[0].record.get("files", {}).items())
    return [(shard.key, str(shard.record.get("files", {}).get("counts.npz", "none"))[:_HASH]) for shard in shards]


def package_sets(found: Iterable[Entry]) -> list[tuple[str, list[Entry]]]:
    """Rows grouped by the installed package versions that made them, largest group first."""
    groups: dict[str, list[Entry]] = {}
    for entry in found:
        if entry.packages:
            groups.setdefault(entry.packages, []).append(entry)
    return sorted(groups.items(), key=lambda item: (-len(item[1]), item[0]))
