"""Locks of the workflow: one run at a time, and what a killed run left behind is cleared."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ovss.errors import UserError

_RUN_LOCK = ".snakemake/ovss.lock"
_SNAKEMAKE_LOCKS = ".snakemake/locks"
_DVC_LOCK = ".dvc/tmp/rwlock"
_GRACE = 3.0
"""Seconds that a process which was just killed may take to end."""


@contextlib.contextmanager
def only_run(root: Path) -> Iterator[None]:
    """Hold the project's run lock; the system drops it when the process ends, however it ends.

    Raises:
        UserError: another run holds it.
    """
    path = root / _RUN_LOCK
    path.parent.mkdir(exist_ok=True)
    with path.open("w", encoding="utf-8") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"{root}: another run is at work here; wait for it to end, then start again") from None
        yield


def clear_stale_locks(root: Path, force: bool = False) -> None:
    """Remove the locks of Snakemake and DVC, and half-written outputs, if the run that made them is gone.

    A killed process whose parent has not asked for its status yet (a zombie) is gone, though it has a number still:
    DVC would wait for it. Locks of other DVC commands that are at work stay.

    Raises:
        UserError: a process is still at work.
    """
    locks = sorted((root / _SNAKEMAKE_LOCKS).glob("*"))
    if locks:
        alive = [] if force else _after_grace(root)
        if alive:
            raise UserError(f"{root}: process {alive[0]} is running the workflow here; wait for it to end, or stop it")
        print("a killed run left its locks behind; removing them and going on", file=sys.stderr)
        for lock in locks:
            lock.unlink()
        for part in (root / "work").glob("*/*.part-*"):
            shutil.rmtree(part, ignore_errors=True)
    _clear_dvc_lock(root / _DVC_LOCK)


def _after_grace(root: Path) -> list[int]:
    """Workflow processes that do not end by themselves."""
    deadline = time.monotonic() + _GRACE
    while (alive := _workflow_processes(root)) and time.monotonic() < deadline:
        time.sleep(0.1)
    return alive


def _workflow_processes(root: Path) -> list[int]:
    """Other processes that run snakemake or dvc in this folder; a zombie has no words and is none of them."""
    import psutil

    own = {os.getpid(), *(parent.pid for parent in psutil.Process().parents())}
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            words = " ".join(process.cmdline()[:4])
            if process.pid not in own and ("snakemake" in words or "dvc repro" in words) and process.cwd() == str(root):
                found.append(process.pid)
    return found


def _clear_dvc_lock(path: Path) -> None:
    """Take the entries of processes that are gone out of DVC's list of who reads and writes what.

    A list that is cut short (its writer was killed) is taken away whole: DVC would refuse to start.
    """
    if not path.is_file():
        return
    try:
        held: dict[str, dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
        write = {place: info for place, info in held.get("write", {}).items() if _is_dvc(info)}
        readers = {place: [one for one in infos if _is_dvc(one)] for place, infos in held.get("read", {}).items()}
    except (ValueError, AttributeError, TypeError, KeyError):
        path.unlink()
        return
    kept = {"write": write, "read": {place: infos for place, infos in readers.items() if infos}}
    if kept != {"write": held.get("write", {}), "read": held.get("read", {})}:
        part = path.with_name(f"{path.name}.part")
        part.write_text(json.dumps(kept), encoding="utf-8")
        part.replace(path)


def _is_dvc(holder: dict[str, Any]) -> bool:
    """Whether the process that a lock names is at work, and is DVC: numbers of processes are used again."""
    import psutil

    try:
        return any("dvc" in word for word in psutil.Process(int(holder["pid"])).cmdline()[:4])
    except psutil.AccessDenied:
        return True
    except psutil.Error:
        return False
