"""A copy of the project on a reduced plan, run as a user runs it, with executed jobs counted by the jobs themselves."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

METHOD = "src/ovss/methods/dense_clip.py"
TWIN = "src/ovss/methods/dense_clip_twin.py"
VARIANTS = 4


def run(command: list[str], cwd: Path, **more: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=600, check=False, **more)


def reduce_plan(folder: Path) -> None:
    """One table with two data sets, a model of a few steps, few drawings and captions, and a second method that is a
    copy of the first.
    """
    params = yaml.safe_load((folder / "params.yaml").read_text(encoding="utf-8"))
    smoke = params["smoke"]
    smoke["columns"] = {name: smoke["columns"][name] for name in ("VOC21", "ADE")}
    smoke["tables"] = ["freecp.table1"]
    smoke["train"] |= {"dino": {}, "tcl": {}}
    smoke["train"]["clip"]["clip"]["schedule"] |= {"steps": 4, "batch": 8, "log_every": 2}
    smoke["train"]["clip"]["clip"] |= {"width": 32, "layers": 2, "merges": 20, "val_views": 8}
    smoke["train"]["clip"]["clip"]["views"]["variants"] = VARIANTS
    smoke["world"] |= {"variants": VARIANTS, "cc3m": 8, "cc12m": 8}
    smoke["bootstrap"]["resamples"] = 50
    for data in smoke["world"]["data"].values():
        data |= {"train": 2, "val": 4}
    params["scale"] = "smoke"
    lines = (folder / "dvc.yaml").read_text(encoding="utf-8").splitlines(keepends=True)
    kept = [line for line in lines if "{cache: false" not in line or "freecp/table1.json" in line]
    (folder / "dvc.yaml").write_text("".join(kept), encoding="utf-8")
    (folder / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False), encoding="utf-8")
    shutil.copy(folder / METHOD, folder / TWIN)
    paper = folder / "papers" / "freecp.yaml"
    text = paper.read_text(encoding="utf-8")
    row = """      - id: baseline_twin
        extra_of: baseline
        labels: {method: a copy of the first method}
        run: {method: dense_clip_twin, model: clip_b16, protocol: sclip, settings: {variant: SCLIP, family: full_block}}
"""
    start = text.index("  table1:\n")
    place = text.index("    rows:\n", start) + len("    rows:\n")
    paper.write_text(text[:place] + row + text[place:], encoding="utf-8")


@dataclass
class Scenario:
    """The copy and its job log; the jobs of a first run that was killed, and of its continuation."""

    folder: Path
    log: Path
    env: dict[str, str] = field(default_factory=dict)
    killed: Counter[str] = field(default_factory=Counter)
    continued: Counter[str] = field(default_factory=Counter)

    @classmethod
    def create(cls, root: Path, folder: Path) -> Scenario:
        clone = folder / "project"
        listed = run(["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"], root).stdout
        for name in filter(None, listed.split("\0")):
            if (root / name).is_file() and not name.startswith("results/") and name != "dvc.lock":
                target = clone / name
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(root / name, target)
        scenario = cls(clone, folder / "jobs.log")
        scenario.env = scenario.environment(clone)
        reduce_plan(clone)
        scenario.git("init", "--quiet", "--initial-branch=main")
        scenario.commit("start")
        return scenario

    @classmethod
    def after_first_run(cls, root: Path, factory: pytest.TempPathFactory, name: str) -> Scenario:
        """A copy of a project whose first run was killed, continued and committed: one such run for all workers."""
        base = factory.getbasetemp()
        base = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
        first, counted = base / "first_run", base / "first_run" / "counted.json"
        with (base / "first_run.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not counted.exists():
                shutil.rmtree(first, ignore_errors=True)
                first.mkdir()
                made = cls.create(root, first)
                made.kill_when(made.start(), jobs=3)
                killed = made.jobs()
                counted_jobs = [killed, made.reproduce()]
                made.commit("first run")
                counted.write_text(json.dumps(counted_jobs), encoding="utf-8")
        folder = factory.mktemp(name)
        shutil.copytree(first / "project", folder / "project", symlinks=True)
        jobs = [Counter(part) for part in json.loads(counted.read_text(encoding="utf-8"))]
        scenario = cls(folder / "project", folder / "jobs.log", {}, *jobs)
        scenario.env = scenario.environment(scenario.folder)
        return scenario

    def environment(self, folder: Path) -> dict[str, str]:
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        who = {
            f"GIT_{role}_{what}": "test@example.org" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")
        }
        return {**os.environ, **who, "PATH": path, "PYTHONPATH": str(folder / "src"), "OVSS_JOB_LOG": str(self.log),
                "OVSS_DEVICE": "cpu", "OVSS_CHECK_CLOSURE": "1", "PYTHONDONTWRITEBYTECODE": ""}  # fmt: skip

    def git(self, *arguments: str) -> str:
        done = run(["git", *arguments], self.folder, env=self.env)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def commit(self, message: str) -> str:
        self.git("add", "--all")
        self.git("commit", "--quiet", "--allow-empty", "--message", message)
        return self.git("rev-parse", "HEAD").strip()

    def dvc(self, *arguments: str) -> str:
        done = run([sys.executable, "-m", "dvc", *arguments], self.folder, env=self.env)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def reproduce(self, expect: int = 0) -> Counter[str]:
        """Run the one command; returns executed jobs by stage."""
        self.log.unlink(missing_ok=True)
        done = run([sys.executable, "-m", "ovss.cli", "reproduce"], self.folder, env=self.env)
        assert done.returncode == expect, done.stdout[-3000:] + done.stderr[-3000:]
        return self.jobs()

    def jobs(self) -> Counter[str]:
        lines = self.log.read_text(encoding="utf-8").splitlines() if self.log.exists() else []
        return Counter(line.split()[0] for line in lines)

    def start(self) -> subprocess.Popen[str]:
        self.log.unlink(missing_ok=True)
        command = [sys.executable, "-m", "ovss.cli", "reproduce"]
        return subprocess.Popen(command, cwd=self.folder, env=self.env, stdout=subprocess.PIPE,
                                stderr=subprocess.STDOUT, text=True, start_new_session=True)  # fmt: skip

    def kill_when(self, process: subprocess.Popen[str], jobs: int) -> None:
        """SIGKILL the whole process group as soon as that many jobs are done."""
        limit = time.time() + 300
        while sum(self.jobs().values()) < jobs and process.poll() is None and time.time() < limit:
            time.sleep(0.05)
        assert process.poll() is None, "the run ended before it could be killed"
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        if process.stdout:
            process.stdout.close()

    def edit(self, name: str, old: str, new: str) -> None:
        path = self.folder / name
        text = path.read_text(encoding="utf-8")
        assert old in text, f"{name} does not hold {old!r}"
        path.write_text(text.replace(old, new, 1), encoding="utf-8")
