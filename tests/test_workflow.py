"""The whole workflow as a user runs it, on a reduced plan: what runs again after what, counted by the jobs themselves.

The tests share one copy of the project and run in the order of the file: each starts where the one before it ended.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from scenario import METHOD, TWIN, Scenario, run

NOTHING: Counter[str] = Counter()


@pytest.fixture(scope="module")
def project(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scenario]:
    yield Scenario.create(root, tmp_path_factory.mktemp("workflow"))


@pytest.fixture(scope="module")
def results(project: Scenario) -> Path:
    return project.folder / "results" / "smoke"


def test_a_killed_run_is_continued_by_the_same_command(project: Scenario, results: Path) -> None:
    process = project.start()
    project.kill_when(process, jobs=3)
    before = project.jobs()
    after = project.reproduce()
    assert sum(before.values()) >= 3
    assert not any(stage in before for stage in ("table", "report"))
    counted = before + after
    assert (counted["world"], counted["fetch"], counted["prepare"]) == (3, 3, 2), "two data sets and the captions"
    assert (counted["train_clip"], counted["table"], counted["claims"], counted["report"]) == (1, 1, 1, 1)
    assert (results / "report" / "index.html").is_file() and (results / "freecp" / "table1.json").is_file()
    assert not list((project.folder / "work").glob("*/*.part-*"))
    project.commit("first run")


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


def test_a_clone_that_pulls_runs_nothing(project: Scenario, tmp_path: Path) -> None:
    project.dvc("push", "--quiet")
    run(["git", "clone", "--quiet", str(project.folder), str(tmp_path / "clone")], tmp_path, env=project.env)
    clone = Scenario(tmp_path / "clone", tmp_path / "jobs.log")
    clone.env = clone.environment(clone.folder)
    store = (project.folder.parent / "ovss-repro-store").resolve()
    clone.dvc("remote", "modify", "--local", "store", "url", str(store))
    clone.dvc("pull", "--quiet")
    assert clone.reproduce() == NOTHING
    assert clone.git("status", "--porcelain").strip() == ""


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


def test_two_runs_at_once_the_second_stops_with_a_sentence(project: Scenario) -> None:
    project.edit("params.yaml", "steps: 4", "steps: 6")
    first = project.start()
    try:
        while not (project.folder / ".snakemake" / "locks").is_dir() and first.poll() is None:
            pass
        second = run([sys.executable, "-m", "ovss.cli", "reproduce"], project.folder, env=project.env)
    finally:
        output, _ = first.communicate(timeout=300)
    assert second.returncode == 2
    assert "another run is at work here; wait for it to end, then start again" in second.stderr
    assert first.returncode == 0, output[-3000:]
    assert project.jobs()["train_clip"] == 1
    project.git("checkout", "--quiet", "--", ".")


def test_a_flipped_byte_is_named_and_repaired(project: Scenario) -> None:
    assert project.reproduce() == NOTHING
    target = sorted((project.folder / "work" / "evaluate").glob("*/counts.npz"))[0]
    data = bytearray(target.read_bytes())
    data[len(data) // 2] ^= 1
    target.chmod(0o644)
    target.write_bytes(data)

    def verify(*options: str) -> subprocess.CompletedProcess[str]:
        return run([sys.executable, "-m", "ovss.cli", "verify", *options], project.folder, env=project.env)

    found = verify()
    assert found.returncode == 1
    assert f"{target.relative_to(project.folder)}: its bytes are not those that the job wrote" in found.stdout
    repaired = verify("--repair")
    assert repaired.returncode == 0 and "from the DVC cache" in repaired.stdout, repaired.stdout + repaired.stderr
    assert verify().returncode == 0
    assert project.reproduce() == NOTHING


def test_a_flipped_byte_in_the_cache_is_named_and_repaired(project: Scenario) -> None:
    cache = sorted((project.folder / ".dvc" / "cache" / "files" / "md5").glob("??/*"))
    target = next(path for path in cache if path.suffix != ".dir" and path.stat().st_size > 100)
    target.chmod(0o644)
    target.write_bytes(b"x" + target.read_bytes()[1:])
    command = [sys.executable, "-m", "ovss.cli", "verify"]
    assert str(target.relative_to(project.folder)) in run(command, project.folder, env=project.env).stdout
    repaired = run([*command, "--repair"], project.folder, env=project.env)
    assert repaired.returncode == 0, repaired.stdout
    assert "are as they were written" in run(command, project.folder, env=project.env).stdout


def test_garbage_is_what_no_branch_or_tag_names(project: Scenario) -> None:
    listed = run([sys.executable, "-m", "ovss.cli", "gc"], project.folder, env=project.env)
    assert listed.returncode == 0, listed.stderr
    garbage = [line for line in listed.stdout.splitlines() if line.startswith("work/")]
    assert any(line.startswith("work/train_clip/") for line in garbage), "the run with 6 steps is on no branch"
    assert all((project.folder / line).exists() for line in garbage)
    deleted = run([sys.executable, "-m", "ovss.cli", "gc", "--delete"], project.folder, env=project.env)
    assert deleted.returncode == 0 and not any((project.folder / line).exists() for line in garbage)
    assert project.reproduce() == NOTHING


def test_an_unwritable_results_folder_is_one_sentence(project: Scenario, results: Path) -> None:
    table = results / "freecp" / "table1.md"
    table.unlink()
    shutil.move(results / "freecp", results / "kept")
    (results / "freecp").write_text("a file where the folder should be")
    done = run([sys.executable, "-m", "ovss.cli", "publish", "--scale", "smoke"], project.folder, env=project.env)
    assert done.returncode == 2
    assert "cannot be written" in done.stderr and "freecp" in done.stderr
    (results / "freecp").unlink()
    shutil.move(results / "kept", results / "freecp")
    assert not list(results.rglob("*.part-*"))


def test_a_run_from_scratch_gives_the_same_bytes_whatever_batch_size_and_workers(project: Scenario) -> None:
    for folder in ("work", "results", ".dvc/cache", ".snakemake"):
        shutil.rmtree(project.folder / folder)
    project.env |= {"OVSS_BATCH_SIZE": "3", "OVSS_WORKERS": "4"}
    counted = project.reproduce()
    assert counted["train_clip"] == counted["report"] == 1
    assert project.git("status", "--porcelain", "--", "results").strip() == ""
    assert len(list((project.folder / "results").rglob("*.csv"))) >= 2
