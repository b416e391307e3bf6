"""One GPU a job: a job of this machine takes the first free one and holds it until its process ends."""

from __future__ import annotations

import fcntl
import os
import re
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TextIO

DEVICES = Path("/dev")
_held: list[TextIO] = []


def visible(environment: Mapping[str, str], devices: Path = DEVICES) -> list[str]:
    """Names of the GPUs that jobs of this machine share.

    None where there is no GPU, with OVSS_DEVICE=cpu, and under SLURM, which has already given the job its own.
    """
    if environment.get("OVSS_DEVICE") == "cpu" or "SLURM_JOB_ID" in environment:
        return []
    if "CUDA_VISIBLE_DEVICES" in environment:
        return [name.strip() for name in environment["CUDA_VISIBLE_DEVICES"].split(",") if name.strip()]
    return [str(number) for number in range(len([path for path in devices.glob("nvidia*") if path.name[6:].isdigit()]))]


def _try_lock(folder: Path, name: str) -> TextIO | None:
    stream = (folder / re.sub(r"\W", "_", name)).open("w", encoding="utf-8")
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        stream.close()
        return None
    return stream


def _take(names: Sequence[str], count: int, folder: Path) -> dict[str, TextIO]:
    """Locks of so many names, or of none: a job that waits holds nothing that another one waits for."""
    taken: dict[str, TextIO] = {}
    for name in names:
        if len(taken) < count and (lock := _try_lock(folder, name)):
            taken[name] = lock
    if len(taken) == count:
        return taken
    for lock in taken.values():
        lock.close()
    return {}


def reserve(count: int, folder: Path | None = None, devices: Path = DEVICES, pause: float = 1.0) -> None:
    """Wait for so many free GPUs (for all, if there are fewer) and let this process see them alone.

    To be called before torch is imported. The system frees the locks when the process ends.
    """
    names = visible(os.environ, devices)
    wanted = min(count, len(names))
    if not wanted:
        return
    folder = folder or Path(tempfile.gettempdir()) / f"ovss-gpus-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    told = False
    while not (taken := _take(names, wanted, folder)):
        if not told:
            print(f"waiting for {wanted} of the GPUs {', '.join(names)}: other jobs hold them", file=sys.stderr)
            told = True
        time.sleep(pause)
    _held.extend(taken.values())
    os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(taken)
