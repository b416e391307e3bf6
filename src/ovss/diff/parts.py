"""Which parts of a key differ between two outputs, followed through their inputs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ovss import origin
from ovss.errors import UserError

ABSENT = object()


def directory_of(repo: Path, key: str, stage: str = "*") -> Path | None:
    """The output directory work/<stage>/<name>.<key>, or None where it is not at hand."""
    if not key.isalnum():
        return None
    found = sorted(path for path in (repo / "work").glob(f"{stage}/*.{key}") if path.is_dir())
    return found[0] if found else None


def flatten(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """``(dotted path, value)`` of every leaf of nested mappings; lists are leaves, an empty mapping has none."""
    if isinstance(value, Mapping):
        for name in sorted(value):
            yield from flatten(value[name], f"{path}.{name}" if path else str(name))
    else:
        yield path, value


def difference(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Dotted paths whose values differ, with both values (``ABSENT`` where one side has none)."""
    old, new = dict(flatten(before)), dict(flatten(after))
    paths = sorted(old.keys() | new.keys())
    pairs = {path: (old.get(path, ABSENT), new.get(path, ABSENT)) for path in paths}
    return {path: pair for path, pair in pairs.items() if pair[0] is ABSENT or pair[1] is ABSENT or pair[0] != pair[1]}


def explain(repo: Path, before: str, after: str) -> list[str]:
    """``path: old -> new`` for every part that differs between two keys' outputs.

    An input that differs is replaced by its own differing parts (``inputs.model.params.steps``) where both of its
    outputs are at hand. Empty where the outputs themselves are not.
    """
    if before == after:
        return []
    directories = directory_of(repo, before), directory_of(repo, after)
    if None in directories:
        return []
    try:
        old, new = (origin.read(directory).record.get("parts", {}) for directory in directories if directory)
    except UserError:
        return []
    lines = []
    for path, (left, right) in difference(old, new).items():
        deeper = []
        if path.startswith("inputs.") and isinstance(left, str) and isinstance(right, str):
            deeper = explain(repo, left, right)
        lines += [f"{path}.{line}" for line in deeper] or [f"{path}: {_show(left)} -> {_show(right)}"]
    return lines


def _show(value: Any) -> str:
    if value is ABSENT:
        return "(absent)"
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True, ensure_ascii=False)
    if len(text) == 64 and text.isalnum():
        return text[:12]
    return text if len(text) <= 60 else f"{text[:57]}..."
