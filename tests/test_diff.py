"""``ovss diff`` on a small repository: two commits, rows at hand or not, reasons from the origins."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from counted_rows import random_counts, write_row

from ovss import origin
from ovss.diff import main
from ovss.diff.compare import Change, Comparison, compare
from ovss.diff.parts import difference, explain
from ovss.diff.results import read_side
from ovss.errors import UserError
from ovss.evaluation.bootstrap import paired
from ovss.jobs import JobContext, Machine
from ovss.report import table as stage

PAPER = {
    "columns": {"VOC": {"dataset": "VOC"}, "ADE": {"dataset": "ADE"}, "Avg": {"dataset": None}},
    "tables": {"table1": {"metric": "miou", "absent": "skip", "derived": {"Avg": {"mean_of": ["VOC", "ADE"]}},
                          "rows": [{"id": "a"}, {"id": "b"}]}},
}  # fmt: skip
PARAMS = {"seed": 5, "tiny": {"bootstrap": {"resamples": 80, "level": 0.95}}}
Cells = dict[tuple[str, str], list[str]]


class Project:
    """A repository whose results are made by the real table stage."""

    def __init__(self, root: Path) -> None:
        self.root = root
        root.mkdir(parents=True)
        self.git("init", "--quiet", "--initial-branch=main")
        (root / ".gitignore").write_text("/work/\n")
        (root / "papers").mkdir()
        (root / "papers" / "demo.yaml").write_text(yaml.safe_dump(PAPER))
        (root / "params.yaml").write_text(yaml.safe_dump(PARAMS))

    def git(self, *arguments: str) -> str:
        who = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
        command = ["git", *who, "-C", str(self.root), *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    def row(self, key: str, parts: dict[str, Any] | None = None, **counts: Any) -> str:
        write_row(self.root / "work" / "evaluate", "row", key, random_counts(**counts), parts)
        return key

    def results(self, cells: Cells, table: str = "table1") -> None:
        keys = sorted({key for names in cells.values() for key in names})
        rows = [
            {"id": name, "labels": {}, "kind": "run", "published": {}, "cells": {
                column: {"inputs": names} for (row, column), names in cells.items() if row == name}}
            for name in dict.fromkeys(row for row, _ in cells)
        ]  # fmt: skip
        definition = PAPER["tables"]["table1"]
        spec = {
            "id": table, "title": "", "unit": "%", "higher_is_better": True, "key_columns": [],
            "columns": [{"id": name, "label": name} for name in PAPER["columns"]], **definition, "rows": rows,
        }  # fmt: skip
        params = {"paper": "demo", "table": spec, "scale": "tiny", "bootstrap": PARAMS["tiny"]["bootstrap"]}
        out = self.root / "out"
        out.mkdir()
        inputs = {key: self.root / "work" / "evaluate" / f"row.{key}" for key in keys}
        stage.run(JobContext(5, Machine(), params, inputs, out))
        target = self.root / "results" / "tiny" / "demo" / f"{table}.csv"
        target.parent.mkdir(parents=True, exist_ok=True)
        (out / "table.csv").replace(target)
        for path in out.iterdir():
            path.unlink()
        out.rmdir()

    def commit(self, tag: str) -> None:
        self.git("add", "--all")
        self.git("commit", "--quiet", "--allow-empty", "--message", tag)
        self.git("tag", tag)

    def compare(self, a: str = "one", b: str | None = "two") -> Comparison:
        return compare(self.root, read_side(self.root, a, "tiny"), read_side(self.root, b, "tiny"))

    def change(self, row: str, column: str, **sides: Any) -> Change:
        (found,) = (c for c in self.compare(**sides).changes if (c.row, c.column) == (row, column))
        return found


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """Between the commits: a/VOC much better, a/ADE noise, b/VOC the same, b/ADE recomputed with an equal number."""
    made = Project(tmp_path / "project")
    ade = {"images": 20, "first": 100}
    made.row("voc1", {"params": {"settings": {"variant": "MaskCLIP"}}, "sources": {"m": "0" * 64}}, seed=1, hit=0.2)
    made.row("voc2", {"params": {"settings": {"variant": "SCLIP"}}, "sources": {"m": "0" * 64}}, seed=2, hit=0.8)
    made.row("ade1", seed=3, **ade)
    made.row("ade2", seed=14, **ade)
    made.row("ade3", {"packages": {"numpy": "9"}}, seed=3, **ade)
    made.results({("a", "VOC"): ["voc1"], ("a", "ADE"): ["ade1"], ("b", "VOC"): ["voc1"], ("b", "ADE"): ["ade1"]})
    made.commit("one")
    made.results({("a", "VOC"): ["voc2"], ("a", "ADE"): ["ade2"], ("b", "VOC"): ["voc1"], ("b", "ADE"): ["ade3"]})
    made.commit("two")
    return made


def test_a_real_change_and_noise_are_told_apart(project: Project) -> None:
    real, noise = project.change("a", "VOC"), project.change("a", "ADE")
    assert real.status == "changed" and real.interval is not None and real.interval[0] > 0
    assert noise.status == "within noise" and noise.interval is not None
    assert noise.interval[0] < 0 < noise.interval[1]


def test_the_interval_is_that_of_the_paired_bootstrap(project: Project) -> None:
    expected = paired(random_counts(2, hit=0.8), random_counts(1, hit=0.2), seed=5, resamples=80).interval()
    change = project.change("a", "VOC")
    assert change.interval == tuple(round(value, 4) for value in expected[1:])
    assert change.after is not None and change.before is not None
    assert change.after - change.before == pytest.approx(expected[0], abs=1e-3)


def test_a_derived_column_is_judged_from_its_parts(project: Project) -> None:
    derived, parts = project.change("a", "Avg"), [project.change("a", name) for name in ("VOC", "ADE")]
    assert derived.status == "changed" and derived.interval is not None
    assert derived.interval[0] > sum(part.interval[0] for part in parts if part.interval) / 2


def test_equal_cells_are_only_counted(project: Project) -> None:
    comparison = project.compare()
    assert comparison.equal == {"demo/table1": 1}
    assert {(c.row, c.column) for c in comparison.changes} == {
        ("a", "VOC"), ("a", "ADE"), ("a", "Avg"), ("b", "ADE"), ("b", "Avg")}  # fmt: skip


def test_an_equal_number_under_another_key_is_recomputed(project: Project) -> None:
    assert project.change("b", "ADE").status == "recomputed"
    assert project.change("b", "ADE").parts == ("packages.numpy: (absent) -> 9",)


def test_the_parts_of_the_key_that_differ_are_named(project: Project) -> None:
    assert project.change("a", "VOC").parts == ("params.settings.variant: MaskCLIP -> SCLIP",)
    assert "because of params.settings.variant: MaskCLIP -> SCLIP  (a/VOC, a/Avg)" in main(
        project.root, "one", "two", "tiny"
    )


def test_the_order_of_revisions_turns_the_sign(project: Project) -> None:
    forth, back = project.change("a", "VOC"), project.change("a", "VOC", a="two", b="one")
    assert forth.interval is not None and back.interval is not None
    assert back.interval == pytest.approx((-forth.interval[1], -forth.interval[0]))


def test_the_working_tree_is_the_default_other_side(project: Project) -> None:
    project.results({("a", "VOC"): ["voc1"]})
    text = main(project.root, "two", None, "tiny")
    assert text.startswith("tiny: two (")
    assert "-> working tree" in text and "only before" in text


def test_a_side_that_was_edited_or_is_absent_is_not_judged(project: Project) -> None:
    random_counts(9).save(project.root / "work" / "evaluate" / "row.voc2")
    change = project.change("a", "VOC")
    assert (change.status, change.interval) == ("not judged", None)
    assert "origin missing or edited" in change.note
    (project.root / "work" / "evaluate" / "row.ade1").rename(project.root / "work" / "gone")
    assert "row ade1 is not under work/" in project.change("a", "ADE").note


def test_other_images_cannot_be_paired(project: Project) -> None:
    project.row("voc3", seed=8, images=5)
    project.results({("a", "VOC"): ["voc3"]})
    assert project.change("a", "VOC", b=None).note == "other images (12 before, 5 after)"


def test_a_changed_convention_is_not_noise(project: Project) -> None:
    paper = json.loads(json.dumps(PAPER))
    paper["tables"]["table1"]["absent"] = "zero"
    (project.root / "papers" / "demo.yaml").write_text(yaml.safe_dump(paper))
    assert "the metric changed" in project.change("a", "VOC", b=None).note


def test_shards_are_joined(project: Project) -> None:
    for key, first in (("s1", 0), ("s2", 7)):
        project.row(key, seed=2, hit=0.8, first=first, images=7 if first == 0 else 5)
    project.results({("a", "VOC"): ["s1", "s2"]})
    change = project.change("a", "VOC", b=None, a="one")
    assert change.status == "changed"
    assert change.interval == project.change("a", "VOC").interval


def test_tables_of_one_side_only_are_listed(project: Project) -> None:
    project.results({("a", "VOC"): ["voc1"]}, table="table2")
    assert "demo/table2: only at working tree" in main(project.root, "two", None, "tiny")


def test_a_commit_against_itself_is_equal(project: Project) -> None:
    text = main(project.root, "two", "two", "tiny")
    assert "equal: demo/table1 (6 cells)" in text and "changed" not in text


def test_claims_that_turned_are_listed(project: Project) -> None:
    path = project.root / "results" / "tiny" / "demo" / "claims.json"
    for tag, verdicts in (
        ("three", {"x": "supported", "y": "not_run"}),
        ("four", {"x": "inconclusive", "y": "not_run"}),
    ):
        path.write_text(json.dumps({"claims": [{"id": name, "verdict": value} for name, value in verdicts.items()]}))
        project.commit(tag)
    assert project.compare("three", "four").claims == {"demo/x": ("supported", "inconclusive")}
    assert "claims\n  demo/x: supported -> inconclusive" in main(project.root, "three", "four", "tiny")
    assert project.compare("two", "four").claims["demo/y"] == ("absent", "not_run")


def test_other_csv_files_are_left_alone(project: Project) -> None:
    (project.root / "results" / "tiny" / "demo" / "curves.csv").write_text("step,value\n1,2\n")
    assert set(read_side(project.root, None, "tiny").tables) == {"demo/table1"}


@pytest.mark.parametrize("revision", ["nowhere", "--all", ""])
def test_an_unknown_revision_is_named(project: Project, revision: str) -> None:
    with pytest.raises(UserError, match=f"'{revision}' is not a commit, branch or tag"):
        main(project.root, revision, None, "tiny")


def test_a_revision_without_results_is_named(project: Project) -> None:
    with pytest.raises(UserError, match=r"two \(.*no tables under results/full/"):
        main(project.root, "two", None, "full")


def test_outside_a_repository_the_message_says_so(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not a Git repository"):
        main(tmp_path, "HEAD", None, "tiny")


def test_a_damaged_number_is_named_with_its_line(project: Project) -> None:
    path = project.root / "results" / "tiny" / "demo" / "table1.csv"
    path.write_text("row,column,published,ours,low,high,verdict,key\na,VOC,,x1,,,,\n")
    with pytest.raises(UserError, match=r"working tree: results/tiny/demo/table1\.csv, line 2: 'x1' is not a number"):
        main(project.root, "one", None, "tiny")


def test_nested_parts_are_compared_by_dotted_path() -> None:
    before = {"a": {"b": 1, "c": [1, 2]}, "d": {}, "e": 3}
    after = {"a": {"b": 2, "c": [1, 2]}, "d": {}, "f": 3}
    assert set(difference(before, after)) == {"a.b", "e", "f"}
    assert difference(before, before) == {}


def test_an_input_that_differs_is_followed_to_its_own_parts(tmp_path: Path) -> None:
    def output(stage: str, key: str, parts: dict[str, Any]) -> None:
        directory = tmp_path / "work" / stage / f"x.{key}"
        directory.mkdir(parents=True)
        origin.write(directory, {"key": key, "parts": parts})

    for number, steps in (("1", 100), ("2", 200)):
        output("train_clip", f"model{number}", {"params": {"steps": steps}})
        output("evaluate", f"row{number}", {"inputs": {"model": f"model{number}", "text": f"text{number}"}})
    assert explain(tmp_path, "row1", "row2") == [
        "inputs.model.params.steps: 100 -> 200",
        "inputs.text: text1 -> text2",
    ]
    assert explain(tmp_path, "row1", "row1") == []
    assert explain(tmp_path, "row1", "elsewhere") == []
