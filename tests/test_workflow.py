"""The whole workflow as a user runs it, on a reduced plan: what runs again after what, counted by the jobs themselves.

The tests share one copy of the project and run in the order of the file: each starts where the one before it ended.
"""

from __future__ import annotations

import os
import random
import shutil
import sys
from collections import Counter
from pathlib import Path

import pytest
from scenario import METHOD, TWIN, Scenario, run

NOTHING: Counter[str] = Counter()


@pytest.fixture(scope="module")
def project(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Scenario:
    return Scenario.after_first_run(root, tmp_path_factory, "workflow")


@pytest.fixture(scope="module")
def results(project: Scenario) -> Path:
    return project.folder / "results" / "smoke"


def test_a_killed_run_is_continued_by_the_same_command(project: Scenario, results: Path) -> None:
    assert sum(project.killed.values()) >= 3
    assert not any(stage in project.killed for stage in ("table", "report"))
    counted = project.killed + project.continued
    assert (counted["world"], counted["fetch"], counted["prepare"]) == (3, 3, 2), "two data sets and the captions"
    assert (counted["train_clip"], counted["table"], counted["claims"], counted["report"]) == (1, 1, 1, 1)
    assert (results / "report" / "index.html").is_file() and (results / "freecp" / "table1.json").is_file()
    assert not list((project.folder / "work").glob("*/*.part-*"))


def test_a_copy_in_another_folder_runs_nothing(project: Scenario) -> None:
    assert project.reproduce() == NOTHING


def test_no_change_runs_nothing(project: Scenario) -> None:
    assert project.reproduce() == NOTHING


def test_touching_every_file_in_random_order_runs_nothing(project: Scenario) -> None:
    files = sorted(path for path in project.folder.rglob("*") if path.is_file() and ".git/" not in str(path))
    random.Random(0).shuffle(files)
    for number, path in enumerate(files):
        os.utime(path, (1_600_000_000 + number, 1_600_000_000 + number))
    assert project.reproduce() == NOTHING


def test_an_edit_of_a_comment_runs_nothing(project: Scenario) -> None:
    project.edit("src/ovss/evaluation/evaluate.py", "from __future__", "# a remark\n\nfrom __future__")
    assert project.reproduce() == NOTHING


def test_an_edit_of_one_method_runs_its_rows_and_what_shows_them(project: Scenario) -> None:
    first = project.commit("a comment")
    (project.folder / TWIN).write_text((project.folder / METHOD).read_text() + "\n\nADDED = 1\n")
    assert project.reproduce() == Counter(evaluate=2, table=1, report=1)
    project.commit("the twin edited")
    why = run([sys.executable, "-m", "ovss.cli", "why", "evaluate", first, "--scale", "smoke"], project.folder,
              env=project.env)  # fmt: skip
    assert "sources.ovss.methods.dense_clip_twin" in why.stdout, why.stdout + why.stderr
    assert "sources.ovss.evaluation" not in why.stdout


def test_a_table_is_a_target_that_runs_its_own_rows_alone(project: Scenario) -> None:
    """FreeCP's three rows of Table 1 on two data sets; no claims, no report, no other method."""
    method = project.folder / "src/ovss/methods/freecp.py"
    before = method.read_text()
    method.write_text(before + "\n\nADDED = 1\n")
    project.log.unlink(missing_ok=True)
    done = run([sys.executable, "-m", "snakemake", "freecp_table1"], project.folder, env=project.env)
    assert done.returncode == 0, done.stderr[-3000:]
    assert project.jobs() == Counter(evaluate=6, table=1)
    method.write_text(before)
    assert project.reproduce() == NOTHING


def test_one_parameter_runs_only_its_dependants(project: Scenario) -> None:
    project.edit("params.yaml", "resamples: 50", "resamples: 60")
    assert project.reproduce() == Counter(table=1, claims=1, report=1)


def test_a_parameter_set_back_runs_nothing(project: Scenario) -> None:
    project.edit("params.yaml", "resamples: 60", "resamples: 50")
    assert project.reproduce() == NOTHING
    project.commit("back")


def test_an_older_commit_and_back_runs_nothing(project: Scenario) -> None:
    for revision in ("HEAD~2", "main"):
        project.git("checkout", "--quiet", revision)
        project.dvc("checkout", "--quiet")
        assert project.reproduce() == NOTHING, revision
    assert project.git("status", "--porcelain").strip() == ""


def test_a_deleted_intermediate_is_not_missed_while_results_are_there(project: Scenario) -> None:
    shutil.rmtree(project.folder / "work" / "prepare")
    shutil.rmtree(project.folder / "work" / "world")
    assert project.reproduce() == NOTHING
    project.dvc("checkout", "--quiet")


def test_metrics_and_parameters_are_compared_by_dvc_and_by_ovss(project: Scenario) -> None:
    assert "Path" in project.dvc("metrics", "show")
    project.edit("params.yaml", "steps: 4", "steps: 5")
    assert project.reproduce()["train_clip"] == 1
    assert "table1.json" in project.dvc("metrics", "diff", "HEAD")
    assert "smoke.train.clip.clip.schedule.steps" in project.dvc("params", "diff", "HEAD")
    curves = ("--show-vega", "--targets", "results/smoke/curves/clip.csv")
    assert "train_loss" in project.dvc("plots", "diff", "HEAD", *curves)
    assert "baseline" in project.dvc("exp", "show", "--csv")
    done = run([sys.executable, "-m", "ovss.cli", "diff", "HEAD"], project.folder, env=project.env)
    assert done.returncode == 0, done.stderr
    assert "baseline" in done.stdout and ("within noise" in done.stdout or "changed" in done.stdout), done.stdout
    assert "steps" in done.stdout
    project.git("checkout", "--quiet", "--", ".")
    assert project.reproduce() == NOTHING
