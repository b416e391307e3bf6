"""``ovss verify`` and ``ovss gc``: is every stored byte what its job wrote, and which outputs does nobody need?"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

from ovss import origin
from ovss.config.params import SCALES
from ovss.errors import UserError
from ovss.plan.plan import load_plan
from ovss.plan.revisions import plan_at


def outputs(root: Path) -> list[Path]:
    """Every output directory under work/."""
    return sorted(path for path in (root / "work").glob("*/*.*") if path.is_dir() and ".part-" not in path.name)


def _cache_objects(root: Path) -> list[Path]:
    return sorted(path for path in (root / ".dvc" / "cache" / "files" / "md5").glob("??/*") if path.is_file())


def _md5(path: Path) -> str:
    digest = hashlib.md5(usedforsecurity=False)
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def damaged_cache_objects(root: Path) -> list[Path]:
    """Objects of the DVC cache whose bytes are not those that their name says."""
    return [path for path in _cache_objects(root) if path.parent.name + path.name.removesuffix(".dir") != _md5(path)]


def _dvc(root: Path, *arguments: str) -> bool:
    command = [sys.executable, "-m", "dvc", *arguments, "--quiet"]
    return subprocess.run(command, cwd=root, capture_output=True, check=False).returncode == 0


def _restore(root: Path, directory: Path) -> str:
    """Bring a damaged output back from the DVC cache or the remote; says how, or what else to do."""
    shown = directory.relative_to(root)
    shutil.rmtree(directory)
    for step, words in ((("checkout", "--force"), "the DVC cache"), (("pull", "--force"), "the DVC remote")):
        _dvc(root, *step, str(shown))
        if directory.is_dir() and not list(origin.problems(directory)):
            return f"restored {shown} from {words}"
    shutil.rmtree(directory, ignore_errors=True)
    return f"removed {shown}: neither the DVC cache nor the remote has it; 'make reproduce' makes it again"


def _repair_cache(root: Path, damaged: list[Path]) -> list[str]:
    """Replace damaged cache objects by the same content from work/ or the remote."""
    names = {path.parent.name + path.name: path for path in damaged}
    lines = []
    for path in damaged:
        path.chmod(0o644)
        path.unlink()
    for file in (root / "work").rglob("*"):
        if names and file.is_file() and (found := names.pop(_md5(file), None)):
            shutil.copyfile(file, found)
            lines.append(f"restored {found.relative_to(root)} from {file.relative_to(root)}")
    if names:
        _dvc(root, "fetch")
    for path in names.values():
        shown = path.relative_to(root)
        lines.append(
            f"restored {shown} from the DVC remote"
            if path.is_file()
            else f"removed {shown}: no copy of it is left; 'make reproduce' and 'dvc commit' make it again"
        )
    return lines


def verify(root: Path, repair: bool) -> int:
    """Print every damaged file; with ``repair`` restore it. Returns 1 if damage was found and not repaired."""
    bad = {directory: found for directory in outputs(root) if (found := list(origin.problems(directory)))}
    objects = damaged_cache_objects(root)
    for found in bad.values():
        for problem in found:
            print(problem.replace(f"{root}/", ""))
    for path in objects:
        print(f"{path.relative_to(root)}: its bytes are not those that its name says")
    if not bad and not objects:
        print(f"all {len(outputs(root))} outputs and {len(_cache_objects(root))} cached files are as they were written")
        return 0
    if not repair:
        print("run 'ovss verify --repair' to restore them")
        return 1
    lines = _repair_cache(root, objects) if objects else []
    lines += [_restore(root, directory) for directory in bad]
    print("\n".join(lines))
    return int(any(line.startswith("removed") for line in lines))


def _reachable(root: Path, keep: list[str]) -> set[str]:
    listed = subprocess.run(["git", "-C", str(root), "for-each-ref", "--format=%(refname)", "refs/heads", "refs/tags"],
                            capture_output=True, text=True, check=False)  # fmt: skip
    paths = {path for scale in SCALES for path in load_plan(root, scale).jobs}
    for revision in dict.fromkeys([*keep, *listed.stdout.split()]):
        for scale in SCALES:
            try:
                paths |= plan_at(root, revision, scale).keys()
            except UserError as error:
                if revision in keep:
                    raise
                print(f"gc: {error}; its outputs are not kept", file=sys.stderr)
                break
    return paths


def collect_garbage(root: Path, delete: bool, keep: list[str]) -> str:
    """List (or delete) outputs that neither the working tree, nor a branch or tag, nor ``keep`` names."""
    reachable = _reachable(root, keep)
    garbage = [path for path in outputs(root) if path.relative_to(root).as_posix() not in reachable]
    garbage += sorted((root / "work").glob("*/*.part-*"))
    size = 0
    lines = []
    for path in garbage:
        size += sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
        lines.append(str(path.relative_to(root)))
        if delete:
            shutil.rmtree(path)
    verb = "deleted" if delete else "would be deleted (run with --delete)"
    return "\n".join([*lines, f"{len(garbage)} outputs, {size / 2**20:.1f} MiB, {verb}"])
