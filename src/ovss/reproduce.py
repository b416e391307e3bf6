"""``ovss reproduce``: one run at a time, locks of killed runs cleared, then ``dvc repro`` and the summary."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ovss import failures
from ovss.locks import clear_stale_locks, only_run

if TYPE_CHECKING:
    from ovss.plan.plan import Plan

_LAST_RUN = ".snakemake/ovss-last-run.json"
_FILES = ("Snakefile", "params.yaml", "datasets.yaml", "weights.yaml", "dvc.yaml", "dvc.lock", "envs/requirements.lock")
_FOLDERS = ("src/ovss", "rules", "papers", "profiles", "data/manual", "data/checksums", "work", "results")
_UNFINISHED = (
    "ovss: the run did not finish; the messages above and logs/ say why. What is done stays done: "
    "mend it and run the same command again."
)
_INCOMPLETE = (
    "ovss: the results are INCOMPLETE: {} could not be fetched, and the cells that need it are empty. {}/ says why. "
    "Mend it or place the files by hand and run the same command again; it tries them first."
)


def _restore_missing(root: Path, dvc: list[str]) -> None:
    """Bring tracked folders that were deleted as a whole back from the DVC cache, as far as it has them."""
    if not (root / "dvc.lock").is_file():
        return
    from ovss.config.base import read_yaml

    stages = read_yaml(root / "dvc.lock").get("stages", {})
    outs = [out["path"] for stage in stages.values() for out in stage.get("outs", ())]
    if missing := [path for path in outs if path.startswith("work/") and not (root / path).exists()]:
        subprocess.run([*dvc, "checkout", "--quiet", *missing], cwd=root, capture_output=True, check=False)


def fingerprint(root: Path) -> str:
    """Digest of path, size and time of every file that a run reads or makes: equal means that nothing was touched."""
    digest = hashlib.sha256()
    for top in (*_FILES, *_FOLDERS):
        for folder, folders, files in os.walk(root / top) if top in _FOLDERS else [(str(root), [], [top])]:
            folders[:] = sorted(name for name in folders if name != "__pycache__")
            for name in sorted(files):
                path = os.path.join(folder, name)
                if os.path.exists(path):
                    state = os.stat(path)
                    digest.update(f"{path} {state.st_size} {state.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def _last_run(root: Path) -> dict[str, str]:
    try:
        found: dict[str, str] = json.loads((root / _LAST_RUN).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found


def reproduce(root: Path, force_unlock: bool = False) -> int:
    """Run what is missing and print the summary; returns the exit status of the run, 1 where something is left out.

    Where no file was touched since the last run that succeeded, its summary is all there is to do. What could not be
    fetched is tried again first; where that fails, the run goes on without it (``ovss.failures``).
    """
    with only_run(root):
        last = _last_run(root)
        failures.try_again(root)
        if last and last.get("fingerprint") == fingerprint(root):
            print(f"nothing was touched since the last run; nothing to do\n\n{last['summary']}")
            return 0
        clear_stale_locks(root, force_unlock)
        _check_downloads(root)
        dvc = [sys.executable, "-m", "dvc"]
        _restore_missing(root, dvc)
        plan = _run(root, dvc)
        while plan is None and (left_out := failures.go_on_without(root)):
            print(f"ovss: going on without {', '.join(left_out)}, which could not be fetched", file=sys.stderr)
            plan = _run(root, dvc)
        if plan is None:
            print(_UNFINISHED, file=sys.stderr)
            return 1
        text, incomplete = _summary(plan, root), failures.left_out_of(root)
        if not incomplete:
            record = {"fingerprint": fingerprint(root), "summary": text}
            (root / _LAST_RUN).write_text(json.dumps(record), encoding="utf-8")
    print(text)
    if incomplete:
        print(_INCOMPLETE.format(", ".join(sorted(incomplete)), failures.FAILED), file=sys.stderr)
    return int(bool(incomplete))


def _check_downloads(root: Path) -> None:
    from ovss import downloads  # its imports take longer than a run with nothing to do

    downloads.check(root)


def _run(root: Path, dvc: list[str]) -> Plan | None:
    """Run the workflow; its plan when everything is there, else None.

    DVC sees neither files that were placed by hand nor that a server answers again: where it finds nothing to do and
    results are missing, it is told to.
    """
    from ovss.plan.plan import load_plan  # not at the top: where nothing was touched, nothing of it is needed

    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"}
    for force in ([], ["--force"]):
        if subprocess.run([*dvc, "repro", *force], cwd=root, env=environment, check=False).returncode:
            return None
        plan = load_plan(root)
        if all((root / job.done).is_file() for job in (plan.report, *plan.tables.values(), *plan.claims.values())):
            return plan
    return None


def _summary(plan: Plan, root: Path) -> str:
    from ovss.publish import summary

    return summary(plan, root)
