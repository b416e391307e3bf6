"""``ovss reproduce``: one run at a time, locks of killed runs cleared, then ``dvc repro`` and the summary."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from ovss.config.base import read_yaml
from ovss.errors import UserError
from ovss.plan.plan import load_plan
from ovss.publish import summary


@contextlib.contextmanager
def _only_run(root: Path) -> Iterator[None]:
    """Hold the project's run lock; the system drops it when the process ends, however it ends."""
    folder = root / ".snakemake"
    folder.mkdir(exist_ok=True)
    with (folder / "ovss.lock").open("w", encoding="utf-8") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"{root}: another run is at work here; wait for it to end, then start again") from None
        yield


def _workflow_processes(root: Path) -> list[int]:
    """Other processes that run snakemake or dvc in this folder."""
    import psutil

    own = {os.getpid(), *(parent.pid for parent in psutil.Process().parents())}
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            words = " ".join(process.cmdline()[:4])
            if process.pid not in own and ("snakemake" in words or "dvc repro" in words) and process.cwd() == str(root):
                found.append(process.pid)
    return found


def clear_stale_locks(root: Path, force: bool = False) -> None:
    """Remove the workflow engine's locks if the run that set them is gone.

    Raises:
        UserError: a process is still at work.
    """
    locks = root / ".snakemake" / "locks"
    if not locks.is_dir() or not any(locks.iterdir()):
        return
    alive = [] if force else _workflow_processes(root)
    if alive:
        raise UserError(f"{root}: process {alive[0]} is running the workflow here; wait for it to end, or stop it")
    print("a killed run left its locks behind; removing them and going on", file=sys.stderr)
    for lock in locks.iterdir():
        lock.unlink()
    for part in (root / "work").glob("*/*.part-*"):
        shutil.rmtree(part, ignore_errors=True)


def _restore_missing(root: Path, dvc: list[str]) -> None:
    """Bring tracked folders that were deleted as a whole back from the DVC cache, as far as it has them."""
    if not (root / "dvc.lock").is_file():
        return
    stages = read_yaml(root / "dvc.lock").get("stages", {})
    outs = [out["path"] for stage in stages.values() for out in stage.get("outs", ())]
    if missing := [path for path in outs if path.startswith("work/") and not (root / path).exists()]:
        subprocess.run([*dvc, "checkout", "--quiet", *missing], cwd=root, capture_output=True, check=False)


def reproduce(root: Path, force_unlock: bool = False) -> int:
    """Run what is missing and print the summary; returns the exit status of the run."""
    plan = load_plan(root)
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"}
    with _only_run(root):
        clear_stale_locks(root, force_unlock)
        dvc = [sys.executable, "-m", "dvc"]
        _restore_missing(root, dvc)
        done = subprocess.run([*dvc, "repro"], cwd=root, env=environment, check=False)
    if done.returncode:
        print(
            "ovss: the run did not finish; the messages above and logs/ say why. What is done stays done: "
            "mend it and run the same command again.",
            file=sys.stderr,
        )
        return 1
    print(summary(plan, root))
    return 0
