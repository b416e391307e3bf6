"""Stage ``claims``: checks a paper's statements with paired bootstrap differences over images.

A claim compares a ``better`` with a ``worse`` row in some columns. In a column both rows are evaluated on the same
resampled images, so that what makes an image easy or hard for both cancels. The claim's own number is the mean of its
columns' differences, resampled together: columns on the same images share their resamples, other columns are
resampled independently.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ovss.errors import UserError
from ovss.evaluation.bootstrap import Resampled, mean
from ovss.jobs import JobContext
from ovss.report.markdown import claims_text
from ovss.report.rows import Bootstrap, Measure, Rows, Score, rounded, write_json

VERDICTS = ("supported", "contradicted", "inconclusive", "not_run")


@dataclass(frozen=True)
class Bound:
    """What a claim says about a difference d = better - worse (``Claim.kind`` in a paper's file).

    greater: d > margin; lower: d < -margin; not_worse: d >= -margin, or d <= margin where lower numbers are better.
    """

    kind: str
    margin: float
    higher_is_better: bool = True

    def holds(self, difference: float) -> bool:
        """Whether a difference bears the claim out.

        Raises:
            UserError: unknown kind.
        """
        rules: dict[str, Callable[[float], bool]] = {
            "greater": lambda d: d > self.margin,
            "lower": lambda d: d < -self.margin,
            "not_worse": lambda d: d >= -self.margin if self.higher_is_better else d <= self.margin,
        }
        if self.kind not in rules:
            raise UserError(f"claim kind {self.kind!r} is unknown, use one of {', '.join(sorted(rules))}")
        return rules[self.kind](difference)

    def verdict(self, low: float, high: float) -> str:
        """supported: both ends of the interval bear the claim out; contradicted: neither does; else inconclusive."""
        ends = self.holds(low), self.holds(high)
        return "supported" if all(ends) else "inconclusive" if any(ends) else "contradicted"


def run(ctx: JobContext) -> dict[str, object]:
    """Write claims.json and claims.md.

    Raises:
        UserError: a comparison names an input that the job does not have.
    """
    rows = Rows(ctx.inputs, Bootstrap.of(ctx.params["bootstrap"], ctx.seed))
    found = [check(claim, rows, float(ctx.params.get("margin") or 0)) for claim in ctx.params["claims"]]
    counted = Counter(claim["verdict"] for claim in found)
    summary = {verdict: counted[verdict] for verdict in VERDICTS}
    claims = {"paper": ctx.params["paper"], "scale": ctx.params.get("scale"), "seed": ctx.seed,
              "bootstrap": dict(ctx.params["bootstrap"]), "summary": summary, "claims": found}  # fmt: skip
    write_json(ctx.out / "claims.json", claims)
    (ctx.out / "claims.md").write_text(claims_text(claims), encoding="utf-8", newline="\n")
    return dict(summary)


def check(claim: Mapping[str, Any], rows: Rows, margin: float) -> dict[str, Any]:
    """One claim as claims.json has it; ``margin`` is used where the claim has none of its own."""
    found = _verdict(claim, rows, margin)
    return found | {"explanation": (claim.get("explanations") or {}).get(found["verdict"])}


def _verdict(claim: Mapping[str, Any], rows: Rows, margin: float) -> dict[str, Any]:
    margin = float(claim["margin"]) if claim.get("margin") is not None else margin
    kind = claim.get("kind") or "greater"
    compared = [_compare(entry, rows, kind, margin) for entry in claim.get("comparisons") or ()]
    columns = [column for column, _ in compared]
    known = [difference for _, difference in compared if difference is not None]
    measured = {(entry.get("metric"), entry.get("higher_is_better")) for entry in claim.get("comparisons") or ()}
    out = {"id": claim["id"], "text": claim["text"], "source": claim["source"], "kind": kind, "margin": margin,
           "better": claim.get("better"), "worse": claim.get("worse"), "columns": columns, "why": None}  # fmt: skip
    if not known or len(measured) > 1:
        reasons = dict.fromkeys(str(column["why"]) for column in columns)
        why = claim.get("why") or "; ".join(reasons) or "nothing to compare"
        why = "its columns measure different things and have no mean: write one claim for each" if known else why
        return out | _numbers(None, rows) | {"verdict": "not_run", "why": why}
    numbers = _numbers(mean(known), rows)
    left_out = [str(column["column"]) for column in columns if column["verdict"] == "not_run"]
    return out | numbers | {
        "verdict": Bound(kind, margin, measured.pop()[1] is not False).verdict(numbers["low"], numbers["high"]),
        "why": f"without {', '.join(left_out)}" if left_out else None,
    }  # fmt: skip


def _compare(entry: Mapping[str, Any], rows: Rows, kind: str, margin: float) -> tuple[dict[str, Any], Resampled | None]:
    """One column of a claim: its entry in claims.json, and the resampled difference if there is one."""
    out: dict[str, Any] = {"column": entry["column"], "better": None, "worse": None, "images": None, "why": None}
    try:
        if entry.get("why"):
            raise UserError(entry["why"])
        measure = Measure(entry.get("metric") or "miou", entry.get("absent") or "skip")
        better, worse = (rows.score(entry[side], measure) for side in ("better", "worse"))
        counts = measure.metric == "count"
        difference = _paired(better, worse, entry.get("worse_column") not in (None, entry["column"]), counts)
    except UserError as error:
        return out | _numbers(None, rows) | {"verdict": "not_run", "why": str(error)}, None
    numbers = _numbers(difference, rows)
    bound = Bound(kind, margin, entry.get("higher_is_better") is not False)
    out |= {"better": rounded(better.resampled.value), "worse": rounded(worse.resampled.value),
            "images": len(better.images), "keys": {"better": list(better.keys), "worse": list(worse.keys)}}  # fmt: skip
    return out | numbers | {"verdict": bound.verdict(numbers["low"], numbers["high"])}, difference


def _paired(better: Score, worse: Score, two_columns: bool, counts: bool) -> Resampled:
    """The difference; two columns of a table may have different images, which are then resampled independently.

    Numbers that ``counts`` has (of training pairs) are exact and rest on no images.

    Raises:
        UserError: different images in one column, or a single image, of which nothing can be resampled.
    """
    if better.images != worse.images and not two_columns:
        raise UserError(f"rows on different images ({len(better.images)} and {len(worse.images)}) cannot be paired")
    if not counts and min(len(better.images), len(worse.images)) < 2:
        raise UserError("a single image says nothing about others")
    return better.resampled - worse.resampled


def _numbers(difference: Resampled | None, rows: Rows) -> dict[str, Any]:
    if difference is None:
        return {"difference": None, "low": None, "high": None}
    value, low, high = difference.interval(rows.bootstrap.level)
    return {"difference": rounded(value), "low": rounded(low), "high": rounded(high)}
