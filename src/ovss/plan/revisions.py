"""The plan of another commit, made by that commit's own code in a temporary worktree."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from ovss.errors import UserError
from ovss.plan.plan import load_plan
from ovss.plan.show import as_json


def plan_at(root: Path, revision: str | None, scale: str | None) -> dict[str, Any]:
    """Jobs by output directory (stage, name, key, parts, inputs) at a commit; None = the working tree.

    Raises:
        UserError: the revision does not exist or cannot be planned.
    """
    if revision is None:
        return json.loads(as_json(load_plan(root, scale)))["jobs"]
    with tempfile.TemporaryDirectory(prefix="ovss-plan-") as folder:
        tree = Path(folder) / "tree"
        _git(root, revision, "worktree", "add", "--detach", "--quiet", str(tree), revision)
        try:
            command = [sys.executable, "-m", "ovss.cli", "plan", "--json", *(["--scale", scale] if scale else [])]
            environment = {**os.environ, "PYTHONPATH": str(tree / "src"), "PYTHONDONTWRITEBYTECODE": "1"}
            made = subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True, check=False)
        finally:
            _git(root, revision, "worktree", "remove", "--force", str(tree))
    if made.returncode:
        reason = made.stderr.strip().splitlines()[-1:] or ["no message"]
        raise UserError(f"revision {revision}: cannot be planned: {reason[0]}")
    return json.loads(made.stdout)["jobs"]


def _git(root: Path, revision: str, *arguments: str) -> None:
    done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise UserError(f"revision {revision}: {done.stderr.strip().splitlines()[-1]}")
