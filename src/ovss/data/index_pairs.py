"""The stage that indexes the usable pairs of a collection's shards and counts what cannot be used, and why."""

from __future__ import annotations

import json
import sys
from collections import Counter
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ovss.config.base import validate
from ovss.data.ahead import in_order
from ovss.data.pairs import FACTS, INDEX, ROW, PairRules, image_of, problem_of
from ovss.data.webdataset import CutShardError, absent_numbers, read_shard, shards_in
from ovss.errors import UserError
from ovss.jobs import JobContext

CUT = "in a shard that ends in the middle"


@dataclass(frozen=True)
class _Indexed:
    rows: NDArray[np.void]
    left_out: Counter[str]


def run(ctx: JobContext) -> dict[str, object]:
    """Index the usable pairs of one collection.

    Params: collection (name), stem (of the shards' names), expected (pairs that the collection should have, or null),
    rules (``PairRules``). Inputs: ``shards``, the folder with the shards.
    Output: ``pairs.npy`` (rows of ``ROW``, in the order of the shards), ``facts.json``. After a kill only the
    shards that were not finished are read again.

    Returns:
        {"collection", "shards", "absent_shards", "pairs", "expected", "left_out": {reason: count}}.

    Raises:
        UserError: there is no shard, one is damaged, no pair can be used, or more than half of them cannot.
    """
    collection = str(ctx.params["collection"])
    rules = validate(dict(ctx.params.get("rules", {})), PairRules, f"{collection}: rules")
    shards = shards_in(ctx.inputs["shards"], str(ctx.params["stem"]))
    ctx.scratch.mkdir(parents=True, exist_ok=True)
    index = partial(_index_or_recall, rules=rules, scratch=ctx.scratch)
    done = list(in_order(index, list(enumerate(shards)), ctx.machine.workers))
    rows, left_out = np.concatenate([part.rows for part in done]), sum((part.left_out for part in done), Counter[str]())
    if left_out.total() >= len(rows):
        reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(left_out.items())) or "the shards are empty"
        raise UserError(
            f"{collection}: only {len(rows)} pairs can be used ({reasons}); these are not the expected shards"
        )
    facts: dict[str, object] = {
        "collection": collection, "shards": [path.name for path in shards], "absent_shards": absent_numbers(shards),
        "pairs": len(rows), "expected": ctx.params.get("expected"), "left_out": dict(sorted(left_out.items())),
    }  # fmt: skip
    np.save(ctx.out / INDEX, rows)
    (ctx.out / FACTS).write_text(json.dumps(facts, sort_keys=True, indent=1) + "\n", encoding="utf-8")
    print(summary(facts), file=sys.stderr)
    return facts


def summary(facts: dict[str, object]) -> str:
    """One line on what an index holds: pairs, the share of those expected, what was left out."""
    count, expected, left_out, absent = (facts[key] for key in ("pairs", "expected", "left_out", "absent_shards"))
    assert isinstance(count, int) and isinstance(left_out, dict) and isinstance(absent, list)
    share = f" of {expected} expected ({100 * count / expected:.1f} %)" if isinstance(expected, int) else ""
    reasons = "".join(f"; {number} left out: {reason}" for reason, number in left_out.items())
    gaps = f"; shards not there: {', '.join(map(str, absent[:5]))}{', ...' * (len(absent) > 5)}" if absent else ""
    return f"{facts['collection']}: {count} pairs{share}{reasons}{gaps}"


def _index_or_recall(numbered: tuple[int, Path], rules: PairRules, scratch: Path) -> _Indexed:
    """The part of a shard; a killed run has left those of the shards that it had read."""
    number, path = numbered
    record, rows = scratch / f"{path.name}.json", scratch / f"{path.name}.npy"
    fits = {"number": number, "bytes": path.stat().st_size}
    if record.is_file():
        known = json.loads(record.read_text(encoding="utf-8"))
        if known["fits"] == fits:
            return _Indexed(np.load(rows, allow_pickle=False), Counter(known["left_out"]))
    part = _index_shard(numbered, rules)
    np.save(rows, part.rows)
    unfinished = record.with_suffix(".part")
    unfinished.write_text(json.dumps({"fits": fits, "left_out": part.left_out}), encoding="utf-8")
    unfinished.replace(record)
    return part


def _index_shard(numbered: tuple[int, Path], rules: PairRules) -> _Indexed:
    number, path = numbered
    rows, left_out = [], Counter[str]()
    try:
        for sample in read_shard(path):
            reason = problem_of(sample, rules)
            if reason is None:
                image, text = image_of(sample), sample.members["txt"]
                rows.append((number, image.offset, len(image.data), text.offset, len(text.data)))
            else:
                left_out[reason] += 1
    except CutShardError:
        if rules.cut_shards == "refuse":
            raise
        left_out[CUT] += 1
    return _Indexed(np.array(rows, dtype=ROW), left_out)
