"""Running one job: look it up in the plan, make its output in a temporary folder, check, seal, rename."""

from __future__ import annotations

import contextlib
import errno
import importlib
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from ovss import failures, origin
from ovss.errors import UserError
from ovss.jobs import Item, JobContext, Machine
from ovss.plan.job import Job, digest
from ovss.plan.stages import STAGES

JOB_LOG = "OVSS_JOB_LOG"
CHECK_CLOSURE = "OVSS_CHECK_CLOSURE"
GPU_READERS = 8
SCRATCH = "data/scratch"
"""Where jobs keep what a killed run has finished; whatever is in it can be deleted at any time."""


def machine() -> Machine:
    """The machine settings from the environment: OVSS_DEVICE (cpu, cuda, auto), OVSS_WORKERS, OVSS_BATCH_SIZE.

    Unset, one thread reads for a CPU, which computes meanwhile, and up to ``GPU_READERS`` for a GPU, which waits.

    Raises:
        UserError: a variable has a value that is not allowed.
    """
    device = os.environ.get("OVSS_DEVICE", "auto")
    if device not in {"auto", "cpu", "cuda"}:
        raise UserError(f"OVSS_DEVICE: '{device}' is not one of auto, cpu, cuda")
    device, numbers = _device(device), {}
    readers = min(GPU_READERS, len(os.sched_getaffinity(0))) if device == "cuda" else 1
    for name, default in (("OVSS_WORKERS", readers), ("OVSS_BATCH_SIZE", 8)):
        text = os.environ.get(name, str(default))
        if not text.isdigit() or int(text) < 1:
            raise UserError(f"{name}: '{text}' is not a whole number above 0")
        numbers[name] = int(text)
    return Machine(device, numbers["OVSS_WORKERS"], numbers["OVSS_BATCH_SIZE"])


def _device(asked: str) -> str:
    if asked == "cpu":
        return "cpu"
    if asked == "auto" and not Path("/proc/driver/nvidia/version").exists():
        return "cpu"
    import torch

    if torch.cuda.is_available():
        torch.backends.cudnn.allow_tf32 = False  # convolutions in float32, as everything is compared in
        return "cuda"
    if asked == "cuda":
        raise UserError("OVSS_DEVICE: 'cuda' was asked for and torch sees no GPU; check the driver or set it to cpu")
    return "cpu"


def commit(root: Path) -> str:
    """The commit of the working tree, with '-dirty' where tracked files differ from it; 'unknown' outside Git."""

    def git(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, check=False)

    head = git("rev-parse", "HEAD")
    if head.returncode:
        return "unknown"
    dirty = git("diff-index", "--quiet", "HEAD", "--", "src", "papers", "params.yaml", "datasets.yaml", "weights.yaml")
    return head.stdout.strip() + ("-dirty" if dirty.returncode else "")


def _provenance(job: Job, root: Path, seed: int, where: Machine, started: float) -> dict[str, Any]:
    def version(package: str) -> str:
        try:
            return metadata.version(package)
        except metadata.PackageNotFoundError:
            return "absent"

    return {
        "key": job.key,
        "stage": job.stage,
        "name": job.name,
        "parts": job.parts,
        "seed": seed,
        "commit": commit(root),
        "device": where.device,
        "installed": {name: version(name) for name in job.packages},
        "started": datetime.fromtimestamp(started, UTC).isoformat(timespec="seconds"),
        "wall_seconds": round(time.time() - started, 3),
        "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "input_names": {name: other.directory for name, other in sorted(job.inputs.items())},
    }


def _log_job(job: Job) -> None:
    """Append a line to the file that OVSS_JOB_LOG names: the workflow's tests count executed jobs with it."""
    if path := os.environ.get(JOB_LOG):
        with open(path, "a", encoding="utf-8") as stream:
            stream.write(f"{job.stage} {job.name} {job.key}\n")


def _place(temporary: Path, final: Path) -> None:
    if final.is_dir() and not any(final.iterdir()):
        final.rmdir()  # the workflow engine makes the folder before the job starts
    if final.exists():
        shutil.rmtree(temporary)  # another run has just made the same content
        return
    os.replace(temporary, final)


@contextlib.contextmanager
def _temporary(jobs: Sequence[Job], root: Path) -> Iterator[dict[str, Path]]:
    folders = {job.directory: root / f"{job.directory}.part-{os.getpid()}" for job in jobs}
    try:
        for folder in folders.values():
            folder.mkdir(parents=True)
        yield folders
    except OSError as error:
        if error.errno not in {errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS}:
            raise
        raise UserError(
            f"{error.filename or root / 'work'}: cannot be written ({error.strerror}); make room or "
            "mend the permissions and run the same command again"
        ) from error
    finally:
        for folder in folders.values():
            shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _scratch(root: Path, jobs: Sequence[Job]) -> Iterator[Path]:
    """A folder named by what the jobs are; left behind where they fail or are killed, for the next run to go on."""
    folder = root / SCRATCH / f"{jobs[0].stage}.{digest([job.key for job in jobs])}"
    folder.mkdir(parents=True, exist_ok=True)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def _inputs(job: Job, root: Path) -> dict[str, Path]:
    for name, other in job.inputs.items():
        if not (root / other.done).is_file():
            raise UserError(f"{other.directory}: input '{name}' of {job.directory} is missing; run 'make reproduce'")
    return {name: root / other.directory for name, other in job.inputs.items()}


def _check_closure(jobs: Sequence[Job], before: set[str]) -> None:
    """With OVSS_CHECK_CLOSURE set: refuse a job that imported a module of ours that its key does not know."""
    known = {name for job in jobs for name in job.sources}
    stray = {name for name in sys.modules.keys() - before if name.partition(".")[0] == "ovss"} - known
    if stray and os.environ.get(CHECK_CLOSURE):
        raise RuntimeError(f"{jobs[0].module} imported {', '.join(sorted(stray))}, which its key does not hold")


def _passes(jobs: Sequence[Job]) -> list[list[Job]]:
    """The jobs of one pass, or of several: those that agree in the inputs that their stage's passes share."""
    shares, found = STAGES[jobs[0].stage].shares, dict[tuple[str, ...], list[Job]]()
    for job in jobs:
        found.setdefault(tuple(job.inputs[name].key for name in shares), []).append(job)
    return list(found.values())


def run_jobs(jobs: Sequence[Job], root: Path, seed: int) -> None:
    """Run one job, or the jobs of one group in one process, each output appearing by one rename when complete.

    Raises:
        UserError: an input is missing, the disk is full, or what the stage module reports.
    """
    started, where, before = time.time(), machine(), set(sys.modules)
    module = importlib.import_module(jobs[0].module)
    done: set[str] = set()
    with _temporary(jobs, root) as folders:

        def finish(name: str, facts: Mapping[str, Any] | None = None) -> None:
            job = by_name[name]
            _check_closure(jobs, before)
            record = _provenance(job, root, seed, where, started)
            origin.write(folders[job.directory], {**record, "facts": dict(facts or {})})
            _place(folders[job.directory], root / job.directory)
            done.add(name)
            _log_job(job)

        by_name = {job.directory: job for job in jobs}
        if not STAGES[jobs[0].stage].is_pass:
            for job in jobs:
                started = time.time() if done else started
                with _scratch(root, [job]) as scratch:
                    inputs = _inputs(job, root)
                    context = JobContext(seed, where, job.params, inputs, folders[job.directory], scratch=scratch)
                    with failures.noted(root, job.name) if job.stage == "fetch" else contextlib.nullcontext():
                        facts = module.run(context)
                    finish(job.directory, facts)
            return
        for part in _passes(jobs):
            items = {job.directory: Item(job.params, _inputs(job, root), folders[job.directory]) for job in part}
            with _scratch(root, part) as scratch:
                module.run(JobContext(seed, where, items=items, finish=finish, scratch=scratch))
        if left := sorted(by_name.keys() - done):
            raise RuntimeError(f"{jobs[0].module} ended without finishing {', '.join(left)}")


def quiet_threads() -> None:
    """One compute thread a job: the same bytes everywhere, and jobs side by side instead of threads that spin."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(name, "1")
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
