"""Compare two copies of the project output by output: the sha256 of every file that the jobs wrote must be the same."""

from __future__ import annotations

import json
import sys
from pathlib import Path

REPORT = "work/report/"
"""The page shows when and how long jobs ran, so it alone may differ."""


def outputs(folder: Path) -> dict[str, dict[str, str]]:
    """Files with their sha256, by output."""
    found = {}
    for path in sorted(folder.glob("work/*/*/origin.json")):
        record = json.loads(path.read_text(encoding="utf-8"))
        found[path.parent.relative_to(folder).as_posix()] = record["files"]
    return found


def main(first: Path, second: Path) -> int:
    """Print what differs; 1 if anything does that must not."""
    one, other = outputs(first), outputs(second)
    problems = [f"{name}: only one of the runs made it" for name in sorted(one.keys() ^ other.keys())]
    for name in sorted(one.keys() & other.keys()):
        if one[name].keys() != other[name].keys():
            problems.append(f"{name}: other files")
        elif not name.startswith(REPORT):
            problems += [f"{name}/{file}: other bytes" for file, sha in one[name].items() if sha != other[name][file]]
    compared = [file for name in one if not name.startswith(REPORT) for file in one[name]]
    print("\n".join(problems), file=sys.stderr, end="\n" if problems else "")
    print(f"test-slurm: {len(one)} outputs, {len(compared)} files compared, {len(problems)} problems")
    return 1 if problems or not compared else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
