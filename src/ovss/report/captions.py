"""The section on caption collections: how large each is, what was left out, and how well its index finds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ovss.errors import UserError
from ovss.report import formats
from ovss.report.inputs import read_json

MANIFEST = "manifest.json"
_ENCODER = 12


@dataclass(frozen=True)
class Index:
    """An index as shown: recipe, size per vector, lists searched, recall, candidates compared again for each hit."""

    recipe: str
    bytes_per_vector: str
    nprobe: str
    recall: str
    queries: str
    rerank: str


@dataclass(frozen=True)
class Captions:
    """A collection as shown; ``skipped``: (reason, how many); ``index``: None where none was made."""

    title: str
    name: str
    rows: str
    size: str
    dimension: str
    encoder: str
    skipped: list[tuple[str, str]]
    index: Index | None


def load(entries: Sequence[Mapping[str, Any]], inputs: Mapping[str, Path]) -> list[Captions]:
    """What the report's ``collections`` tell: ``{"name", "title", "input", "index": input name or null}``.

    Raises:
        UserError: an input is missing, or a manifest is damaged.
    """
    return [_captions(entry, inputs) for entry in entries]


def _captions(entry: Mapping[str, Any], inputs: Mapping[str, Path]) -> Captions:
    path = _input(entry["input"], inputs) / MANIFEST
    found = read_json(path)
    try:
        files = [facts for shard in found["shards"] for facts in shard["files"].values()]
        return Captions(
            title=entry["title"],
            name=entry["name"],
            rows=count(found["rows"]),
            size=size(sum(facts["bytes"] for facts in files)),
            dimension=count(found["dimension"]),
            encoder=str(found["encoder"])[:_ENCODER],
            skipped=[
                (reason.replace("_", " "), count(number)) for reason, number in found["skipped"].items() if number
            ],
            index=_index(_input(entry["index"], inputs) / MANIFEST) if entry.get("index") else None,
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path}: no manifest of a caption collection ({error}); delete it and rerun its job"
        ) from error


def _index(path: Path) -> Index:
    found = read_json(path)
    try:
        nprobe = found["nprobe"]
        return Index(str(found["recipe"]), f"{found['bytes_per_vector']:.4g}", count(nprobe) if nprobe else "–",
                     f"{100 * found['recall_at_10']:.1f} %", count(found["queries"]),
                     str(found.get("rerank") or ""))  # fmt: skip
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: no manifest of an index ({error}); delete it and rerun its job") from error


def _input(name: str, inputs: Mapping[str, Path]) -> Path:
    if name not in inputs:
        raise UserError(f"params collections: no input '{name}' was given to the report; plan the report again")
    return inputs[name]


def count(value: int) -> str:
    """A whole number with thin spaces between thousands."""
    return f"{value:,}".replace(",", "\u202f")


def size(value: float) -> str:
    """Bytes as KiB, or as ``formats.memory`` has them."""
    return f"{value / 2**10:.0f} KiB" if value < 2**20 else formats.memory(value)
