"""What the overview counts: cells by state, claims by verdict."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ovss.report.inputs import VERDICTS
from ovss.report.tableview import STATES, TableView

WORDS = {"supported": "supported", "contradicted": "contradicted", "inconclusive": "inconclusive",
         "not_run": "not run"}  # fmt: skip
MARKS = {"supported": "✓", "contradicted": "✗", "inconclusive": "?", "not_run": "–"}


@dataclass(frozen=True)
class Count:
    """A number of things of one kind, with its share of all in percent."""

    name: str
    word: str
    mark: str
    count: int
    share: float


def cell_counts(tables: Iterable[TableView]) -> list[Count]:
    """Cells of some tables by state."""
    total: Counter[str] = Counter()
    for table in tables:
        total.update(table.counts)
    return _counts(total, STATES, {name: name for name in STATES}, {})


def claim_counts(claims: Iterable[Mapping[str, Any]]) -> list[Count]:
    """Claims by verdict."""
    return _counts(Counter(claim["verdict"] for claim in claims), VERDICTS, WORDS, MARKS)


def _counts(
    total: Counter[str], names: Iterable[str], words: Mapping[str, str], marks: Mapping[str, str]
) -> list[Count]:
    everything = sum(total.values()) or 1
    return [Count(name.replace(" ", "_"), words[name], marks.get(name, ""), total[name],
                  round(100 * total[name] / everything, 2)) for name in names]  # fmt: skip
