"""What the workflow keeps: clones, damage, garbage, two runs at once, the same bytes from scratch; on a reduced plan.

The tests share one copy of the project and run in the order of the file: each starts where the one before it ended.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from scenario import Scenario, run

NOTHING: Counter[str] = Counter()


@pytest.fixture(scope="module")
def project(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Scenario:
    return Scenario.after_first_run(root, tmp_path_factory, "store")


@pytest.fixture(scope="module")
def results(project: Scenario) -> Path:
    return project.folder / "results" / "smoke"


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


def test_two_runs_at_once_the_second_stops_with_a_sentence(project: Scenario) -> None:
    project.edit("params.yaml", "resamples: 50", "resamples: 70")
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
    assert project.jobs()["table"] == 1
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
    assert any(line.startswith("work/table/") for line in garbage), "the run with 70 resamples is on no branch"
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
