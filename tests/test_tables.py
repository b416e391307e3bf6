"""The table stage: own numbers beside the published ones, reasons for the rest, the same bytes every time."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from counted_rows import random_counts, write_row

from ovss.errors import UserError
from ovss.evaluation.bootstrap import interval
from ovss.evaluation.confusion import ConfusionCounts
from ovss.jobs import JobContext, Machine
from ovss.report import table as stage
from ovss.report.cells import Comparison

Make = Callable[..., dict[str, Any]]
VOC, ADE = random_counts(1, hit=0.6), random_counts(2, images=20, classes=6, first=100)


def column(name: str, dataset: str | None, **more: Any) -> dict[str, Any]:
    return {"id": name, "label": name, "dataset": dataset, "metric": None, "unit": None, **more}


def row(name: str, kind: str, published: dict[str, Any], cells: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"id": name, "labels": {"method": name.upper()}, "kind": kind, "note": None, "method": "dense_clip",
            "settings": {"variant": name}, "protocol": "sclip", "derived": None, "published": published,
            "cells": cells, **more}  # fmt: skip


def params(scale: str = "tiny", tolerance: float | None = None, **more: Any) -> dict[str, Any]:
    """Parameters of the job; ``more`` replaces entries of the table."""
    both = {"VOC": {"inputs": ["rows/0"]}, "ADE": {"inputs": ["rows/1", "rows/2"]}}
    table = {
        "id": "table1", "title": "A table", "metric": "miou", "unit": "%", "higher_is_better": True, "absent": "skip",
        "note": None, "key_columns": ["method"],
        "columns": [column("VOC", "tiny_voc"), column("ADE", "tiny_ade"), column("Avg", None)],
        "derived": {"Avg": {"mean_of": ["VOC", "ADE"], "difference_of": None}},
        "rows": [
            row("ours", "run", {"VOC": 40.0, "ADE": 16.1, "Avg": 28.1}, both),
            row("half", "run", {"VOC": 41.0, "ADE": None, "Avg": None},
                {"VOC": {"inputs": ["rows/0"]}, "ADE": {"why": "no model of that kind"}}),
            row("cited", "citation", {"VOC": 12.0, "ADE": "n/a", "Avg": None},
                {"VOC": {"why": "cited"}, "ADE": {"why": "cited"}}, note="from their Table 2"),
        ],
    }  # fmt: skip
    return {"paper": "demo", "table": {**table, **more}, "scale": scale, "tolerance": tolerance, "seed": 5,
            "bootstrap": {"resamples": 60, "level": 0.95}}  # fmt: skip


@pytest.fixture
def inputs(tmp_path: Path) -> dict[str, Path]:
    left, right = random_counts(2, 8, 6, first=100), random_counts(2, 12, 6, first=108)
    return {
        "rows/0": write_row(tmp_path / "evaluate", "a", "aaa0", VOC),
        "rows/1": write_row(tmp_path / "evaluate", "b-0000of0002", "bbb0", left),
        "rows/2": write_row(tmp_path / "evaluate", "b-0001of0002", "bbb1", right),
    }


@pytest.fixture
def make(tmp_path: Path, inputs: dict[str, Path]) -> Make:
    def run(values: dict[str, Any] | None = None, name: str = "out") -> dict[str, Any]:
        out = tmp_path / name
        out.mkdir()
        stage.run(JobContext(5, Machine(), values or params(), inputs, out))
        return json.loads((out / "table.json").read_text())

    return run


def cell(table: dict[str, Any], row: str, column: str) -> dict[str, Any]:
    return next(entry for entry in table["rows"] if entry["id"] == row)["cells"][column]


def test_a_cell_has_the_value_and_interval_of_its_counts(make: Make) -> None:
    found = cell(make(), "ours", "VOC")
    expected = interval(VOC, "skip", seed=5, resamples=60)
    assert [found["ours"], found["low"], found["high"]] == [round(value, 4) for value in expected]
    assert (found["published"], found["key"], found["images"], found["why"]) == (40.0, "aaa0", 12, None)


def test_shards_are_one_data_set(make: Make) -> None:
    found = cell(make(), "ours", "ADE")
    assert found["ours"] == round(interval(ADE, seed=5, resamples=60)[0], 4)
    assert found["low"] == round(interval(ADE, seed=5, resamples=60)[1], 4)
    assert (found["key"], found["images"]) == (["bbb0", "bbb1"], 20)


def test_a_derived_column_is_the_mean_and_has_an_interval(make: Make) -> None:
    table = make()
    found, parts = cell(table, "ours", "Avg"), [cell(table, "ours", name) for name in ("VOC", "ADE")]
    assert found["ours"] == pytest.approx(sum(part["ours"] for part in parts) / 2, abs=1e-4)
    widths = [part["high"] - part["low"] for part in parts]
    assert 0 < found["high"] - found["low"] < max(widths)
    assert found["key"] == ["aaa0", "bbb0", "bbb1"]


def test_a_derived_column_without_a_part_says_which_one(make: Make) -> None:
    found = cell(make(), "half", "Avg")
    assert (found["ours"], found["verdict"], found["why"]) == (None, "not_run", "needs ADE: no model of that kind")


def test_derived_rows_are_computed_from_rows(make: Make) -> None:
    values = params()
    values["table"]["rows"].append(row("gain", "derived", {}, {"VOC": {"why": "derived"}},
                              derived={"difference_of": ["ours", "half"], "mean_of": None}))  # fmt: skip
    table = make(values)
    assert [cell(table, "gain", "VOC")[name] for name in ("ours", "low", "high")] == [0.0, 0.0, 0.0]
    assert cell(table, "gain", "Avg")["why"] == "needs half: needs ADE: no model of that kind"


def test_cells_derived_in_a_circle_say_so(make: Make) -> None:
    table = make(params(derived={"Avg": {"mean_of": ["Avg", "VOC"]}}))
    assert cell(table, "ours", "Avg")["why"] == "needs Avg: cell ours / Avg is derived from itself"


def test_every_empty_cell_has_a_reason_and_no_verdict_about_numbers(make: Make) -> None:
    for entry in make()["rows"]:
        for found in entry["cells"].values():
            assert (found["ours"] is None) == (found["why"] is not None) == (found["verdict"] != "effect_only")


def test_cited_numbers_are_never_computed(make: Make) -> None:
    table = make()
    assert [cell(table, "cited", name)["verdict"] for name in ("VOC", "ADE", "Avg")] == ["citation"] * 3
    assert cell(table, "cited", "ADE")["published"] == "n/a"
    assert cell(table, "cited", "VOC")["why"] == "from their Table 2"


@pytest.mark.parametrize(
    ("published", "interval_", "expected"),
    [
        (40.4, (39.9, 40.1), "within"),
        (40.6, (39.9, 40.1), "off"),
        (42.0, (37.0, 43.0), "within"),
        (42.0, (37.0, 41.9), "off"),
        (39.5, (40.0, 40.0), "within"),
        (None, (39.0, 41.0), "effect_only"),
        ("text", (39.0, 41.0), "effect_only"),
    ],
)
def test_verdict_at_full_scale(published: Any, interval_: tuple[float, float], expected: str) -> None:
    assert Comparison("full", 0.5).verdict(published, 40.0, *interval_) == expected


def test_no_number_is_held_against_the_papers_at_a_tiny_scale(make: Make) -> None:
    assert Comparison("tiny", 0.5).verdict(40.0, 40.0, 39.0, 41.0) == "effect_only"
    assert Comparison("full", None).verdict(40.0, 40.0, 39.0, 41.0) == "effect_only"
    assert cell(make(), "ours", "VOC")["difference"] is None


def test_full_scale_shows_the_difference(make: Make) -> None:
    found = cell(make(params(scale="full", tolerance=0.5)), "ours", "VOC")
    assert found["verdict"] in ("within", "off")
    assert found["difference"] == pytest.approx(found["ours"] - 40.0, abs=1e-4)


def test_a_row_can_measure_another_thing_in_a_column(make: Make) -> None:
    rows = [row(name, "run", {"VOC": None, "ADE": None, "Avg": None},
                {"VOC": {"inputs": ["rows/0"], **more}, "ADE": {"why": "none"}})
            for name, more in (("ours", {}), ("missed", {"metric": "fnr"}))]  # fmt: skip
    table = make(params(rows=rows))
    values = [cell(table, name, "VOC")["ours"] for name in ("ours", "missed")]
    expected = [interval(VOC, seed=5, resamples=60, metric_name=name)[0] for name in ("miou", "fnr")]
    assert values == [pytest.approx(value, abs=1e-4) for value in expected] and values[0] != values[1]


def test_a_column_can_have_its_own_metric_and_the_table_its_absent_convention(make: Make) -> None:
    columns = [column("VOC", "tiny_voc", metric="fpr"), column("ADE", "tiny_ade"), column("Avg", None)]
    table = make(params(columns=columns, absent="zero"))
    assert 0 < cell(table, "ours", "VOC")["ours"] < 1
    assert cell(table, "ours", "ADE")["ours"] == round(interval(ADE, "zero", seed=5, resamples=60)[0], 4)


def edit_counts(directory: Path) -> None:
    random_counts(9).save(directory)


def edit_origin(directory: Path) -> None:
    path = directory / "origin.json"
    path.write_text(path.read_text().replace('"stage": "evaluate"', '"stage": "elsewhere"'))


def remove_origin(directory: Path) -> None:
    (directory / "origin.json").unlink()


@pytest.mark.parametrize("edit", [edit_counts, edit_origin, remove_origin])
def test_an_edited_or_missing_origin_makes_the_table_refuse_the_cell(
    make: Make, inputs: dict[str, Path], edit: Callable[[Path], None], tmp_path: Path
) -> None:
    edit(inputs["rows/2"])
    table = make()
    found = cell(table, "ours", "ADE")
    assert (found["ours"], found["low"], found["verdict"]) == (None, None, "not_run")
    assert found["why"].startswith("origin missing or edited: b-0001of0002.bbb1/")
    assert str(tmp_path) not in json.dumps(table)
    assert cell(table, "ours", "VOC")["ours"] is not None
    assert cell(table, "ours", "Avg")["why"].startswith("needs ADE: origin missing or edited")


def test_metrics_are_plain_numbers_and_nothing_else(make: Make, tmp_path: Path) -> None:
    table = make()
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert metrics == {
        "ours": {name: cell(table, "ours", name)["ours"] for name in ("VOC", "ADE", "Avg")},
        "half": {"VOC": cell(table, "half", "VOC")["ours"]},
    }


def test_the_csv_file_has_one_line_per_cell(make: Make, tmp_path: Path) -> None:
    table = make()
    lines = list(csv.DictReader((tmp_path / "out" / "table.csv").read_text().splitlines()))
    assert [(line["row"], line["column"]) for line in lines] == [
        (entry["id"], name) for entry in table["rows"] for name in ("VOC", "ADE", "Avg")
    ]
    assert lines[1]["key"] == "bbb0;bbb1"
    assert float(lines[1]["ours"]) == cell(table, "ours", "ADE")["ours"]
    assert lines[4] == {"row": "half", "column": "ADE", "published": "", "ours": "", "low": "", "high": "",
                        "verdict": "not_run", "key": ""}  # fmt: skip


def test_per_class_ious_average_to_the_cell(make: Make, tmp_path: Path) -> None:
    table = make()
    classes = json.loads((tmp_path / "out" / "per_class.json").read_text())
    assert np.mean(classes["ours"]["ADE"]) == pytest.approx(cell(table, "ours", "ADE")["ours"], abs=1e-3)
    assert set(classes["ours"]) == {"VOC", "ADE"} and set(classes) == {"ours", "half"}


def test_a_class_that_never_occurs_is_null_in_the_per_class_file(
    make: Make, inputs: dict[str, Path], tmp_path: Path
) -> None:
    counts = ConfusionCounts(VOC.images, VOC.image, VOC.truth, VOC.prediction, VOC.pixels, 5)
    inputs["rows/0"] = write_row(tmp_path / "evaluate", "a5", "aaa5", counts)
    make()
    assert json.loads((tmp_path / "out" / "per_class.json").read_text())["ours"]["VOC"][4] is None


def test_the_readable_table_has_both_numbers_and_all_reasons(make: Make, tmp_path: Path) -> None:
    found = cell(make(), "ours", "VOC")
    text = (tmp_path / "out" / "table.md").read_text()
    assert f"40.0 / **{found['ours']:.1f}** [{found['low']:.1f}, {found['high']:.1f}] |" in text
    assert "| cited | CITED | 12.0 | n/a | – |" in text
    assert "* no model of that kind: half (ADE)" in text
    assert "not comparable" in text
    widths = {line.count("|") for line in text.splitlines() if line.startswith("|")}
    assert widths == {6}


def test_a_row_of_our_own_is_marked_and_has_no_published_side(make: Make, tmp_path: Path) -> None:
    values = params()
    values["table"]["rows"].append(row("variant", "extra", {}, {"VOC": {"inputs": ["rows/0"]}, "ADE": {"why": "x"}}))
    make(values)
    text = (tmp_path / "out" / "table.md").read_text()
    assert "| variant † | VARIANT | **" in text and "† a row of our own" in text


def test_bars_in_labels_do_not_break_the_table(make: Make, tmp_path: Path) -> None:
    values = params()
    values["table"]["rows"][0]["labels"]["method"] = "a|b\nc"
    make(values)
    assert "| a\\|b c |" in (tmp_path / "out" / "table.md").read_text()


def test_marks_appear_at_full_scale_only(make: Make, tmp_path: Path) -> None:
    make(params(scale="full", tolerance=100))
    assert "] ✓ |" in (tmp_path / "out" / "table.md").read_text()


def test_the_same_inputs_give_the_same_bytes(make: Make, tmp_path: Path) -> None:
    make(name="one")
    make(name="two")
    names = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert names == ["metrics.json", "per_class.json", "table.csv", "table.json", "table.md"]
    for name in names:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_nothing_that_is_not_finite_is_written(make: Make, inputs: dict[str, Path], tmp_path: Path) -> None:
    nothing = ConfusionCounts.collect([("image000", np.zeros((0, 3), np.int64))], 4)
    inputs["rows/0"] = write_row(tmp_path / "evaluate", "void", "aaa9", nothing)
    found = cell(make(), "ours", "VOC")
    assert found["ours"] is None and "no class occurs" in found["why"]
    assert "NaN" not in "".join(path.read_text() for path in (tmp_path / "out").iterdir())


def test_an_input_that_the_job_lacks_is_an_error(make: Make) -> None:
    values = params()
    values["table"]["rows"][0]["cells"]["VOC"] = {"inputs": ["rows/7"]}
    with pytest.raises(UserError, match="'rows/7' is not among those of the job"):
        make(values)


def test_an_unknown_metric_is_named(make: Make) -> None:
    assert "metric: 'dice' is unknown" in cell(make(params(metric="dice")), "ours", "VOC")["why"]


def test_the_stage_starts_without_heavy_imports() -> None:
    code = ("import sys, ovss.report.table, ovss.report.claims; "
            "print([n for n in ('torch', 'pandas', 'matplotlib', 'scipy', 'PIL') if n in sys.modules])")  # fmt: skip
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
