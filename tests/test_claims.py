"""The claims stage: what a paired difference says about a sentence of a paper."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from counted_rows import random_counts, write_row

from ovss.errors import UserError
from ovss.evaluation.bootstrap import paired, paired_difference
from ovss.jobs import JobContext, Machine
from ovss.report import claims as stage
from ovss.report.claims import Bound

GOOD, BAD, BAD_TWIN = random_counts(1, hit=0.9), random_counts(2, hit=0.2), random_counts(3, hit=0.2)
OTHER_GOOD = random_counts(4, images=30, hit=0.9, first=100)
OTHER_BAD = random_counts(5, images=30, hit=0.2, first=100)
Make = Callable[..., dict[str, Any]]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    counts = [GOOD, BAD, BAD_TWIN, OTHER_GOOD, OTHER_BAD, random_counts(6, images=1), random_counts(7, images=1)]
    inputs = {f"rows/{i}": write_row(tmp_path / "evaluate", f"r{i}", f"k{i}", c) for i, c in enumerate(counts)}

    def run(*comparisons: dict[str, Any], name: str = "out", **claim: Any) -> dict[str, Any]:
        values = {"id": "a-claim", "text": "Good beats bad.", "source": "Table 1", "comparisons": list(comparisons)}
        params = {"paper": "demo", "scale": "tiny", "bootstrap": {"resamples": 80, "level": 0.95},
                  "claims": [{**values, **claim}]}  # fmt: skip
        (tmp_path / name).mkdir()
        stage.run(JobContext(3, Machine(), params, inputs, tmp_path / name))
        return json.loads((tmp_path / name / "claims.json").read_text())["claims"][0]

    return run


def versus(better: int, worse: int, column: str = "VOC", **more: Any) -> dict[str, Any]:
    return {"column": column, "better": [f"rows/{better}"], "worse": [f"rows/{worse}"], "absent": "skip", **more}


def test_a_clear_difference_supports_the_claim_and_contradicts_its_opposite(make: Make) -> None:
    assert make(versus(0, 1))["verdict"] == "supported"
    assert make(versus(1, 0), name="other")["verdict"] == "contradicted"


def test_noise_is_inconclusive(make: Make) -> None:
    found = make(versus(1, 2))
    assert found["verdict"] == "inconclusive" and found["low"] < 0 < found["high"]


def test_identical_rows_contradict_a_gain_and_support_not_being_worse(make: Make) -> None:
    assert make(versus(0, 0))["verdict"] == "contradicted"
    assert make(versus(0, 0), name="other", kind="not_worse")["verdict"] == "supported"


def test_a_column_has_the_paired_difference_of_its_rows(make: Make) -> None:
    column = make(versus(0, 1))["columns"][0]
    expected = paired_difference(GOOD, BAD, seed=3, resamples=80)
    assert [column["difference"], column["low"], column["high"]] == [round(value, 4) for value in expected]
    assert (column["images"], column["keys"]) == (12, {"better": ["k0"], "worse": ["k1"]})
    assert column["better"] - column["worse"] == pytest.approx(column["difference"], abs=1e-4)


def test_the_claim_pools_its_columns_resample_by_resample(make: Make) -> None:
    found = make(versus(0, 1), versus(3, 4, "ADE"))
    parts = [paired(GOOD, BAD, seed=3, resamples=80), paired(OTHER_GOOD, OTHER_BAD, seed=3, resamples=80)]
    pooled = (parts[0].resamples + parts[1].resamples) / 2
    assert found["difference"] == pytest.approx((parts[0].value + parts[1].value) / 2, abs=1e-4)
    assert found["low"] == pytest.approx(sorted(pooled)[0], abs=(max(pooled) - min(pooled)) / 4)
    widths = [column["high"] - column["low"] for column in found["columns"]]
    assert found["high"] - found["low"] < max(widths)


def test_opposite_columns_cancel_in_the_pooled_verdict(make: Make) -> None:
    found = make(versus(0, 1), versus(1, 0, "VOC again"))
    assert [column["verdict"] for column in found["columns"]] == ["supported", "contradicted"]
    assert (found["difference"], found["low"], found["high"]) == (0.0, 0.0, 0.0)


def test_the_margin_moves_the_bar(make: Make) -> None:
    difference = make(versus(0, 1))["difference"]
    assert make(versus(0, 1), name="a", margin=difference + 50)["verdict"] == "contradicted"
    assert make(versus(0, 1), name="b", margin=difference)["verdict"] == "inconclusive"


@pytest.mark.parametrize(
    ("kind", "higher", "low", "high", "expected"),
    [
        ("greater", True, 1.1, 2.0, "supported"),
        ("greater", True, 0.9, 2.0, "inconclusive"),
        ("greater", True, 0.0, 1.0, "contradicted"),
        ("lower", True, -2.0, -1.1, "supported"),
        ("lower", True, -2.0, -0.9, "inconclusive"),
        ("lower", True, -1.0, 2.0, "contradicted"),
        ("not_worse", True, -1.0, 3.0, "supported"),
        ("not_worse", True, -1.1, 3.0, "inconclusive"),
        ("not_worse", True, -3.0, -1.1, "contradicted"),
        ("not_worse", False, -3.0, 1.0, "supported"),
        ("not_worse", False, 1.1, 3.0, "contradicted"),
    ],
)
def test_bounds_with_a_margin_of_one(kind: str, higher: bool, low: float, high: float, expected: str) -> None:
    assert Bound(kind, 1.0, higher).verdict(low, high) == expected


def test_bounds_agree_with_the_meaning_in_the_papers_files() -> None:
    from ovss.config.papers import Claim

    for kind in ("greater", "lower", "not_worse"):
        claim = Claim(id="a", text="", source="", better="t.a", worse="t.b", kind=kind, margin=1.0)
        for difference in (-2.0, -1.0, 0.0, 1.0, 2.0):
            for higher in (True, False):
                assert Bound(kind, 1.0, higher).holds(difference) == claim.holds(difference, 0.0, higher)


def test_a_rate_where_less_is_better_is_claimed_as_lower(make: Make) -> None:
    found = make(versus(0, 1, metric="fpr", higher_is_better=False), kind="lower")
    assert found["verdict"] == "supported" and -1 < found["difference"] < 0


def test_columns_that_did_not_run_are_left_out_by_name(make: Make) -> None:
    found = make(versus(0, 1), {"column": "City", "why": "no data set for City at this scale"})
    assert (found["verdict"], found["why"]) == ("supported", "without City")
    assert found["columns"][1]["verdict"] == "not_run"
    assert found["columns"][1]["why"] == "no data set for City at this scale"


def test_a_claim_that_cannot_be_evaluated_says_why(make: Make, tmp_path: Path) -> None:
    found = make({"column": "City", "why": "not implemented: method x"}, {"column": "ADE", "why": "no data"})
    assert (found["verdict"], found["why"]) == ("not_run", "not implemented: method x; no data")
    assert found["difference"] is None
    assert "| not run | not implemented: method x; no data |" in (tmp_path / "out" / "claims.md").read_text()


def test_a_reason_given_for_the_whole_claim_is_kept(make: Make) -> None:
    assert make(why="needs the authors' weights")["why"] == "needs the authors' weights"


def test_the_explanation_of_the_verdict_that_came_out_is_shown(make: Make, tmp_path: Path) -> None:
    texts = {"contradicted": "Too few images.", "supported": "As expected."}
    assert make(versus(0, 1), explanations=texts)["explanation"] == "As expected."
    assert "| supported. As expected. |" in (tmp_path / "out" / "claims.md").read_text()
    assert make(versus(1, 2), name="other", explanations=texts)["explanation"] is None
    assert "| inconclusive |" in (tmp_path / "other" / "claims.md").read_text()


def test_explanations_know_the_verdicts_of_the_claims() -> None:
    from typing import get_args

    from ovss.config.papers import Verdict

    assert get_args(Verdict) == stage.VERDICTS


def test_a_single_image_decides_nothing(make: Make) -> None:
    found = make(versus(5, 6))
    assert (found["verdict"], found["why"]) == ("not_run", "a single image says nothing about others")


def test_rows_on_different_images_are_compared_only_across_two_columns(make: Make) -> None:
    assert "different images (12 and 30)" in make(versus(0, 4))["why"]
    assert make(versus(0, 4, worse_column="ADE"), name="other")["verdict"] == "supported"


def test_an_edited_row_is_refused(make: Make, tmp_path: Path) -> None:
    BAD.save(tmp_path / "evaluate" / "r0.k0")
    found = make(versus(0, 1))
    assert found["verdict"] == "not_run"
    assert found["why"].startswith("origin missing or edited: r0.k0/counts.npz")


def test_columns_of_different_metrics_have_no_common_verdict(make: Make) -> None:
    found = make(versus(0, 1), versus(0, 1, "rate", metric="fpr", higher_is_better=False))
    assert (found["verdict"], found["difference"]) == ("not_run", None)
    assert "measure different things" in found["why"]
    assert [column["verdict"] for column in found["columns"]] == ["supported", "contradicted"]


def test_an_unknown_kind_is_named(make: Make) -> None:
    with pytest.raises(UserError, match="'bigger' is unknown, use one of greater, lower, not_worse"):
        make(versus(0, 1), kind="bigger")


def test_the_same_inputs_give_the_same_bytes(make: Make, tmp_path: Path) -> None:
    make(versus(0, 1), name="one")
    make(versus(0, 1), name="two")
    for name in ("claims.json", "claims.md"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_the_summary_counts_verdicts(make: Make, tmp_path: Path) -> None:
    make(versus(0, 1))
    written = json.loads((tmp_path / "out" / "claims.json").read_text())
    assert written["summary"] == {"supported": 1, "contradicted": 0, "inconclusive": 0, "not_run": 0}
