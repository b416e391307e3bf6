"""Locks of killed runs go, those of running ones stay."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from ovss import locks
from ovss.errors import UserError


@pytest.fixture
def sleeper(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process of the project's folder whose words are those of ``dvc repro``."""
    command = [sys.executable, "-c", "import time; print(1, flush=True); time.sleep(60)", "dvc repro"]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE) as process:
        assert process.stdout
        process.stdout.readline()
        yield process
        process.kill()


@pytest.fixture
def dvc_lock(tmp_path: Path, sleeper: subprocess.Popen[bytes]) -> Path:
    path = tmp_path / ".dvc" / "tmp" / "rwlock"
    path.parent.mkdir(parents=True)
    holder = {"pid": sleeper.pid, "cmd": "dvc repro"}
    path.write_text(json.dumps({"write": {"results": holder}, "read": {"src": [holder], "rules": [holder]}}))
    return path


def zombie(process: subprocess.Popen[bytes]) -> None:
    """Kill a child and do not ask for its status."""
    process.kill()
    child = psutil.Process(process.pid)
    while child.status() != psutil.STATUS_ZOMBIE:
        pass
    assert psutil.pid_exists(process.pid)


def test_dvc_entries_of_a_killed_process_that_still_has_a_number_go(
    tmp_path: Path, sleeper: subprocess.Popen[bytes], dvc_lock: Path
) -> None:
    before = dvc_lock.read_text()
    locks.clear_stale_locks(tmp_path)
    assert dvc_lock.read_text() == before, "its process is at work"
    zombie(sleeper)
    locks.clear_stale_locks(tmp_path)
    assert json.loads(dvc_lock.read_text()) == {"write": {}, "read": {}}


def test_dvc_entries_with_a_number_that_something_else_has_now_go(tmp_path: Path, dvc_lock: Path) -> None:
    with subprocess.Popen(["sleep", "60"]) as other:
        held = json.loads(dvc_lock.read_text())
        held["read"]["src"].append({"pid": other.pid, "cmd": "dvc repro"})
        dvc_lock.write_text(json.dumps(held))
        locks.clear_stale_locks(tmp_path)
        other.kill()
    assert [len(holders) for holders in json.loads(dvc_lock.read_text())["read"].values()] == [1, 1]


@pytest.mark.parametrize("text", ["", '{"write": {"a', "[]", '{"write": {"a": 1}}'])
def test_a_dvc_list_that_was_cut_short_goes(text: str, tmp_path: Path, dvc_lock: Path) -> None:
    dvc_lock.write_text(text)
    locks.clear_stale_locks(tmp_path)
    assert not dvc_lock.exists()


def test_snakemakes_locks_stay_while_its_process_works_and_go_with_it(
    tmp_path: Path, sleeper: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "_GRACE", 0.2)
    lock, half = tmp_path / ".snakemake" / "locks" / "0.input.lock", tmp_path / "work" / "clip" / "a.part-1"
    lock.parent.mkdir(parents=True)
    lock.touch()
    half.mkdir(parents=True)
    with pytest.raises(UserError, match=f"process {sleeper.pid} is running the workflow here"):
        locks.clear_stale_locks(tmp_path)
    assert lock.exists()
    zombie(sleeper)
    locks.clear_stale_locks(tmp_path)
    assert not lock.exists()
    assert not half.exists()


def test_the_run_lock_is_held_once(tmp_path: Path) -> None:
    with locks.only_run(tmp_path), pytest.raises(UserError, match="another run is at work here"), \
         locks.only_run(tmp_path):  # fmt: skip
        pytest.fail("held twice")
    with locks.only_run(tmp_path):
        pass
